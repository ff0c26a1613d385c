--- What operators do while a manager serves: pause and resume, and other
--- settings.

local env = require "tests.support.env"
local mtenant = require "mtenant"


-- the name of the shared server, as errors have it
local function server_name(manager)
  local _, err = manager:get_db("acme"):query("SELECT * FROM no_such_table")
  return err.server
end


describe("a paused tenant", function()
  before_each(function() env.tenants { "acme", "globex" } end)
  after_each(env.assert_nothing_left)

  it("waits, and others do not", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    assert.equal(1, db:value("SELECT 1"))
    assert.is_true(manager:pause { tenant = "acme" })
    local order = {}
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = mtenant.spawn(function()
        local value = db:value("SELECT $1::int", i)
        order[#order + 1] = value
      end)
    end
    local lease = mtenant.spawn(function()
      return db:transaction(function(tx) return tx:value("SELECT 6") end)
    end)
    mtenant.sleep(100)
    assert.same({}, order)
    assert.equal(7, manager:get_db("globex"):value("SELECT 7"))
    assert.is_true(manager:resume { tenant = "acme" })
    assert.is_false(manager:resume { tenant = "acme" })
    for _, t in ipairs(tasks) do t:await() end
    assert.same({ 1, 2, 3, 4, 5 }, order)
    assert.equal(6, lease:await())
  end))

  it("is paused when what it had under way is done", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db_async("acme"))
    local slow = mtenant.spawn(function()
      db:query("SELECT pg_sleep(0.2)")
      return mtenant.now_ms()
    end)
    local tx = mtenant.spawn(function()
      db:transaction(function(t)
        mtenant.sleep(300)
        t:query("SELECT 1") -- the transaction goes on while it is paused
      end)
      return mtenant.now_ms()
    end)
    mtenant.sleep(50)
    local paused = mtenant.spawn(function()
      assert(manager:pause { tenant = "acme" })
      return mtenant.now_ms()
    end)
    local at = paused:await()
    assert.is_true(at >= slow:await() and at >= tx:await())
    manager:resume { tenant = "acme" }
  end))

  it("says when that takes too long, and stays paused", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db_async("acme"))
    local slow = mtenant.spawn(function() db:query("SELECT pg_sleep(0.5)") end)
    mtenant.sleep(50)
    local ok, err = manager:pause({ tenant = "acme" }, { timeout_ms = 50 })
    assert.is_nil(ok)
    assert.equal("timeout", err.code)
    assert.equal("acme", err.tenant_id)
    local _, late = db:query { sql = "SELECT 1", timeout_ms = 50 }
    assert.equal("timeout", late.code)
    assert.is_false(late.ambiguous)
    slow:await()
    manager:resume { tenant = "acme" }
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("takes what waits along to its new route", env.in_task(function()
    local schema = "t_acme"
    env.tenants { "other" }
    local manager = env.manager {
      resolve = function() return { schema = schema } end,
    }
    local db = assert(manager:get_db_async("acme"))
    assert.equal("t_acme", db:value("SELECT current_schema()"))
    assert.is_true(manager:pause { tenant = "acme" })
    local waits = mtenant.spawn(function()
      return db:value("SELECT current_schema()")
    end)
    local connects = mtenant.spawn(function()
      return manager:get_db_async("acme")
    end)
    mtenant.sleep(20)
    schema = "t_other"
    assert.is_true(manager:invalidate("acme"))
    mtenant.sleep(50)
    manager:resume { tenant = "acme" }
    assert.equal("t_other", waits:await())
    assert(connects:await())
    assert.equal("t_other", db:value("SELECT current_schema()"))
  end))

  it("is routed afresh only when it is quiet", env.in_task(function()
    local schema = "t_acme"
    env.tenants { "other" }
    local manager = env.manager {
      resolve = function() return { schema = schema } end,
    }
    local db = assert(manager:get_db_async("acme"))
    local slow = mtenant.spawn(function()
      return db:value("SELECT current_schema() FROM pg_sleep(0.2)")
    end)
    mtenant.sleep(20)
    manager:pause({ tenant = "acme" }, { timeout_ms = 0 })
    schema = "t_other"
    manager:invalidate("acme")
    manager:resume { tenant = "acme" }
    local waits = mtenant.spawn(function()
      return db:value("SELECT current_schema()"), mtenant.now_ms()
    end)
    assert.equal("t_acme", slow:await())
    local done = mtenant.now_ms()
    local value, at = waits:await()
    assert.equal("t_other", value)
    assert.is_true(at >= done)
  end))

  it("has a queue that ends", env.in_task(function()
    local manager = env.manager {
      connection = { pool = { max_waiting = 2 } },
    }
    local db = assert(manager:get_db("acme"))
    assert.is_true(manager:pause { tenant = "acme" }) -- before its first use
    local tasks = {}
    for i = 1, 2 do
      tasks[i] = mtenant.spawn(function() return db:value("SELECT 1") end)
    end
    mtenant.sleep(10)
    local _, err = db:query("SELECT 1")
    assert.equal("pool_exhausted", err.code)
    manager:resume { tenant = "acme" }
    for _, t in ipairs(tasks) do assert.equal(1, t:await()) end
  end))

  it("is told of a disposal at once", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db("acme"))
    manager:pause { tenant = "acme" }
    local waits = mtenant.spawn(function() return db:query("SELECT 1") end)
    local connects = mtenant.spawn(function()
      return manager:get_db_async("acme")
    end)
    mtenant.sleep(20)
    manager:dispose()
    local _, err = waits:await()
    assert.equal("disposed", err.code)
    _, err = connects:await()
    assert.equal("disposed", err.code)
    assert.is_false(manager:resume { tenant = "acme" })
  end))

  it("is named in one way", env.in_task(function()
    local manager = env.manager()
    for _, bad in ipairs { "acme", {}, { tenant = "a", server = "b" },
                           { tenants = "a" }, { tenant = 1 } } do
      local ok, err = pcall(manager.pause, manager, bad)
      assert.is_false(ok)
      assert.equal("misuse", err.code)
    end
    local ok, err = manager:pause { tenant = "a b" }
    assert.is_nil(ok)
    assert.equal("invalid_tenant_id", err.code)
  end))
end)


describe("a paused server", function()
  local own -- a test's own server

  before_each(function() env.tenants { "acme", "globex" } end)
  after_each(function()
    env.assert_nothing_left()
    if own then env.close(own) end
    own = nil
  end)

  it("is left alone until it is resumed", env.in_task(function()
    local manager = env.manager {
      connection = { pool = { acquire_timeout_ms = 50 } },
    }
    local name = server_name(manager)
    local held = mtenant.spawn(function()
      return manager:get_db("globex"):session(function(s)
        mtenant.sleep(100)
        return s:value("SELECT 8")
      end)
    end)
    mtenant.sleep(20)
    assert.is_true(manager:pause { server = name })
    assert.is_true(held.done)
    assert.equal(8, held:await())
    local opened = manager:get_stats().opened
    local tasks = {}
    for i = 1, 20 do
      tasks[i] = mtenant.spawn(function()
        return manager:get_db(i % 2 == 0 and "acme" or "globex")
          :value("SELECT $1::int", i)
      end)
    end
    local new = mtenant.spawn(function()
      return manager:get_db("acme"):transaction(function(tx)
        return tx:value("SELECT 9")
      end)
    end)
    mtenant.sleep(300) -- longer than anybody would wait for a connection
    assert.equal(opened, manager:get_stats().opened)
    for _, t in ipairs(tasks) do assert.is_false(t.done) end
    assert.is_true(manager:resume { server = name })
    for i, t in ipairs(tasks) do assert.equal(i, t:await()) end
    assert.equal(9, new:await())
  end))

  it("may be restarted meanwhile, and nobody notices", env.in_task(function()
    own = env.start()
    env.tenants({ "acme" }, own)
    local server = own
    local manager = env.manager({}, server)
    local db = assert(manager:get_db_async("acme"))
    local name = server_name(manager)
    local failed, done, stop = {}, 0, false
    local tasks = {}
    for i = 1, 4 do
      tasks[i] = mtenant.spawn(function()
        while not stop do
          local ok, err = db:value("SELECT 1")
          if ok then done = done + 1 else failed[#failed + 1] = err.message end
          mtenant.sleep(1)
        end
      end)
    end
    mtenant.sleep(100)
    assert(manager:pause { server = name })
    local before
    for _ = 1, 50 do -- until what ran has been answered
      before = done
      mtenant.sleep(100)
      if done == before then break end
    end
    assert.equal(before, done)
    server:restart()
    mtenant.sleep(50)
    assert.equal(before, done)
    manager:resume { server = name }
    mtenant.sleep(300)
    stop = true
    for _, t in ipairs(tasks) do t:await() end
    assert.same({}, failed)
    assert.is_true(done > before)
  end))

  it("is not known before its first use", env.in_task(function()
    local manager = env.manager()
    assert.is_false((manager:pause { server = "nowhere:1" }))
    assert.is_false(manager:resume { server = "nowhere:1" })
  end))
end)


describe("reconfigure", function()
  before_each(function() env.tenants { "acme", "globex" } end)
  after_each(env.assert_nothing_left)

  local function sleepers(manager, n)
    local tasks = {}
    for i = 1, n do
      tasks[i] = mtenant.spawn(function()
        return manager:get_db("acme"):query("SELECT pg_sleep(0.1)")
      end)
    end
    for _, t in ipairs(tasks) do assert(t:await()) end
    return manager:get_stats().peak
  end

  it("widens what a tenant may have, for what waits already, too",
     env.in_task(function()
    local manager = env.manager {
      connection = { max_connections = 8, pool = { max = 1 } },
    }
    assert.equal(1, sleepers(manager, 3))
    local waits = mtenant.spawn(function() return sleepers(manager, 8) end)
    mtenant.sleep(20)
    assert.is_true(manager:reconfigure {
      connection = { pool = { max = 4 } },
    })
    local peak = waits:await()
    assert.is_true(peak > 1 and peak <= 4, "peak " .. peak)
  end))

  it("shrinks the budget: what is beyond it goes when it is idle",
     env.in_task(function()
    local manager = env.manager { connection = { max_connections = 6 } }
    sleepers(manager, 6)
    assert.is_true(manager:get_stats().open > 2)
    manager:reconfigure { connection = { max_connections = 2 } }
    env.eventually("the connections beyond it are closed", function()
      return manager:get_stats().open <= 2
    end)
    sleepers(manager, 6)
    assert.is_true(manager:get_stats().open <= 2)
  end))

  it("changes time limits, retry and rates", env.in_task(function()
    local manager = env.manager {
      connection = { retry = { max_attempts = 2 } },
    }
    local db = assert(manager:get_db("acme"))
    manager:reconfigure {
      connection = { statement_timeout_ms = 50, retry = { max_attempts = 7 } },
      rate_limit = { max_queries_per_second = 1, on_exceeded = "reject" },
    }
    assert.equal(7, manager:get_retry_config().max_attempts)
    local _, err = db:query("SELECT pg_sleep(1)")
    assert.equal("timeout", err.code)
    _, err = db:query("SELECT 1")
    assert.equal("pool_exhausted", err.code)
    manager:reconfigure {
      rate_limit = mtenant.null,
      connection = { statement_timeout_ms = mtenant.null },
    }
    assert(db:query("SELECT pg_sleep(0.1)"))
  end))

  it("lets go of what a rate has held back", env.in_task(function()
    local manager = env.manager {
      rate_limit = { max_queries_per_second = 0.01, burst = 1,
                     on_exceeded = "throttle" },
    }
    local db = assert(manager:get_db("acme"))
    assert(db:query("SELECT 1"))
    local waits = mtenant.spawn(function() return db:value("SELECT 2") end)
    mtenant.sleep(50)
    assert.is_false(waits.done)
    manager:reconfigure { rate_limit = mtenant.null }
    assert.equal(2, waits:await())
    manager:reconfigure { rate_limit = { max_queries_per_second = 50 } }
    assert.equal(3, db:value("SELECT 3"))
  end))

  it("changes nothing when something is wrong", env.in_task(function()
    local manager = env.manager()
    local function refused(changes, pattern)
      local ok, err = pcall(manager.reconfigure, manager, changes)
      assert.is_false(ok)
      assert.equal("misuse", err.code)
      assert.matches(pattern, err.message)
    end
    refused({ isolation = { strategy = "row" } }, "isolation.strategy cannot")
    refused({ application_name = "x" }, 'unknown option "application_name"')
    refused({ connection = { pool = { max = 0 } } }, "pool.max must")
    refused({ connection = { pool = { maxx = 1 } } }, 'did you mean "max"')
    refused({ resolve = function() end }, "resolve cannot")
    refused("x", "changes must be a table")
    refused({ connection = { retry = { max_attempts = 9,
                                       initial_delay_ms = 9000 } } },
            "initial_delay_ms cannot be greater")
    assert.equal(3, manager:get_retry_config().max_attempts)
  end))
end)
