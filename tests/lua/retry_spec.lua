--- retry.lua: the retry loop, on a fake clock. Delays and classification are in
-- retry_delay_spec.lua.

local errors = require "mtenant.errors"
local retry = require "mtenant.retry"

local NAN, INF = 0 / 0, math.huge


-- A host whose clock moves only when somebody sleeps. `random` is a seeded
-- sequence, or always the number given.
local function fake(unit)
  local host = { now = 1000, slept = {}, logged = {}, seed = 42 }
  function host.sleep(ms)
    host.slept[#host.slept + 1] = ms
    if host.sleep_error then return nil, host.sleep_error end
    host.now = host.now + ms
    return true
  end
  function host.now_ms() return host.now end
  function host.random()
    if unit then return unit end
    host.seed = host.seed * 16807 % 2147483647
    return host.seed / 2147483647
  end
  function host.log(message) host.logged[#host.logged + 1] = message end
  host.api = retry.new(host)
  return host
end


-- An operation that fails with each of the errors in turn, then succeeds.
local function failing(list, result)
  local op = { calls = 0, attempts = {} }
  op.fn = function(attempt)
    op.calls = op.calls + 1
    op.attempts[op.calls] = attempt
    local err = list[op.calls]
    if err ~= nil then return nil, err end
    return result, "second result"
  end
  return op
end


local function always(err)
  local op = { calls = 0 }
  op.fn = function()
    op.calls = op.calls + 1
    return nil, err
  end
  return op
end


local refused = errors.new("refused", "connection refused")


describe("with_retry", function()
  it("returns at once what works at once", function()
    local host = fake()
    local op = failing({}, "value")
    assert.same({ result = "value", attempts = 1, total_time_ms = 0 },
                host.api.with_retry(op.fn))
    assert.same({}, host.slept)
  end)

  it("waits 100 and 200 ms by default, and counts from 1", function()
    local host = fake(0)
    local op = failing({ refused, refused }, "value")
    assert.same({ result = "value", attempts = 3, total_time_ms = 300 },
                host.api.with_retry(op.fn))
    assert.same({ 100, 200 }, host.slept)
    assert.same({ 1, 2, 3 }, op.attempts)
    host = fake()
    op = failing({ refused, refused }, "value")
    host.api.with_retry(op.fn, { jitter = false })
    assert.same({ 100, 200 }, host.slept)
  end)

  it("never waits more than a quarter above the cap", function()
    local host = fake()
    local result, err = host.api.with_retry(always(refused).fn,
                                            { max_attempts = 500 })
    assert.is_nil(result)
    assert.equal(refused, err)
    assert.equal(499, #host.slept)
    local above = 0
    for _, ms in ipairs(host.slept) do
      assert.is_true(ms <= 6250)
      if ms > 5000 then above = above + 1 end
    end
    assert.is_true(above > 400)
  end)

  it("returns the last error unchanged when the attempts are used up",
     function()
    local host = fake()
    local last = errors.new("refused", "the last")
    local op = failing({ refused, refused, last, refused })
    local result, err = host.api.with_retry(op.fn)
    assert.is_nil(result)
    assert.equal(last, err)
    assert.equal("the last", err.message)
    assert.is_nil(rawget(err, "attempts"))
    assert.equal(3, op.calls)
    assert.equal(2, #host.slept)
  end)

  it("keeps the first result only, and takes nil and false for results",
     function()
    local host = fake()
    local got = host.api.with_retry(function() return nil end)
    assert.same({ attempts = 1, total_time_ms = 0 }, got)
    got = host.api.with_retry(function() return false, "reason" end)
    assert.same({ result = false, attempts = 1, total_time_ms = 0 }, got)
    got = host.api.with_retry(function() end)
    assert.same({ attempts = 1, total_time_ms = 0 }, got)
  end)

  it("takes an error raised like one returned", function()
    local host = fake()
    local calls = 0
    local got = host.api.with_retry(function()
      calls = calls + 1
      if calls == 1 then error(refused) end
      if calls == 2 then error("connect ECONNREFUSED 127.0.0.1", 0) end
      return calls
    end)
    assert.equal(3, got.result)
    local raised = setmetatable({}, { __tostring = function() return "x" end })
    local _, err = host.api.with_retry(function() error(raised) end)
    assert.equal(raised, err)
  end)

  it("does not repeat what is final", function()
    for _, err in ipairs { "syntax error", {}, 5, false,
                           errors.new("query", "no such table"),
                           errors.new("auth", "connection refused") } do
      local host = fake()
      local calls = 0
      local result, got = host.api.with_retry(function()
        calls = calls + 1
        error(err, 0)
      end)
      assert.is_nil(result)
      assert.equal(err, got)
      assert.equal(1, calls)
    end
  end)

  it("has an error to return even when nil was raised", function()
    local result, err = fake().api.with_retry(function() error(nil) end)
    assert.is_nil(result)
    assert.is_truthy(err)
  end)

  it("counts the time of the operation itself", function()
    local host = fake(0)
    local got = host.api.with_retry(function(attempt)
      host.now = host.now + 7
      if attempt == 1 then return nil, refused end
      return true
    end)
    assert.equal(114, got.total_time_ms)
  end)

  it("hands the last delay to the formula", function()
    local previous = {}
    local host = fake()
    host.delay = function(_, attempt, _, previous_ms)
      previous[#previous + 1] = previous_ms
      return (attempt + 1) * 10
    end
    retry.new(host).with_retry(always(refused).fn, { max_attempts = 4 })
    assert.same({ 0, 10, 20 }, previous)
  end)

  it("refuses wrong arguments at the caller", function()
    local api = fake().api
    local CASES = {
      ["retry.max_attempts must be at least 1"] = { max_attempts = 0 },
      ["retry.max_attempts must be an integer"] = { max_attempts = NAN },
      ["retry.initial_delay_ms cannot be greater than max_delay_ms"] =
        { initial_delay_ms = 6000 },
      ['unknown option "retry.maxAttempts", did you mean "max_attempts"?'] =
        { maxAttempts = 3 },
      ["retry must be a table, got number"] = 3,
    }
    for text, config in pairs(CASES) do
      for _, fn in ipairs { api.with_retry, function(_, c)
        local retrier = api.create_retrier(c)
        return retrier
      end } do
        local ok, err = pcall(function()
          local r = fn(print, config); return r
        end)
        assert.is_false(ok)
        assert.matches("^tests/lua/retry_spec.lua:%d+: %[mtenant%] ",
                       err.message)
        assert.equal(text, err.message:match "%[mtenant%] (.*)$")
      end
    end
    local line
    local _, err = pcall(function()
      line = debug.getinfo(1, "l").currentline; api.with_retry("op")
    end)
    assert.equal("tests/lua/retry_spec.lua:" .. line ..
                 ": with_retry: op must be a function, got string",
                 err.message)
  end)
end)


describe("the predicate", function()
  it("replaces the default", function()
    local host = fake()
    local seen = {}
    local op = failing({ "mine", "mine" }, 1)
    local got = host.api.with_retry(op.fn, {
      is_retryable = function(err)
        seen[#seen + 1] = err
        return err == "mine"
      end,
    })
    assert.equal(3, got.attempts)
    assert.same({ "mine", "mine" }, seen)
    op = always(refused)
    host.api.with_retry(op.fn, { is_retryable = function() return nil end })
    assert.equal(1, op.calls)
  end)

  it("is not asked about cancelled, disposed and misuse", function()
    for _, code in ipairs { "cancelled", "disposed", "misuse" } do
      local op = always(errors.new(code, "x", { retryable = true }))
      fake().api.with_retry(op.fn, {
        idempotent = true, is_retryable = function() return true end,
      })
      assert.equal(1, op.calls, code)
    end
  end)

  it("is not asked after the last attempt", function()
    local asked = 0
    fake().api.with_retry(always("x").fn, {
      max_attempts = 2,
      is_retryable = function()
        asked = asked + 1
        return true
      end,
    })
    assert.equal(1, asked)
  end)

  it("that raises is logged and decides nothing", function()
    local host = fake()
    local op = always(refused)
    local _, err = host.api.with_retry(op.fn, {
      is_retryable = function() error("oops", 0) end,
    })
    assert.equal(refused, err)
    assert.equal(3, op.calls)
    assert.equal("is_retryable raised: oops", host.logged[1])
  end)
end)


describe("ambiguous errors", function()
  local lost = errors.new("connection_lost", "gone", { ambiguous = true })
  local function yes() return true end

  it("are only repeated when that is harmless", function()
    local CASES = {
      { nil, 1 },
      { { is_retryable = yes }, 1 },
      { { idempotent = false, is_retryable = yes }, 1 },
      { { idempotent = true }, 3 },
      { { idempotent = true, is_retryable = yes }, 3 },
      { { idempotent = true, is_retryable = function() end }, 1 },
    }
    for i = 1, #CASES do
      local op = always(lost)
      fake().api.with_retry(op.fn, CASES[i][1])
      assert.equal(CASES[i][2], op.calls, "case " .. i)
    end
  end)

  it("are repeated then although they are not marked retryable", function()
    local op = always(errors.new("timeout", "late", { ambiguous = true }))
    fake().api.with_retry(op.fn, { idempotent = true })
    assert.equal(3, op.calls)
  end)
end)


describe("on_retry", function()
  it("runs before each wait, never after the last failure", function()
    local host = fake(0)
    local calls = {}
    local err = errors.new("refused", "no", {
      tenant_id = "acme", server = "db:5432",
    })
    host.api.with_retry(always(err).fn, {
      on_retry = function(attempt, e, delay_ms, info)
        calls[#calls + 1] = { attempt, e == err, delay_ms, info,
                              #host.slept }
      end,
    })
    local function info(elapsed_ms)
      return { elapsed_ms = elapsed_ms, max_attempts = 3,
               tenant_id = "acme", server = "db:5432" }
    end
    assert.same({
      { 1, true, 100, info(0), 0 },
      { 2, true, 200, info(100), 1 },
    }, calls)
  end)

  it("may change the delay", function()
    local host = fake(0)
    host.api.with_retry(always(refused).fn, {
      on_retry = function(attempt) return attempt == 1 and 7 or nil end,
    })
    assert.same({ 7, 200 }, host.slept)
  end)

  it("may stop", function()
    local host = fake(0)
    local op = always(refused)
    local result, err = host.api.with_retry(op.fn, {
      max_attempts = 9,
      on_retry = function(attempt) return attempt < 2 end,
    })
    assert.is_nil(result)
    assert.equal(refused, err)
    assert.equal(2, op.calls)
    assert.same({ 100 }, host.slept)
  end)

  it("that raises or answers nonsense is logged and changes nothing",
     function()
    for _, case in ipairs {
      { function() error("oops", 0) end, "on_retry raised: oops" },
      { function() return -1 end,
        "on_retry returned a delay that is none: -1" },
      { function() return INF end,
        "on_retry returned a delay that is none: inf" },
    } do
      local host = fake(0)
      local op = always(refused)
      local _, err = host.api.with_retry(op.fn, { on_retry = case[1] })
      assert.equal(refused, err)
      assert.same({ 100, 200 }, host.slept)
      assert.same({ case[2], case[2] }, host.logged)
    end
    local host = fake(0)
    host.api.with_retry(always(refused).fn,
                        { on_retry = function() return NAN end })
    assert.same({ 100, 200 }, host.slept)
    host = fake(0)
    host.api.with_retry(always(refused).fn,
                        { on_retry = function() return "later" end })
    assert.same({ 100, 200 }, host.slept)
  end)
end)


describe("the deadline", function()
  it("is over all: no wait goes past it", function()
    local host = fake(0)
    local op = always(refused)
    local _, err = host.api.with_retry(op.fn, {
      max_attempts = 100, deadline_ms = 701,
    })
    assert.equal(refused, err)
    assert.same({ 100, 200, 400 }, host.slept)
    assert.equal(4, op.calls)
    host = fake(0)
    host.api.with_retry(always(refused).fn, {
      max_attempts = 100, deadline_ms = 700,
    })
    assert.same({ 100, 200 }, host.slept)
  end)

  it("counts what on_retry asks for", function()
    local host = fake(0)
    host.api.with_retry(always(refused).fn, {
      deadline_ms = 1000, on_retry = function() return 2000 end,
    })
    assert.same({}, host.slept)
  end)

  it("counts a slow operation, and then asks nobody", function()
    local host = fake(0)
    local asked = 0
    host.api.with_retry(function()
      host.now = host.now + 1500
      return nil, refused
    end, { deadline_ms = 1000, on_retry = function() asked = asked + 1 end })
    assert.same({}, host.slept)
    assert.equal(0, asked)
  end)

  it("is none at 0", function()
    local host = fake(0)
    host.api.with_retry(always(refused).fn, { deadline_ms = 0 })
    assert.same({ 100, 200 }, host.slept)
  end)
end)


describe("a sleep that fails", function()
  it("ends the retry at once with its error", function()
    local host = fake(0)
    host.sleep_error = errors.new("cancelled", "the task was cancelled")
    local op = always(refused)
    local result, err = host.api.with_retry(op.fn)
    assert.is_nil(result)
    assert.equal(host.sleep_error, err)
    assert.equal(1, op.calls)
  end)
end)


describe("create_retrier", function()
  it("works like with_retry, again and again", function()
    local host = fake(0)
    local retrier = host.api.create_retrier({ max_attempts = 2 })
    local _, err = retrier(always(refused).fn)
    assert.equal(refused, err)
    assert.same({ 100 }, host.slept)
    assert.same({ result = "v", attempts = 2, total_time_ms = 100 },
                retrier(failing({ refused }, "v").fn))
  end)

  it("is not changed by later changes of its configuration", function()
    local host = fake(0)
    local given = { max_attempts = 2 }
    local retrier = host.api.create_retrier(given)
    given.max_attempts = 50
    retrier(always(refused).fn)
    assert.same({ 100 }, host.slept)
  end)
end)
