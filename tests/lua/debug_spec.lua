--- debug.lua: lines and contexts verbatim, switches, loggers that raise.

local debug_log = require "mtenant.debug"
local errors = require "mtenant.errors"


-- A debug log that collects; opts are its options.
local function collecting(opts)
  local lines, contexts = {}, {}
  opts = opts or {}
  if opts.enabled == nil then opts.enabled = true end
  opts.logger = function(message, context)
    lines[#lines + 1] = message
    contexts[#contexts + 1] = context
  end
  return debug_log.new(opts), lines, contexts
end


-- What one event gives: its line and its context.
local function logged(ev, opts)
  local log, lines, contexts = collecting(opts)
  log:event(ev)
  assert.is_true(#lines <= 1)
  return lines[1], contexts[1]
end


local EVENTS = {
  { kind = "query", tenant_id = "acme", query = "select 1", duration_ms = 4 },
  { kind = "pool_created", tenant_id = "acme", schema = "t_acme" },
  { kind = "pool_evicted", tenant_id = "acme", schema = "t_acme" },
  { kind = "pool_error", tenant_id = "acme", error = "x" },
  { kind = "warmup", tenant_id = "acme", status = "success",
    duration_ms = 1 },
  { kind = "connection_retry", tenant_id = "acme", error = "x", attempt = 1,
    max_attempts = 3, delay_ms = 100 },
  { kind = "connection_success", tenant_id = "acme", attempt = 2,
    total_time_ms = 5 },
}


describe("lines and contexts", function()
  local function check(ev, line, context, opts)
    local got_line, got_context = logged(ev, opts)
    assert.equal(line, got_line)
    assert.same(context, got_context)
  end

  it("of queries", function()
    check({ kind = "query", tenant_id = "acme", query = "select 1",
            duration_ms = 45.2 },
          '[mtenant] tenant=acme query="select 1" duration=45ms',
          { type = "query", tenant_id = "acme", query = "select 1",
            duration_ms = 45.2 })
    check({ kind = "query", tenant_id = "acme", query = "select 1",
            duration_ms = 1000 },
          '[mtenant] tenant=acme SLOW_QUERY duration=1000ms query="select 1"',
          { type = "slow_query", tenant_id = "acme", query = "select 1",
            duration_ms = 1000 })
    check({ kind = "slow_query", tenant_id = "acme", query = "select 1",
            duration_ms = 1 },
          '[mtenant] tenant=acme SLOW_QUERY duration=1ms query="select 1"',
          { type = "slow_query", tenant_id = "acme", query = "select 1",
            duration_ms = 1 })
  end)

  it("of pools", function()
    check({ kind = "pool_created", tenant_id = "acme", schema = "t_acme" },
          "[mtenant] tenant=acme POOL_CREATED schema=t_acme",
          { type = "pool_created", tenant_id = "acme",
            schema_name = "t_acme" })
    for _, reason in ipairs { "lru_eviction", "ttl_expired", "manual",
                              "error" } do
      check({ kind = "pool_evicted", tenant_id = "acme", schema = "t_acme",
              reason = reason },
            "[mtenant] tenant=acme POOL_EVICTED schema=t_acme reason=" ..
            reason,
            { type = "pool_evicted", tenant_id = "acme",
              schema_name = "t_acme", metadata = { reason = reason } })
    end
    check({ kind = "pool_evicted", tenant_id = "acme", schema = "t_acme" },
          "[mtenant] tenant=acme POOL_EVICTED schema=t_acme",
          { type = "pool_evicted", tenant_id = "acme",
            schema_name = "t_acme" })
    for _, err in ipairs { "went away",
                           errors.new("connection_lost", "went away") } do
      check({ kind = "pool_error", tenant_id = "acme", error = err },
            '[mtenant] tenant=acme POOL_ERROR error="went away"',
            { type = "pool_error", tenant_id = "acme", error = "went away" })
    end
  end)

  it("of warming up", function()
    local function warmup(status, success, already_warm)
      check({ kind = "warmup", tenant_id = "acme", status = status,
              duration_ms = 12 },
            "[mtenant] tenant=acme WARMUP status=" .. status ..
            " duration=12ms",
            { type = "warmup", tenant_id = "acme", duration_ms = 12,
              metadata = { success = success,
                           already_warm = already_warm } })
    end
    warmup("success", true, false)
    warmup("already_warm", true, true)
    warmup("failed", false, false)
  end)

  it("of connecting", function()
    check({ kind = "connection_retry", tenant_id = "acme", attempt = 1,
            max_attempts = 3, delay_ms = 100,
            error = errors.new("refused", "ECONNREFUSED") },
          "[mtenant] tenant=acme CONNECTION_RETRY attempt=1/3 delay=100ms " ..
          'error="ECONNREFUSED"',
          { type = "connection_retry", tenant_id = "acme",
            error = "ECONNREFUSED",
            metadata = { attempt = 1, max_attempts = 3, delay_ms = 100 } })
    check({ kind = "connection_success", tenant_id = "acme", attempt = 3,
            total_time_ms = 312.4 },
          "[mtenant] tenant=acme CONNECTION_SUCCESS attempts=3 " ..
          "totalTime=312ms",
          { type = "connection_success", tenant_id = "acme",
            duration_ms = 312.4, metadata = { attempts = 3 } })
    check({ kind = "connection_success", tenant_id = "acme", attempt = 1,
            total_time_ms = 3 }, nil, nil)
  end)

  it("without a tenant", function()
    assert.equal('[mtenant] POOL_ERROR error="x"',
                 (logged { kind = "pool_error", error = "x" }))
  end)

  it("cannot be broken into more lines", function()
    for _, ev in ipairs(EVENTS) do
      local copy = {}
      for key, value in pairs(ev) do
        copy[key] = value
        if type(value) == "string" and key ~= "kind" then
          copy[key] = value .. "\r\n[mtenant] forged\0\27[2J"
        end
      end
      assert.is_nil((logged(copy):find "%c"))
    end
  end)
end)


describe("switches", function()
  local function kinds(opts)
    local log, _, contexts = collecting(opts)
    local out = {}
    for _, ev in ipairs(EVENTS) do log:event(ev) end
    for _, context in ipairs(contexts) do out[#out + 1] = context.type end
    return out
  end

  it("are off by default", function()
    assert.same({}, kinds { enabled = false })
    assert.is_false(debug_log.new().enabled)
    assert.is_false(debug_log.new():wants("query"))
  end)

  it("are on for everything when enabled", function()
    assert.same({ "query", "pool_created", "pool_evicted", "pool_error",
                  "warmup", "connection_retry", "connection_success" },
                kinds())
  end)

  it("choose queries or pool events", function()
    assert.same({ "query" }, kinds { log_pool_events = false })
    assert.same({ "pool_created", "pool_evicted", "pool_error", "warmup",
                  "connection_retry", "connection_success" },
                kinds { log_queries = false })
  end)

  it("set the threshold", function()
    local function kind(duration_ms, threshold)
      local _, context = logged({ kind = "query", query = "",
                                  duration_ms = duration_ms },
                                { slow_query_threshold_ms = threshold })
      return context.type
    end
    assert.equal("query", kind(999.9))
    assert.equal("slow_query", kind(1000))
    assert.equal("slow_query", kind(5, 5))
    assert.equal("query", kind(4, 5))
    assert.equal("slow_query", kind(0, 0))
  end)

  it("are told by wants", function()
    local log = collecting { log_queries = false }
    assert.is_false(log:wants("query"))
    assert.is_false(log:wants("slow_query"))
    assert.is_true(log:wants("pool_created"))
    assert.is_false(log:wants("no_such_kind"))
  end)

  it("are checked", function()
    local _, err = pcall(function()
      return (debug_log.new { slowQueryThreshold = 5 })
    end)
    assert.matches('debug_spec.lua:%d+: %[mtenant%] unknown option ' ..
                   '"debug.slowQueryThreshold", did you mean ' ..
                   '"slow_query_threshold_ms"%?$', err.message)
  end)
end)


describe("queries", function()
  it("are one line", function()
    assert.equal("select a from t",
                 debug_log.shorten("  select a\n\t from   t\n"))
  end)

  it("are cut to 100 bytes", function()
    local exact = ("x"):rep(100)
    assert.equal(exact, debug_log.shorten(exact))
    assert.equal(("x"):rep(97) .. "...", debug_log.shorten(exact .. "x"))
  end)

  it("are not cut inside a character", function()
    -- the euro sign has three bytes: 96 bytes, then one that does not fit
    local text = ("x"):rep(96) .. ("\226\130\172"):rep(5)
    assert.equal(("x"):rep(96) .. "...", debug_log.shorten(text))
    text = ("x"):rep(94) .. ("\226\130\172"):rep(5)
    assert.equal(("x"):rep(94) .. "\226\130\172...",
                 debug_log.shorten(text))
  end)

  it("never show their parameters", function()
    local line, context = logged {
      kind = "query", tenant_id = "acme", query = "select $1",
      params = { "s3cret" }, duration_ms = 1,
    }
    assert.is_nil(line:find("s3cret", 1, true))
    for _, value in pairs(context) do
      assert.not_equal("table", type(value))
    end
  end)
end)


describe("the logger", function()
  it("may raise, and nothing changes", function()
    local calls = 0
    local log = debug_log.new {
      enabled = true,
      logger = function()
        calls = calls + 1
        error("oops")
      end,
    }
    for _, ev in ipairs(EVENTS) do log:event(ev) end
    assert.equal(#EVENTS, calls)
  end)

  it("is not asked for kinds that nobody knows", function()
    assert.is_nil(logged { kind = "something_else", tenant_id = "acme" })
    assert.is_nil(logged {})
  end)

  it("is stderr by default", function()
    local stderr, written = io.stderr, {}
    rawset(io, "stderr", { write = function(_, ...)
      for _, text in ipairs { ... } do written[#written + 1] = text end
    end })
    debug_log.new({ enabled = true }):event(EVENTS[2])
    rawset(io, "stderr", stderr)
    assert.equal("[mtenant] tenant=acme POOL_CREATED schema=t_acme\n",
                 table.concat(written))
  end)
end)
