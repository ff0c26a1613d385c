--- Who is served when there is more to do than connections: turns, queue
--- policies and their hooks, rate limits.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local IDS = {}
for i = 1, 20 do IDS[i] = "f" .. i end


describe("fairness", function()
  setup(function() env.tenants(IDS) end)
  after_each(env.assert_nothing_left)

  it("serves everybody alike while one tenant has queued very much",
     env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 3, pool = {
      acquire_timeout_ms = 20000, max_waiting = 2000,
    } } })
    local noisy = assert(manager:get_db(IDS[1]))
    local noise, done = {}, 0
    for i = 1, 600 do
      noise[i] = mtenant.spawn(function()
        if noisy:query("SELECT pg_sleep(0.004)") then done = done + 1 end
      end)
    end
    mtenant.sleep(50)
    local quiet = {}
    for i = 2, #IDS do quiet[i - 1] = IDS[i] end
    local started = mtenant.now_ms()
    local _, errs = mtenant.each(quiet, #quiet, function(id)
      for _ = 1, 5 do
        env.must(manager:get_db(id):value("SELECT current_schema()"))
      end
      return mtenant.now_ms() - started
    end)
    assert.is_nil(errs and tostring(select(2, next(errs))))
    assert.is_true(done < 200, "the noise was served first: " .. done)
    for _, t in ipairs(noise) do t:cancel() end
  end))

  it("calls on_queue_full, for statements and leases, and goes on",
     env.in_task(function()
    local full = {}
    local manager = env.manager({
      connection = { max_connections = 1,
                     pool = { max_waiting = 2, max = 1 } },
      hooks = { on_queue_full = function(id) full[#full + 1] = id end },
    })
    local db = assert(manager:get_db(IDS[1]))
    local _, errs = mtenant.each({ 1, 2, 3, 4, 5, 6 }, 6, function(i)
      if i > 4 then
        return db:transaction(function(tx) return tx:value("SELECT 1") end)
      end
      return db:value("SELECT pg_sleep(0.05)::text")
    end)
    local codes = {}
    for _, err in pairs(errs or {}) do codes[#codes + 1] = err.code end
    assert.is_true(#codes >= 1)
    for _, code in ipairs(codes) do assert.equal("pool_exhausted", code) end
    assert.equal(#codes, #full)
    for _, id in ipairs(full) do assert.equal(IDS[1], id) end
    assert.equal(#full, manager:get_stats().queue_full)
    assert.equal("1", env.must(db:value("SELECT '1'")))
  end))

  it("calls on_queue_timeout with the tenant and the time it has waited",
     env.in_task(function()
    local told = {}
    local manager = env.manager({
      connection = { max_connections = 1, pool = { acquire_timeout_ms = 100 } },
      hooks = { on_queue_timeout = function(id, ms)
        told[#told + 1] = { id, ms }
      end },
    })
    local one = assert(manager:get_db(IDS[1]))
    local two = assert(manager:get_db(IDS[2]))
    assert(one:transaction(function(tx)
      assert(tx:query("SELECT 1"))
      local _, err = two:query("SELECT 1")
      assert.equal("pool_exhausted", err.code)
      assert.is_false(err.ambiguous)
      return true
    end))
    mtenant.sleep(1)
    assert.equal(1, #told)
    assert.equal(IDS[2], told[1][1])
    assert.is_true(told[1][2] >= 100 and told[1][2] < 1000)
    assert.equal(1, manager:get_stats().queue_timeouts)
  end))

  it("refuses at once under queue_policy reject", env.in_task(function()
    local manager = env.manager({ connection = {
      max_connections = 1, pool = { queue_policy = "reject" },
    } })
    local one = assert(manager:get_db_async(IDS[1]))
    local two = assert(manager:get_db(IDS[2]))
    assert(one:transaction(function()
      local started = mtenant.now_ms()
      local _, err = two:query("SELECT 1")
      assert.equal("pool_exhausted", err.code)
      _, err = two:transaction(function() return true end)
      assert.equal("pool_exhausted", err.code)
      assert.is_true(mtenant.now_ms() - started < 100)
      return true
    end))
    assert.equal("1", env.must(two:value("SELECT '1'")))
  end))

  it("takes idle connections of other tenants under evict-lru",
     env.in_task(function()
    local manager = env.manager({
      connection = { max_connections = 2,
                     pool = { queue_policy = "evict-lru" } },
      isolation = { mode = "dedicated" },
    })
    local one = assert(manager:get_db_async(IDS[1]))
    local two = assert(manager:get_db_async(IDS[2]))
    -- two has a connection already, and needs one more for its second lease
    assert(two:transaction(function()
      return two:transaction(function(tx)
        return tx:value("SELECT 1")
      end)
    end))
    assert.equal("1", env.must(one:value("SELECT '1'")))
    assert.is_true(manager:get_stats().peak <= 3) -- of two pools, in sum
  end))

  it("holds a tenant to its rate, and nobody else", env.in_task(function()
    local manager = env.manager({
      rate_limit = { max_queries_per_second = 50, burst = 1 },
    })
    local db = assert(manager:get_db_async(IDS[1]))
    local other = assert(manager:get_db_async(IDS[2]))
    mtenant.sleep(50)
    local started = mtenant.now_ms()
    local task = mtenant.spawn(function()
      for _ = 1, 10 do env.must(db:value("SELECT 1")) end
      return mtenant.now_ms() - started
    end)
    env.must(other:value("SELECT 1"))
    assert.is_true(mtenant.now_ms() - started < 100)
    local took = task:await()
    assert.is_true(took >= 175, "it took " .. took)
    assert.is_true(manager:get_stats().rate_limited > 0)
  end))

  it("rejects by rate with an error that says when", env.in_task(function()
    local manager = env.manager({ rate_limit = {
      max_queries_per_second = 5, burst = 2, on_exceeded = "reject",
    } })
    local db = assert(manager:get_db(IDS[1]))
    env.must(db:query("SELECT 1"))
    env.must(db:query("SELECT 1"))
    local _, err = db:query("SELECT 1")
    assert.equal("pool_exhausted", err.code)
    assert.is_true(err.retryable)
    assert.matches("5 statements a second.*in %d+ ms", err.message)
    assert.is_true(mtenant.is_retryable_error(err))
    local _, again = db:transaction(function() return true end)
    assert.equal("pool_exhausted", again.code)
  end))

  it("throttles for longer than acquire_timeout_ms, and a deadline ends it",
     env.in_task(function()
    local manager = env.manager({
      connection = { pool = { acquire_timeout_ms = 100 } },
      rate_limit = { max_queries_per_second = 4, burst = 1,
                     on_exceeded = "throttle" },
    })
    local db = assert(manager:get_db(IDS[1]))
    env.must(db:query("SELECT 1"))
    env.must(db:query("SELECT 1")) -- 250 ms later
    local _, err = db:query { sql = "SELECT 1", timeout_ms = 50 }
    assert.equal("timeout", err.code)
    assert.is_false(err.ambiguous)
    env.must(db:query("SELECT 1"))
    assert.equal(0, manager:get_stats().queue_timeouts)
  end))

  it("has settings that say what is wrong with them", function()
    for message, config in pairs({
      ['connection.pool.queue_policy must be "queue"'] =
        { connection = { pool = { queue_policy = "drop" } } },
      ["rate_limit.max_queries_per_second must be positive"] =
        { rate_limit = { max_queries_per_second = 0 } },
      ["rate_limit.burst needs max_queries_per_second"] =
        { rate_limit = { burst = 5 } },
      ["rate_limit.burst must be an integer"] =
        { rate_limit = { max_queries_per_second = 5, burst = 1.5 } },
      ["rate_limit.on_exceeded must be"] =
        { rate_limit = { max_queries_per_second = 5, on_exceeded = "wait" } },
      ["max_queries_per_second"] =
        { rate_limit = { maxQueriesPerSecond = 5 } },
    }) do
      local ok, err = pcall(mtenant.define_config, env.config(config))
      assert.is_false(ok, message)
      assert.is_truthy(tostring(err):find(message, 1, true),
                       message .. " is not in " .. tostring(err))
    end
  end)
end)
