--- Real managers on the virtual clock: against nothing, and against a server.

local core = require "mtenant.core"
local env = require "tests.support.env"
local mtenant = require "mtenant"
local testing = require "mtenant.testing"

local DOWN = "postgresql://mtenant@127.0.0.1:1/mtenant" -- nobody listens there


local function down(retry, more)
  local overrides = { connection = { url = DOWN, retry = retry } }
  for key, value in pairs(more or {}) do overrides[key] = value end
  return assert(mtenant.create_tenant_manager(env.config(overrides, {})))
end


local function resident_kb()
  collectgarbage()
  collectgarbage()
  for line in io.lines("/proc/self/status") do
    local kb = line:match("^VmRSS:%s+(%d+)")
    if kb then return tonumber(kb) end
  end
end


local function assert_nothing_left()
  env.assert_nothing_left()
  assert.equal(0, core.stats().simulated_watchers)
end


describe("a manager on the virtual clock", function()
  after_each(assert_nothing_left)

  local function tries(seed)
    return testing.run({ seed = seed }, function(clock)
      local out = {}
      local manager = down({
        max_attempts = 8, jitter = "full",
        on_retry = function(attempt, err, delay_ms)
          out[#out + 1] = ("%d %s %d %.6f"):format(attempt, err.code, delay_ms,
                                                   clock:now())
        end,
      })
      local _, err = manager:get_db_async("acme")
      assert.equal(8, err.attempts)
      out[#out + 1] = ("%.6f"):format(clock:now())
      return out
    end)
  end

  it("retries with the same delays for the same seed", function()
    local one = tries(1)
    assert.equal(8, #one)
    assert.same(one, tries(1))
    assert.are_not.same(one, tries(2))
  end)

  it("heeds on_retry and deadline_ms", function()
    testing.run(function(clock)
      local manager = down({ max_attempts = 50, deadline_ms = 60000,
                             jitter = false,
                             on_retry = function() return 10000 end },
                           { breaker = { initial_delay_ms = 0 } })
      local _, err = manager:get_db_async("acme")
      assert.equal("refused", err.code)
      assert.equal(6, err.attempts)
      assert.is_true(clock:now() >= 50000 and clock:now() < 60000)
    end)
  end)

  it("disposes with the run, or before", function()
    local outer = down()
    local inner
    testing.run(function()
      inner = down()
      inner:get_db_async("acme")
      local other = down()
      mtenant.spawn(function() other:get_db_async("acme") end)
      mtenant.sleep(10)
    end)
    assert.equal("disposed", select(2, inner:get_db("acme")).code)
    assert.truthy(outer:get_db("acme"))
  end)

  it("tells that nothing goes on when a manager of outside is asked", function()
    local outer = down()
    local ok, err = pcall(testing.run, function()
      outer:get_db_async("acme")
    end)
    assert.is_false(ok)
    assert.equal("misuse", err.code)
    assert.truthy(err.message:find("not on the virtual clock"))
  end)

  it("goes through 24 hours of outage with flat gauges and memory", function()
    local began = mtenant.now_ms()
    testing.run({ seed = 3 }, function(clock)
      local manager = down({ max_attempts = 4, jitter = "full" })
      local rounds, refused, base = 0, 0
      while clock:now() < 24 * 3600000 do
        local ids = {}
        for i = 1, 10 do ids[i] = "t" .. testing.random(100) end
        local _, errs = mtenant.each(ids, 10, function(id)
          return manager:get_db_async(id)
        end)
        for i = 1, 10 do -- luassert would keep memory
          refused = refused + (errs[i].code == "refused" and 1 or 0)
        end
        rounds = rounds + 1
        mtenant.sleep(60000)
        -- a spec's heap is large: its garbage would hide what is kept
        if rounds % 20 == 0 then collectgarbage() end
        if rounds == 400 then base = resident_kb() end
      end
      assert.is_true(rounds > 1200)
      assert.equal(10 * rounds, refused)
      local growth = resident_kb() - base
      assert.is_true(growth < 1024, growth .. " KiB more")
      local stats = core.stats()
      assert.equal(0, stats.leases)
      assert.is_true(stats.operations <= 1)
      assert.equal(0, manager:get_pool_count())
      assert.is_true(manager:get_stats().connect_failures < 10 * rounds)
    end)
    local took = mtenant.now_ms() - began
    assert.is_true(took < 30000, took .. " ms")
  end)
end)


describe("a server under the virtual clock", function()
  setup(function() env.tenants({ "acme" }) end)
  after_each(assert_nothing_left)

  it("answers, and idle connections close when their time has come", function()
    testing.run({ io_wait_ms = 200 }, function(clock)
      local manager = env.manager({ connection = { pool = {
        idle_timeout_ms = 30000 } } })
      local db = assert(manager:get_db_async("acme"))
      assert.equal("t_acme", db:value("SELECT current_schema()"))
      assert.equal(1, manager:get_stats().open)
      assert.is_true(clock:now() < 1000)
      mtenant.sleep(60000)
      assert.equal(0, manager:get_stats().open)
      assert.equal(7, db:value("SELECT 7"))
    end)
  end)

  it("cuts off a statement at its virtual timeout", function()
    testing.run(function()
      local manager = env.manager()
      local db = assert(manager:get_db_async("acme"))
      local began = mtenant.now_ms()
      local _, err = db:query { sql = "SELECT pg_sleep(600)",
                                timeout_ms = 500000 }
      assert.equal("timeout", err.code)
      assert.is_true(mtenant.now_ms() - began >= 500000)
    end)
  end)

  it("comes and goes for 24 hours, with flat gauges and memory", function()
    local server = env.start()
    finally(function() env.close(server) end)
    local ids = {}
    for i = 1, 10 do ids[i] = "f" .. i end
    env.tenants(ids, server)
    local socket = ("%s/.s.PGSQL.%d"):format(server.dir, server.port)

    -- no connection is left, and nobody listens
    local function cut()
      assert(os.rename(socket, socket .. ".away"))
      env.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        .. "WHERE application_name = '" .. env.APPLICATION .. "'", server)
    end

    testing.run({ seed = 24, io_wait_ms = 20 }, function(clock)
      local manager = env.manager({ connection = {
        pool = { idle_timeout_ms = 5000 },
        retry = { max_attempts = 1000, jitter = "full", max_delay_ms = 2000 },
      } }, server)
      local cycles, served, base, open_max = 0, 0, nil, 0
      local retry = mtenant.create_retrier { max_attempts = 1000,
                                             jitter = "full",
                                             idempotent = true }
      local function serve(id)
        local done, err = retry(function()
          local db, err = manager:get_db_async(id)
          if not db then return nil, err end
          return db:value("SELECT current_schema()")
        end)
        if not done then return nil, err end
        return done.result
      end
      while clock:now() < 24 * 3600000 do
        cycles = cycles + 1
        mtenant.each(ids, 10, serve)
        cut()
        mtenant.spawn(function()
          mtenant.sleep(60000)
          assert(os.rename(socket .. ".away", socket))
        end)
        local names, errs = mtenant.each(ids, 10, serve)
        if errs then error(tostring(errs[next(errs)])) end
        for i = 1, 10 do
          if names[i] == "t_" .. ids[i] then served = served + 1 end
        end
        open_max = math.max(open_max, manager:get_stats().open)
        mtenant.sleep(20 * 60000)
        collectgarbage()
        if cycles == 20 then base = resident_kb() end
      end
      local growth = resident_kb() - base
      assert.is_true(cycles > 60, cycles .. " outages")
      assert.equal(10 * cycles, served)
      assert.is_true(growth < 1024, growth .. " KiB more")
      assert.is_true(open_max <= 8, open_max .. " connections")
      assert.equal(10, manager:get_pool_count())
      assert.equal(0, manager:get_stats().open)
      assert.is_true(manager:get_stats().connect_failures >= cycles)
      assert.equal(0, core.stats().leases)
    end)
  end)
end)
