--- mtenant.testing: the virtual clock, and retry policies under it. Faults and
-- routes are in testing_faults_spec.lua and testing_routes_spec.lua.

local mtenant = require "mtenant"
local core = require "mtenant.core"
local env = require "tests.support.env"
local testing = require "mtenant.testing"


-- real seconds, of the processor
local function cpu_s(fn)
  local before = os.clock()
  fn()
  return os.clock() - before
end


local function memory_kb()
  collectgarbage()
  collectgarbage()
  return collectgarbage("count")
end


local function refuses(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.equal("misuse", err.code)
  assert.truthy(err.message:find(pattern), err.message)
  return err
end


describe("the virtual clock", function()
  after_each(function()
    local stats = core.stats()
    assert.equal(0, stats.operations)
    assert.equal(0, stats.loop_watchers)
    assert.equal(0, stats.simulated_watchers)
    assert.is_nil(testing.current())
  end)

  it("sleeps an hour at once", function()
    local real = mtenant.now_ms()
    local slept = testing.run(function(clock)
      assert.equal(0, clock:now())
      assert.is_true(mtenant.sleep(3600000))
      return clock:now()
    end)
    assert.equal(3600000, slept)
    assert.is_true(mtenant.now_ms() - real < 1000)
  end)

  it("begins at 0 each time, and passes arguments and results", function()
    for _ = 1, 2 do
      assert.same({ 3, nil, "x", 0 }, { testing.run({}, function(clock, a, b)
        local at = clock:now()
        mtenant.sleep(10)
        return a + b, nil, "x", at
      end, 1, 2) })
    end
  end)

  it("wakes tasks in the order in which they are due", function()
    local seen = {}
    testing.run(function(clock)
      local tasks = {}
      for i, ms in ipairs({ 50, 10, 30, 10, 0 }) do
        tasks[i] = mtenant.spawn(function()
          mtenant.sleep(ms)
          seen[#seen + 1] = i .. "@" .. clock:now()
        end)
      end
      for i = 1, #tasks do tasks[i]:await() end
    end)
    assert.same({ "5@0", "2@10", "4@10", "3@30", "1@50" }, seen)
  end)

  it("keeps ten thousand timers in order", function()
    local last, n = -1, 0
    testing.run({ seed = 5 }, function(clock)
      local list = {}
      for i = 1, 10000 do list[i] = testing.random(1, 100000) end
      mtenant.each(list, 10000, function(ms)
        mtenant.sleep(ms)
        assert(clock:now() >= last)
        last, n = clock:now(), n + 1
        return true
      end)
    end)
    assert.equal(10000, n)
  end)

  it("interrupts what is past its deadline at that very time", function()
    testing.run(function(clock)
      local ok, err = mtenant.with_deadline(250, function()
        return mtenant.sleep(1000)
      end)
      assert.is_nil(ok)
      assert.equal("timeout", err.code)
      assert.equal(250, clock:now())
      assert.equal("in time", mtenant.with_deadline(250, function()
        mtenant.sleep(100)
        return "in time"
      end))
      assert.equal(350, clock:now())
    end)
  end)

  it("is that of now_ms and of cancelled tasks too", function()
    testing.run(function(clock)
      local before = mtenant.now_ms()
      local sleeper = mtenant.spawn(mtenant.sleep, 10000)
      mtenant.sleep(7)
      sleeper:cancel()
      local _, err = sleeper:await()
      assert.equal("cancelled", err.code)
      assert.equal(7, mtenant.now_ms() - before)
      assert.equal(7, clock:now())
    end)
  end)

  it("works in a task, whose own loop stands still meanwhile", function()
    local order = {}
    mtenant.run(function()
      local other = mtenant.spawn(function()
        order[#order + 1] = "other"
        mtenant.sleep(1)
        order[#order + 1] = "other again"
      end)
      testing.run(function()
        mtenant.sleep(100000)
        order[#order + 1] = "virtual"
      end)
      other:await()
      order[#order + 1] = "outer"
    end)
    assert.same({ "virtual", "other", "other again", "outer" }, order)
  end)

  it("cancels a task of the real loop once that goes on", function()
    mtenant.run(function()
      local outer = mtenant.spawn(mtenant.sleep, 60000)
      mtenant.sleep(1)
      testing.run(function() outer:cancel() end)
      local _, err = outer:await()
      assert.equal("cancelled", err.code)
    end)
  end)

  it("leaves behind what still waits at the end", function()
    local left, finished
    testing.run(function()
      left = mtenant.spawn(function()
        while mtenant.sleep(1000) do end
        finished = true
      end)
      mtenant.sleep(5500)
    end)
    assert.is_true(left.done)
    assert.is_nil(finished)
    local _, err = left:await()
    assert.equal("cancelled", err.code)
    left:cancel()
  end)

  it("raises what fn raises, and tells the seed when it chose it", function()
    local ok, err
    local told = env.stderr_of(function()
      ok, err = pcall(testing.run, function() error({ "mine" }) end)
    end)
    assert.is_false(ok)
    assert.same({ "mine" }, err)
    assert.truthy(told:find("^%[mtenant%] testing.run failed; its seed was %d+\n$"))
    assert.equal("", env.stderr_of(pcall, testing.run, { seed = 3 }, error))
  end)

  it("tells when nothing can go on any more", function()
    refuses("waits for another one", testing.run, function()
      local a
      local b = mtenant.spawn(function() return a:await() end)
      a = mtenant.spawn(function() return b:await() end)
      a:await()
    end)
    refuses("stands still", testing.run, function()
      while true do mtenant.sleep(0) end
    end)
    refuses("limit_ms", testing.run, { limit_ms = 5000 }, function()
      while true do mtenant.sleep(1000) end
    end)
  end)

  it("refuses another run inside, wrong options and no function", function()
    testing.run(function()
      refuses("runs already", testing.run, function() end)
    end)
    refuses("unknown option", testing.run, { sed = 1 }, function() end)
    refuses("must be a function", testing.run, {})
    refuses("must be a function", testing.run, {}, 3)
  end)
end)


describe("a clock moved by hand", function()
  it("runs what is due until then, and no more", function()
    testing.run({ auto_advance = false }, function(clock)
      local beats = 0
      mtenant.spawn(function()
        while mtenant.sleep(100) do beats = beats + 1 end
      end)
      clock:advance(99)
      assert.equal(0, beats)
      clock:advance(1)
      assert.equal(1, beats)
      clock:advance(1000)
      assert.equal(11, beats)
      assert.equal(1100, clock:now())
    end)
  end)

  it("runs what was set later for the same moment, too", function()
    testing.run({ auto_advance = false }, function(clock)
      local steps = {}
      mtenant.spawn(function()
        mtenant.sleep(500)
        mtenant.sleep(500)
        steps[#steps + 1] = clock:now()
        mtenant.sleep(0)
        steps[#steps + 1] = clock:now()
      end)
      clock:advance(1000)
      assert.same({ 1000, 1000 }, steps)
    end)
  end)

  it("does not move by itself", function()
    refuses("clock:advance", testing.run, { auto_advance = false }, function()
      mtenant.sleep(10)
    end)
  end)

  it("refuses a time that is none, and a clock that is over", function()
    local old
    testing.run(function(clock)
      old = clock
      refuses("ms must be", clock.advance, clock, -1)
      refuses("ms must be", clock.advance, clock, "1")
    end)
    testing.run(function()
      refuses("is over", old.advance, old, 1)
    end)
  end)
end)


describe("seeds", function()
  local function numbers(seed)
    return testing.run({ seed = seed }, function(clock)
      local out = { clock.seed, testing.random(), testing.random(6),
                    testing.random(-3, 3), math.random(1000000) }
      for _, jitter in ipairs({ true, "full", "equal", "decorrelated" }) do
        local op = testing.operation { otherwise = { err = "ECONNREFUSED" } }
        mtenant.with_retry(op, { jitter = jitter, max_attempts = 8 })
        for _, ms in ipairs(op:delays()) do out[#out + 1] = ms end
        out[#out + 1] = mtenant.calculate_delay(3, { jitter = jitter })
      end
      return out
    end)
  end

  it("make the same delays, another one makes others", function()
    assert.same(numbers(42), numbers(42))
    assert.are_not.same(numbers(42), numbers(43))
    assert.equal(42, numbers(42)[1])
  end)

  it("are chosen anew when none is given", function()
    local function seed() return testing.run(function(c) return c.seed end) end
    assert.are_not.equal(seed(), seed())
  end)

  it("come from the environment, and mean the same in every process", function()
    local code = [[
      local mtenant = require "mtenant"
      local testing = require "mtenant.testing"
      print(pcall(testing.run, function(clock)
        local tenants = mtenant.create_tenant_manager {
          connection = { url = "postgresql://app@127.0.0.1:1/x", retry = {
            max_attempts = 5, jitter = "full" } },
          isolation = { schema_name_template = tostring },
        }
        tenants:get_db_async("acme")
        return clock.seed, clock:now(), testing.random(), math.random()
      end))]]
    local function output(seed)
      return env.run_script(code, { MTENANT_SEED = seed })
    end
    local one = output("77")
    assert.truthy(one:find("^true%s+77%s"), one)
    assert.equal(one, output("77"))
    assert.are_not.equal(one, output("78"))
    for _, bad in ipairs { "x", "-1", "1.5", "99999999999" } do
      assert.truthy(output(bad):find("MTENANT_SEED must be"), bad)
    end
    assert.are_not.equal(output(""), output(""))
  end)

  it("leave the program's own random numbers as they were", function()
    math.randomseed(9)
    testing.run({ seed = 1 }, function() end)
    local one = math.random()
    math.randomseed(9)
    testing.run({ seed = 2 }, function() math.random() end)
    assert.equal(one, math.random())
  end)

  it("stay within their limits", function()
    testing.run({ seed = 1 }, function()
      for _ = 1, 1000 do
        local u, d = testing.random(), testing.random(6)
        assert(u >= 0 and u < 1 and d >= 1 and d <= 6)
      end
      refuses("empty", testing.random, 2, 1)
      refuses("integers", testing.random, 0.5)
    end)
  end)
end)


describe("retry policies", function()
  local REFUSED = { err = { code = "refused" } }

  it("wait as they say", function()
    testing.run({ seed = 1 }, function()
      local op = testing.operation {
        REFUSED, { err = { sqlstate = "57P03" } }, { result = "up" },
      }
      local done = assert(mtenant.with_retry(op, { jitter = false }))
      assert.same({ result = "up", attempts = 3, total_time_ms = 300 }, done)
      assert.same({ 0, 100, 300 }, op:times())
      assert.same({ 100, 200 }, op:delays())
    end)
  end)

  it("are steered by on_retry: another delay, or the end", function()
    testing.run(function()
      local seen = {}
      local op = testing.operation { otherwise = REFUSED }
      local _, err = mtenant.with_retry(op, {
        max_attempts = 10, jitter = false,
        on_retry = function(attempt, e, delay_ms, info)
          seen[#seen + 1] = { attempt, e.code, delay_ms, info.elapsed_ms }
          if attempt == 1 then return 1000 end
          if attempt == 3 then return false end
        end,
      })
      assert.equal("refused", err.code)
      assert.same({ 0, 1000, 1200 }, op:times())
      assert.same({ { 1, "refused", 100, 0 }, { 2, "refused", 200, 1000 },
                    { 3, "refused", 400, 1200 } }, seen)
    end)
  end)

  it("end by is_retryable, max_attempts and deadline_ms", function()
    testing.run(function(clock)
      local function tries(config, step)
        local op = testing.operation { otherwise = step or REFUSED }
        config.jitter = false
        assert.is_nil((mtenant.with_retry(op, config)))
        return op.count
      end
      assert.equal(1, tries({ is_retryable = function() return false end }))
      assert.equal(1, tries({}, { err = { sqlstate = "28P01" } }))
      assert.equal(3, tries({}, { err = { sqlstate = "40001" } }))
      assert.equal(5, tries({ max_attempts = 5 }))
      local before = clock:now()
      -- at 0, 100, 300, 700 and 1500; the next one would be at 3100
      assert.equal(5, tries({ max_attempts = 50, deadline_ms = 3000 }))
      assert.equal(1500, clock:now() - before)
    end)
  end)

  it("count the time that the tries take", function()
    testing.run(function()
      local op = testing.operation {
        { err = { code = "timeout", phase = "connect" }, delay_ms = 5000 },
        { result = 1, delay_ms = 20 },
      }
      local done = assert(mtenant.with_retry(op, { jitter = false }))
      assert.equal(5120, done.total_time_ms)
      assert.same({ 100 }, op:delays())
    end)
  end)

  it("end when their task is cancelled or past a deadline", function()
    testing.run(function(clock)
      local op = testing.operation { otherwise = REFUSED }
      local retry = mtenant.create_retrier { max_attempts = 1000 }
      local _, err = mtenant.with_deadline(10000, retry, op)
      assert.equal("timeout", err.code)
      assert.equal(10000, clock:now())
      local trying = mtenant.spawn(retry, op)
      mtenant.sleep(30000)
      trying:cancel()
      _, err = trying:await()
      assert.equal("cancelled", err.code)
      assert.equal(40000, clock:now())
    end)
  end)

  it("go through 24 hours of a flapping server in no time", function()
    local most, growth, served, tries
    local took = cpu_s(function()
      testing.run({ seed = 7 }, function(clock)
        local flapping = testing.outage { from_ms = 0, to_ms = 40000,
                                          every_ms = 60000 }
        local op = testing.operation { outages = { flapping }, keep = 10,
                                       otherwise = { result = true } }
        local retry = mtenant.create_retrier { max_attempts = 100,
                                               jitter = "full",
                                               max_delay_ms = 2000 }
        local base
        served, most = 0, 0
        while clock:now() < 24 * 3600000 do
          local done = assert(retry(op))
          served = served + 1
          most = math.max(most, done.attempts)
          mtenant.sleep(1000)
          if served == 2000 then base = memory_kb() end
        end
        tries, growth = op.count, memory_kb() - base
        assert.equal(10, #op.calls)
      end)
    end)
    assert.is_true(served > 20000 and tries > 2 * served)
    assert.is_true(most < 100)
    assert.is_true(growth < 32, growth .. " KiB more")
    assert.is_true(took < 10, took .. " s")
  end)
end)
