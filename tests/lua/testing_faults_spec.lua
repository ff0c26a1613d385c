--- mtenant.testing: scripted errors, operations and outages.

local errors = require "mtenant.errors"
local mtenant = require "mtenant"
local testing = require "mtenant.testing"


local function refuses(pattern, fn, ...)
  local args = table.pack(...)
  local ok, err = pcall(function()
    fn(table.unpack(args, 1, args.n))
  end)
  assert.is_false(ok)
  assert.equal("misuse", err.code)
  assert.truthy(err.message:find(pattern), err.message)
  assert.truthy(err.message:find("testing_faults_spec.lua:%d+: "), err.message)
end


-- code, retryable of an error made of these fields
local function made(fields)
  local err = testing.error(fields)
  assert.is_true(errors.is(err))
  assert.is_string(err.message)
  return { err.code, err.retryable }
end


describe("testing.error", function()
  it("classifies a SQLSTATE as while connecting", function()
    assert.same({ "starting_up", true }, made { sqlstate = "57P03" })
    assert.same({ "too_many_connections", true }, made { sqlstate = "53300" })
    assert.same({ "connection_lost", true }, made { sqlstate = "08006" })
    assert.same({ "connection_lost", true }, made { sqlstate = "57P01" })
    assert.same({ "auth", false }, made { sqlstate = "28P01" })
    assert.same({ "query", false }, made { sqlstate = "3D000" })
    assert.same({ "timeout", false },
                made { sqlstate = "57014", phase = "connect" })
  end)

  it("classifies a SQLSTATE of a statement", function()
    assert.same({ "query", true }, made { sqlstate = "40001" })
    assert.same({ "query", true }, made { sqlstate = "40P01" })
    assert.same({ "query", false }, made { sqlstate = "23505" })
    assert.same({ "cancelled", false }, made { sqlstate = "57014" })
    assert.same({ "query", false }, made { sqlstate = "57P03",
                                           phase = "statement" })
    -- a lost connection whose statement's outcome is known, and one's that
    -- is not
    assert.same({ "connection_lost", true },
                made { sqlstate = "57P01", phase = "statement" })
    assert.same({ "connection_lost", false },
                made { sqlstate = "57P01", phase = "statement",
                       ambiguous = true })
    -- class 08 as a mere error, and what is FATAL
    assert.same({ "query", false },
                made { sqlstate = "08P01", phase = "statement" })
    assert.same({ "connection_lost", true },
                made { sqlstate = "57P05", severity = "FATAL" })
  end)

  it("classifies an errno", function()
    assert.same({ "refused", true }, made { errno = "ECONNREFUSED" })
    assert.same({ "unreachable", true }, made { errno = "EHOSTUNREACH" })
    assert.same({ "connection_lost", true }, made { errno = "ECONNRESET" })
    assert.same({ "unreachable", false }, made { errno = "ENOENT" })
    assert.same({ "refused", true }, made { errno = "ENOENT", unix = true })
  end)

  it("knows what is usual for a code", function()
    assert.same({ "refused", true }, made "refused")
    assert.same({ "auth", false }, made { code = "auth" })
    assert.same({ "timeout", true }, made { code = "timeout" })
    assert.same({ "timeout", false },
                made { code = "timeout", phase = "statement" })
    assert.equal("57P03", testing.error("starting_up").sqlstate)
    assert.equal("53300", testing.error("too_many_connections").sqlstate)
  end)

  it("takes the other fields as they are", function()
    local err = testing.error {
      sqlstate = "23505", message = "duplicate", detail = "why",
      tenant_id = "acme", server = "db:5432", retryable = true,
    }
    assert.equal("duplicate", err.message)
    assert.equal("why", err.detail)
    assert.equal("acme", err.tenant_id)
    assert.equal("db:5432", err.server)
    assert.is_true(err.retryable)
    assert.equal(err, testing.error(err))
  end)

  it("refuses what is none", function()
    refuses("fields must be a table", testing.error, 1)
    refuses("code, sqlstate or errno", testing.error, {})
    refuses("unknown error code", testing.error, "nope")
    refuses("unknown errno", testing.error, { errno = "ENOPE" })
    refuses("five letters", testing.error, { sqlstate = "1" })
    refuses("phase must be", testing.error, { code = "dns", phase = "x" })
    refuses("unknown error field", testing.error, { code = "dns", nope = 1 })
  end)
end)


describe("testing.operation", function()
  it("fails, raises, returns and waits by its script", function()
    testing.run(function(clock)
      local foreign = { code = "EAI_AGAIN" }
      local op = testing.operation {
        { err = { code = "dns" } },
        { err = "ECONNRESET" },
        { raw = foreign },
        { raise = { code = "refused" }, delay_ms = 30 },
        function(attempt) return "attempt " .. attempt, "ignored" end,
        { result = false },
        {},
      }
      local value, err = op(1)
      assert.is_nil(value)
      assert.equal("dns", err.code)
      assert.same({ nil, "ECONNRESET" }, { op(2) })
      assert.equal(foreign, select(2, op(3)))
      local ok, raised = pcall(op, 4)
      assert.is_false(ok)
      assert.equal("refused", raised.code)
      assert.equal(30, clock:now())
      assert.equal("attempt 5", (op(5)))
      assert.is_false((op(6)))
      assert.is_nil((op(7)))
      assert.equal(7, op.count)
      assert.same({ n = 4, attempt = 4, at_ms = 0, ended_ms = 30,
                    err = raised }, op.calls[4])
      assert.equal("attempt 5", op.calls[5].result)
      assert.same({ 0, 0, 0, 0, 30, 30, 30 }, op:times())
      assert.same({ 0, 0, 0, 0, 0, 0 }, op:delays())
    end)
  end)

  it("makes a fresh error object at each call", function()
    local op = testing.operation { otherwise = { err = { code = "dns" } } }
    local _, one = op()
    local _, two = op()
    assert.are_not.equal(one, two)
    local shared = errors.new("dns", "the same")
    op = testing.operation { otherwise = { err = shared } }
    assert.equal(shared, select(2, op()))
  end)

  it("says so when its script is at its end, and stops a retry", function()
    testing.run(function()
      local op = testing.operation { { err = { code = "refused" } } }
      local _, err = mtenant.with_retry(op, { max_attempts = 10 })
      assert.equal("misuse", err.code)
      assert.truthy(err.message:find("call 2 of a script of 1 steps"))
      assert.equal(2, op.count)
    end)
  end)

  it("ends its wait when its task is cancelled", function()
    testing.run(function(clock)
      local op = testing.operation { { result = 1, delay_ms = 1000 } }
      local _, err = mtenant.with_deadline(10, function() return op(1) end)
      assert.equal("timeout", err.code)
      assert.equal(10, clock:now())
    end)
  end)

  it("keeps as many calls as it is told to", function()
    local op = testing.operation { keep = 2, otherwise = {} }
    for i = 1, 5 do op(i) end
    assert.equal(5, op.count)
    assert.same({ 4, 5 }, { op.calls[1].n, op.calls[2].n })
    assert.equal(2, #op.calls)
  end)

  it("refuses a wrong script", function()
    refuses("must be a table", testing.operation, 1)
    refuses("unknown option steps", testing.operation, { steps = {} })
    refuses("step 2 must be a table", testing.operation, { {}, 1 })
    refuses("step 1 has no field error", testing.operation, { { error = 1 } })
    refuses("unknown error code nope", testing.operation,
            { { err = { code = "nope" } } })
    refuses("otherwise%.delay_ms", testing.operation,
            { otherwise = { delay_ms = -1 } })
    refuses("is no outage", testing.operation, { outages = { {} } })
    refuses("keep must be", testing.operation, { keep = 1.5 })
  end)
end)


describe("testing.outage", function()
  it("is on from one time to another", function()
    local once = testing.outage { from_ms = 100, to_ms = 200 }
    local seen = {}
    for _, at in ipairs { 0, 99.9, 100, 199, 200, 1e9 } do
      seen[#seen + 1] = once:is_on(at)
    end
    assert.same({ false, false, true, true, false, false }, seen)
    local forever = testing.outage()
    assert.is_true(forever:is_on(0))
    assert.is_true(forever:is_on(1e12))
    local again = testing.outage { from_ms = 10, to_ms = 20, every_ms = 100 }
    assert.is_false(again:is_on(5))
    assert.is_true(again:is_on(10))
    assert.is_false(again:is_on(20))
    assert.is_true(again:is_on(1019))
  end)

  it("strikes an operation while it is on", function()
    testing.run(function(clock)
      local outage = testing.outage { to_ms = 5000, delay_ms = 10,
                                      err = { errno = "EHOSTUNREACH" } }
      local op = testing.operation { otherwise = { result = "up" },
                                     outages = { outage } }
      local done = assert(mtenant.with_retry(op, {
        max_attempts = 100, jitter = false, max_delay_ms = 1000,
      }))
      assert.equal("up", done.result)
      assert.equal("unreachable", op.calls[1].err.code)
      assert.is_true(clock:now() >= 5000 and clock:now() < 6000)
      assert.equal(10, op.calls[1].ended_ms)
    end)
  end)

  it("guards any function", function()
    testing.run(function()
      local outage = testing.outage { from_ms = 100, to_ms = 200 }
      local fn = outage:guard(function(...) return select("#", ...), ... end)
      assert.same({ 2, "a", "b" }, { fn("a", "b") })
      mtenant.sleep(150)
      local value, err = fn("a")
      assert.is_nil(value)
      assert.equal("refused", err.code)
      mtenant.sleep(50)
      assert.equal(1, (fn("a")))
    end)
  end)

  it("refuses times that are none", function()
    refuses("to_ms must be greater", testing.outage,
            { from_ms = 5, to_ms = 5 })
    refuses("every_ms needs to_ms", testing.outage, { every_ms = 5 })
    refuses("unknown option", testing.outage, { form_ms = 1 })
    refuses("unknown error code", testing.outage, { err = { code = "x" } })
    refuses("op must be a function", testing.outage().guard,
            testing.outage(), 1)
  end)
end)
