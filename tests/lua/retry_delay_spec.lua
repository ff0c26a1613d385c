--- retry.lua: how long to wait, and which errors are worth it.

local errors = require "mtenant.errors"
local retry = require "mtenant.retry"

local NAN, INF = 0 / 0, math.huge


-- The Park-Miller sequence, the same at every run.
local function sequence()
  local seed = 42
  return function()
    seed = seed * 16807 % 2147483647
    return seed / 2147483647
  end
end


local function api_with(unit)
  return retry.new({ random = function() return unit end })
end


local refused = errors.new("refused", "connection refused")


describe("pure_delay", function()
  local function delays(policy, count, u)
    local out = {}
    for attempt = 0, count - 1 do
      out[#out + 1] = retry.pure_delay(policy, attempt, u or 0.5, out[#out])
    end
    return out
  end

  local function policy(jitter, initial, max, multiplier)
    return {
      initial_delay_ms = initial or 100, max_delay_ms = max or 5000,
      backoff_multiplier = multiplier or 2, jitter = jitter,
    }
  end

  it("doubles up to the cap without jitter", function()
    assert.same({ 100, 200, 400, 800, 1600, 3200, 5000, 5000 },
                delays(policy(false), 8))
    assert.same({ 10, 15, 22, 33 }, delays(policy(false, 10, 100, 1.5), 4))
  end)

  it("adds up to a quarter after the cap with jitter", function()
    assert.same({ 100, 200 }, delays(policy(true), 2, 0))
    assert.same({ 112, 225, 450 }, delays(policy(true), 3, 0.5))
    assert.equal(6249, retry.pure_delay(policy(true), 20, 0.99999))
  end)

  it("knows full, equal and decorrelated jitter", function()
    assert.same({ 50, 100, 200 }, delays(policy("full"), 3))
    assert.same({ 75, 150, 300 }, delays(policy("equal"), 3))
    -- from initial to three times the last: 100, then 100..300, 100..600
    assert.same({ 100, 200, 350, 575 }, delays(policy("decorrelated"), 4))
    assert.equal(100, retry.pure_delay(policy("decorrelated"), 5, 0, 4000))
    assert.equal(5000, retry.pure_delay(policy("decorrelated"), 5, 0.9, 4000))
    assert.equal(0, retry.pure_delay(policy("full"), 3, 0))
  end)

  it("gives the cap for what overflows", function()
    for _, attempt in ipairs { 1024, 100000, 1e300 } do
      assert.equal(5000, retry.pure_delay(policy(false), attempt, 0))
      assert.equal(5000, retry.pure_delay(policy(false, 0), attempt, 0))
      assert.equal(5000, retry.pure_delay(policy(true), attempt, 0))
    end
    assert.equal(9007199254740991,
                 retry.pure_delay(policy(true, 1e300, 1e300), 0, 0.9))
  end)

  it("is always a whole number within its limits", function()
    local random = sequence()
    for _, jitter in ipairs { true, false, "full", "equal", "decorrelated" } do
      local limit = jitter == true and 5000 * 1.25 or 5000
      local previous = 0
      for i = 1, 2000 do
        local d = retry.pure_delay(policy(jitter), i % 12, random(),
                                   previous)
        assert.equal(d, math.floor(d))
        assert.is_true(d >= 0 and d <= limit, tostring(jitter))
        previous = d
      end
    end
  end)

  it("spreads", function()
    local random, seen, count = sequence(), {}, 0
    for _ = 1, 200 do
      local d = retry.pure_delay(policy("full"), 6, random())
      if not seen[d] then count = count + 1 end
      seen[d] = true
    end
    assert.is_true(count > 150)
  end)
end)


describe("calculate_delay", function()
  it("counts attempts from 0 and knows the defaults", function()
    local api = api_with(0)
    assert.equal(100, api.calculate_delay(0))
    assert.equal(200, api.calculate_delay(1, {}))
    assert.equal(400, api.calculate_delay(2, { jitter = false }))
    assert.equal(5000, api.calculate_delay(60, { jitter = false }))
    assert.equal(125, api_with(0.9999999).calculate_delay(0) + 1)
  end)

  it("spreads with decorrelated jitter, though it has no history", function()
    local api = api_with(0.5)
    assert.equal(100, api.calculate_delay(0, { jitter = "decorrelated" }))
    assert.equal(200, api.calculate_delay(1, { jitter = "decorrelated" }))
    assert.equal(350, api.calculate_delay(2, { jitter = "decorrelated" }))
  end)

  it("asks the host's formula", function()
    local got
    local api = retry.new({
      random = function() return 0.25 end,
      delay = function(policy, attempt, u, previous_ms)
        got = { policy.jitter, attempt, u, previous_ms }
        return 7
      end,
    })
    assert.equal(7, api.calculate_delay(1, { jitter = "full" }))
    assert.same({ "full", 1, 0.25, 100 }, got)
  end)

  it("refuses attempts that are none, at the caller", function()
    local api = api_with(0.5)
    for _, attempt in ipairs { -1, 0.5, NAN, INF, "1", {} } do
      local _, err = pcall(function()
        local d = api.calculate_delay(attempt); return d
      end)
      assert.is_true(errors.is(err, "misuse"))
      assert.matches("retry_delay_spec.lua:%d+: calculate_delay: attempt " ..
                     "must be an integer >= 0$", err.message)
    end
    assert.has_error(function() api.calculate_delay(nil) end)
  end)
end)


describe("is_retryable_error", function()
  local is_retryable = api_with(0.5).is_retryable_error

  it("asks an error object what it knows, not its text", function()
    assert.is_true(is_retryable(refused))
    assert.is_false(is_retryable(errors.new("auth", "connection refused")))
    assert.is_true(is_retryable(errors.new("auth", "x", { retryable = true })))
    assert.is_false(is_retryable(errors.new("refused", "ECONNREFUSED",
                                            { retryable = false })))
  end)

  it("knows transactions that were rolled back for another's sake", function()
    for _, sqlstate in ipairs { "40001", "40P01" } do
      assert.is_true(is_retryable(errors.new("query", "x",
                                             { sqlstate = sqlstate })))
    end
    assert.is_false(is_retryable(errors.new("query", "x",
                                            { sqlstate = "42P01" })))
  end)

  it("never says yes to cancelled, disposed, misuse or what is ambiguous",
     function()
    for _, code in ipairs { "cancelled", "disposed", "misuse" } do
      assert.is_false(is_retryable(errors.new(code, "x",
                                              { retryable = true })))
    end
    assert.is_false(is_retryable(errors.new("connection_lost", "x",
                                            { ambiguous = true })))
  end)

  it("knows the texts of drizzle-multitenant", function()
    for _, text in ipairs {
      "connect ECONNREFUSED 127.0.0.1:5432", "read ECONNRESET",
      "connect ETIMEDOUT", "getaddrinfo ENOTFOUND db",
      "Connection refused", "connection reset by peer",
      "Connection terminated unexpectedly", "connection timed out",
      "timeout expired", "socket hang up", "too many connections for role",
      "sorry, too many clients already",
      "FATAL: the database system is starting up",
      "the database system is shutting down",
      "server closed the connection unexpectedly",
      "could not connect to server: x", "SSL connection has been closed",
      "SSL handshake failed",
    } do
      assert.is_true(is_retryable(text), text)
      assert.is_true(is_retryable({ message = text }), text)
    end
  end)

  it("knows what it missed", function()
    for _, text in ipairs {
      "the database system is not yet accepting connections",
      "the database system is in recovery mode",
      "remaining connection slots are reserved for superuser",
    } do
      assert.is_true(is_retryable(text), text)
    end
    assert.is_true(is_retryable({ code = "ECONNREFUSED", message = "" }))
    assert.is_true(is_retryable({ code = "EPIPE" }))
    assert.is_true(is_retryable({ code = "40001", message = "serialize" }))
    assert.is_true(is_retryable({ sqlstate = "40P01", message = "deadlock" }))
  end)

  it("says no to everything else", function()
    for _, err in ipairs {
      "The server does not support SSL connections",
      "server does not support SSL, but SSL was required",
      "syntax error", 'relation "x" does not exist',
      "password authentication failed", "", 5, true, {}, print,
      { code = "42P01", message = "no table" }, { code = 7 },
      { message = 5 },
      { message = "The server does not support SSL connections" },
      setmetatable({}, { __tostring = function() error("no") end }),
    } do
      assert.is_false(is_retryable(err), tostring(type(err)))
    end
    assert.is_false(is_retryable(nil))
    assert.is_false(is_retryable(false))
  end)

  it("reads objects that print themselves", function()
    local err = setmetatable({}, {
      __tostring = function() return "connect ECONNREFUSED" end,
    })
    assert.is_true(is_retryable(err))
  end)
end)
