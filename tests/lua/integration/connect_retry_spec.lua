--- get_db_async while the server is not there: tries, delays, callbacks.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local DOWN = "postgresql://mtenant@127.0.0.1:1/mtenant" -- nobody listens there


local function down(retry, more)
  local overrides = { connection = { url = DOWN, retry = retry },
                      breaker = { initial_delay_ms = 0 } } -- no pause of its own
  for key, value in pairs(more or {}) do overrides[key] = value end
  return env.manager(overrides)
end


describe("get_db_async", function()
  local server

  setup(function()
    server = env.start({ tcp = true })
    env.tenants({ "acme" }, server)
  end)
  teardown(function() env.close(server) end)
  after_each(env.assert_nothing_left)

  for _, tcp in ipairs({ true, false }) do
    it("waits for a server that comes up a second later, over "
       .. (tcp and "TCP" or "a unix socket"), env.in_task(function()
      server:stop("fast")
      finally(function() server:start() end)
      local seen = {}
      local manager = env.manager({ connection = {
        url = tcp and server.url
          or ("postgresql://mtenant@/mtenant?host=%s&port=%d"):format(
            server.dir, server.port),
        retry = {
          max_attempts = 20, max_delay_ms = 500,
          on_retry = function(attempt, err, delay_ms, info)
            seen[#seen + 1] = {
              attempt = attempt, err = err, delay_ms = delay_ms, info = info,
              at = mtenant.now_ms(),
            }
          end,
        },
      } }, server)
      local started = mtenant.now_ms()
      server:start_in_background(1000)
      local db = assert(manager:get_db_async("acme"))
      local took = mtenant.now_ms() - started
      assert.equal("t_acme", db:value("SELECT current_schema()"))
      assert.is_true(took >= 1000, "took " .. took)
      assert.is_true(#seen >= 3 and #seen <= 19, #seen .. " retries")
      for i, try in ipairs(seen) do
        assert.equal(i, try.attempt)
        assert.is_true(try.err.code == "refused" or try.err.code == "starting_up",
                       tostring(try.err))
        assert.is_true(try.err.retryable)
        assert.is_false(try.err.ambiguous)
        assert.equal("acme", try.info.tenant_id)
        assert.equal(20, try.info.max_attempts)
        assert.is_truthy(try.info.server:find(tostring(server.port), 1, true))
        local base = math.min(100 * 2 ^ (i - 1), 500)
        assert.is_true(try.delay_ms >= base and try.delay_ms < base * 1.25,
                       ("delay %d was %s"):format(i, try.delay_ms))
        assert.is_true(math.abs(try.info.elapsed_ms - (try.at - started)) < 300)
        local next_at = seen[i + 1] and seen[i + 1].at
        if next_at then -- it really waited that long
          local gap = next_at - try.at
          assert.is_true(gap >= try.delay_ms - 1 and gap < try.delay_ms + 400,
                         ("gap %d: %.1f for %d"):format(i, gap, try.delay_ms))
        end
      end
    end))
  end

  it("gives up after max_attempts, with the last error", env.in_task(function()
    local calls = 0
    local manager = down({
      max_attempts = 4, initial_delay_ms = 5, max_delay_ms = 10,
      on_retry = function() calls = calls + 1 end,
    })
    local db, err = manager:get_db_async("acme")
    assert.is_nil(db)
    assert.equal("refused", err.code)
    assert.equal(4, err.attempts)
    assert.equal(3, calls)
    assert.is_truthy(err.message:find("127.0.0.1", 1, true))
    assert.equal("acme", err.tenant_id)
    assert.is_true(mtenant.is_retryable_error(err))
    assert.equal(4, manager:get_stats().connect_failures)
  end))

  it("by default tries three times, 100 and 200 ms apart", env.in_task(function()
    local delays = {}
    local manager = down({
      on_retry = function(_, _, delay_ms) delays[#delays + 1] = delay_ms end,
    })
    local started = mtenant.now_ms()
    local _, err = manager:get_db_async("acme")
    local took = mtenant.now_ms() - started
    assert.equal(3, err.attempts)
    assert.equal(2, #delays)
    assert.is_true(delays[1] >= 100 and delays[1] < 125)
    assert.is_true(delays[2] >= 200 and delays[2] < 250)
    assert.is_true(took >= 300 and took < 1500, "took " .. took)
  end))

  it("shares its tries among all who ask for the same tenant", env.in_task(
    function()
      local calls = {}
      local manager = down({
        max_attempts = 4, initial_delay_ms = 20, max_delay_ms = 20,
        on_retry = function(attempt) calls[#calls + 1] = attempt end,
      })
      local errs = {}
      local tasks = {}
      for i = 1, 50 do
        tasks[i] = mtenant.spawn(function()
          if i > 25 then mtenant.sleep(30) end -- they join later
          local _, err = manager:get_db_async("acme")
          errs[i] = err
        end)
      end
      for i = 1, 50 do tasks[i]:await() end
      assert.same({ 1, 2, 3 }, calls)
      assert.equal(4, manager:get_stats().connect_failures)
      for i = 1, 50 do
        assert.equal("refused", errs[i].code)
        assert.equal(4, errs[i].attempts)
      end
      local _, err = manager:get_db_async("acme") -- starts afresh
      assert.equal(4, err.attempts)
      assert.equal(6, #calls)
    end))

  it("goes on for the others when one of them stops waiting", env.in_task(
    function()
      local manager = down({
        max_attempts = 3, initial_delay_ms = 60, max_delay_ms = 60,
      })
      local patient = mtenant.spawn(manager.get_db_async, manager, "acme")
      local _, err = mtenant.with_deadline(20, manager.get_db_async, manager, "acme")
      assert.equal("timeout", err.code)
      _, err = patient:await()
      assert.equal("refused", err.code)
      assert.equal(3, err.attempts)
    end))

  it("lets on_retry change the delay, or stop", env.in_task(function()
    local answer, at, delays
    local manager = down({
      max_attempts = 3, initial_delay_ms = 1000, max_delay_ms = 1000,
      on_retry = function(_, _, delay_ms)
        at[#at + 1], delays[#delays + 1] = mtenant.now_ms(), delay_ms
        return answer
      end,
    })
    at, delays, answer = {}, {}, 30
    local started = mtenant.now_ms()
    local _, err = manager:get_db_async("acme")
    assert.equal(3, err.attempts)
    assert.is_true(mtenant.now_ms() - started < 500)
    assert.is_true(at[2] - at[1] >= 29)
    assert.is_true(delays[2] >= 1000) -- what it would have been
    at, delays, answer = {}, {}, false
    _, err = manager:get_db_async("acme")
    assert.equal(1, err.attempts)
    assert.equal("refused", err.code)
    assert.equal(1, #at)
    at, delays, answer = {}, {}, 0
    started = mtenant.now_ms()
    _, err = manager:get_db_async("acme")
    assert.equal(3, err.attempts)
    assert.is_true(mtenant.now_ms() - started < 200)
  end))

  it("is not changed by an on_retry that raises or answers nonsense",
     env.in_task(function()
    for _, callback in ipairs({
      function() error("in on_retry") end,
      function() error({}) end,
      function() mtenant.sleep(1) end,
      function() return "soon" end,
      function() return 0 / 0 end,
      function() return {} end,
      function() return true end,
      function() return -5 end,
      function() return math.huge end,
    }) do
      local manager = down({
        max_attempts = 2, initial_delay_ms = 10, max_delay_ms = 10,
        on_retry = callback,
      })
      local err
      local said = env.stderr_of(function()
        local _
        _, err = mtenant.with_deadline(2000, manager.get_db_async, manager, "acme")
      end)
      assert.equal("refused", err.code)
      assert.equal(2, err.attempts)
      if said ~= "" then assert.is_truthy(said:find("on_retry", 1, true), said) end
      manager:dispose()
    end
  end))

  it("asks is_retryable what is worth another try", env.in_task(function()
    local asked = {}
    local manager = down({
      max_attempts = 3, initial_delay_ms = 5, max_delay_ms = 5,
      is_retryable = function(err)
        asked[#asked + 1] = err.code
        return false
      end,
    })
    local _, err = manager:get_db_async("acme")
    assert.equal(1, err.attempts)
    assert.same({ "refused" }, asked)
    manager = env.manager({ connection = { retry = {
      max_attempts = 3, initial_delay_ms = 5, max_delay_ms = 5,
      is_retryable = function() return true end,
    } } })
    _, err = manager:get_db_async("nowhere")
    assert.equal("tenant_not_found", err.code)
    assert.equal(3, err.attempts)
    manager = down({
      max_attempts = 2, initial_delay_ms = 5, max_delay_ms = 5,
      is_retryable = function() error("in is_retryable") end,
    })
    local said = env.stderr_of(function() _, err = manager:get_db_async("acme") end)
    assert.equal(2, err.attempts)
    assert.is_truthy(said:find("is_retryable", 1, true))
  end))

  it("obeys deadline_ms of the retry", env.in_task(function()
    local manager = down({
      max_attempts = 1000, initial_delay_ms = 20, max_delay_ms = 20,
      deadline_ms = 150,
    })
    local started = mtenant.now_ms()
    local _, err = manager:get_db_async("acme")
    local took = mtenant.now_ms() - started
    assert.equal("refused", err.code)
    assert.is_true(err.attempts > 2 and err.attempts < 10)
    assert.is_true(took < 400, "took " .. took)
  end))

  it("has a sibling for the shared schema, which is called shared", env.in_task(
    function()
      local seen = {}
      local manager = down({
        max_attempts = 2, initial_delay_ms = 5, max_delay_ms = 5,
        on_retry = function(_, _, _, info) seen[#seen + 1] = info.tenant_id end,
      })
      local db, err = manager:get_shared_db_async()
      assert.is_nil(db)
      assert.equal("refused", err.code)
      assert.equal(2, err.attempts)
      assert.equal("shared", err.tenant_id)
      assert.same({ "shared" }, seen)
    end))

  it("does not repeat what is final", env.in_task(function()
    local calls = 0
    local manager = env.manager({ connection = { retry = {
      on_retry = function() calls = calls + 1 end,
    } } })
    local _, err = manager:get_db_async("nowhere")
    assert.equal("tenant_not_found", err.code)
    assert.equal(1, err.attempts)
    assert.equal(0, calls)
  end))

  it("logs its tries and its success when debug is on", env.in_task(function()
    server:stop("fast")
    finally(function() server:start() end)
    local lines, contexts = {}, {}
    local manager = env.manager({
      connection = { retry = { max_attempts = 50, initial_delay_ms = 20,
                               max_delay_ms = 50, jitter = false } },
      debug = { enabled = true, logger = function(message, context)
        lines[#lines + 1], contexts[#contexts + 1] = message, context
      end },
    }, server)
    server:start_in_background(50)
    local db = assert(manager:get_db_async("acme"))
    assert.equal(1, db:value("SELECT 1 -- here\n"))
    local text = table.concat(lines, "\n")
    assert.is_truthy(lines[1]:find(
      "^%[mtenant%] tenant=acme POOL_CREATED schema=t_acme$"), text)
    assert.is_truthy(lines[2]:find("^%[mtenant%] tenant=acme CONNECTION_RETRY "
      .. "attempt=1/50 delay=20ms error=\".+\"$"), text)
    assert.equal("connection_retry", contexts[2].type)
    assert.is_truthy(text:find("CONNECTION_SUCCESS attempts=%d+ totalTime=%d+ms"),
                     text)
    assert.is_truthy(text:find('query="SELECT 1 %-%- here" duration=%d+ms'), text)
    manager:evict_pool("acme")
    assert.is_truthy(lines[#lines]:find("POOL_EVICTED schema=t_acme reason=manual",
                                        1, true))
  end))

  it("pings a new entry, and again only after a loss", env.in_task(function()
    env.tenants({ "acme" })
    local manager = env.manager({ connection = { max_connections = 1 } })
    local db = assert(manager:get_db_async("acme"))
    local before = manager:get_stats().requests
    for _ = 1, 5 do assert(manager:get_db_async("acme")) end
    assert.equal(before, manager:get_stats().requests)
    env.sql("SELECT pg_terminate_backend(" .. db:value("SELECT pg_backend_pid()")
      .. ")")
    env.eventually("the loss", function() return manager:get_stats().lost == 1 end)
    before = manager:get_stats().requests
    assert(manager:get_db_async("acme"))
    assert.is_true(manager:get_stats().requests > before)
  end))
end)


describe("drizzle-multitenant's example of a retry configuration", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(env.assert_nothing_left)

  it("works as it is written in Lua", env.in_task(function()
    local retried = {}
    local config = mtenant.define_config({
      connection = {
        url = env.server().url,
        pool = { max = 10, idle_timeout_ms = 30000 },
        application_name = env.APPLICATION,
        retry = {
          max_attempts = 5,
          initial_delay_ms = 100,
          max_delay_ms = 5000,
          backoff_multiplier = 2,
          jitter = true,
          on_retry = function(attempt, err, delay)
            retried[#retried + 1] = ("Retry %d: %s, waiting %dms"):format(
              attempt, err.message, delay)
          end,
        },
      },
      isolation = {
        strategy = "schema",
        schema_name_template = function(tenant_id) return "t_" .. tenant_id end,
        max_pools = 50,
        pool_ttl_ms = 60 * 60 * 1000,
      },
      schemas = { tenant = {} },
    })
    local tenants = assert(mtenant.create_tenant_manager(config))
    local db = assert(tenants:get_db_async("acme"))
    assert.equal("t_acme", db:value("SELECT current_schema()"))
    assert.same({}, retried)
    local retry = tenants:get_retry_config()
    assert.equal(5, retry.max_attempts)
    assert.equal(5000, retry.max_delay_ms)
    local result = assert(mtenant.with_retry(function(attempt)
      if attempt < 3 then return nil, "connect ECONNREFUSED 127.0.0.1:5432" end
      return db:value("SELECT 42")
    end, { max_attempts = 5, initial_delay_ms = 1 }))
    assert.equal(42, result.result)
    assert.equal(3, result.attempts)
    tenants:dispose()
  end))
end)
