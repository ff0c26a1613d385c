--- Connections: how many there are, who gets them, how long one waits for them
--- and how long they live.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function many(n, value)
  local out = {}
  for i = 1, n do out[i] = value or i end
  return out
end


describe("a pool", function()
  setup(function() env.tenants({ "acme", "globex", "initech" }) end)
  after_each(env.assert_nothing_left)

  -- (none that closes its connection: the server is slower to forget one than
  -- we are to open the next)
  it("never opens more than max_connections, for 200 tasks of many kinds",
     env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 3, pool = {
      acquire_timeout_ms = 20000,
    } } })
    local dbs = {}
    for i, id in ipairs({ "acme", "globex", "initech" }) do
      dbs[i] = assert(manager:get_db(id))
    end
    local peak = env.peak_while(function()
      local _, errs = mtenant.each(many(200), 200, function(i)
        local db = dbs[i % 3 + 1]
        local kind = i % 5
        if kind == 0 then
          return env.must(db:transaction(function(tx)
            mtenant.sleep(1)
            return tx:value("SELECT 1")
          end))
        elseif kind == 1 then
          return env.must(db:query("SELECT pg_sleep(0.002)"))
        elseif kind == 2 then
          return env.must(db:exec("SELECT 1; SELECT 2"))
        elseif kind == 3 then
          env.loop(function(row) return row.i == 3 end,
                   db:rows("SELECT generate_series(1, 5) AS i"))
        end
        return env.must(db:value("SELECT $1::int", i))
      end)
      assert.is_nil(errs and tostring(select(2, next(errs))))
    end)
    assert.is_true(peak <= 3, "there were " .. peak)
    assert.is_true(manager:get_stats().peak <= 3)
  end))

  it("opens none before it is asked, and few when little is asked", env.in_task(
    function()
      local manager = env.manager()
      local db = assert(manager:get_db("acme"))
      assert.equal(0, env.count())
      for _ = 1, 50 do db:value("SELECT 1") end
      assert.equal(1, env.count())
      assert.equal(1, manager:get_stats().open)
    end))

  it("takes its share of what the server has when nothing is said", env.in_task(
    function()
      local config = env.config({ connection = { pool = {
        acquire_timeout_ms = 20000,
      } } })
      config.connection.max_connections = nil
      local manager = assert(mtenant.create_tenant_manager(config))
      local db = assert(manager:get_db("acme"))
      mtenant.each(many(60), 60, function()
        return db:transaction(function(tx) return tx:query("SELECT pg_sleep(0.02)") end)
      end)
      local stats = manager:get_stats()
      assert.is_true(stats.peak >= 4 and stats.peak <= 20, "peak " .. stats.peak)
    end))

  it("gives one tenant no more than pool.max at a time", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 4, pool = {
      max = 2,
    } } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    local held, most = 0, 0
    local hogs = mtenant.spawn(function()
      mtenant.each(many(6), 6, function()
        return acme:transaction(function(tx)
          env.must(tx:query("SELECT 1"))
          held = held + 1
          most = math.max(most, held)
          mtenant.sleep(60)
          held = held - 1
          return true
        end)
      end)
    end)
    env.eventually("two to be held", function() return held == 2 end)
    local started = mtenant.now_ms()
    assert.equal(1, globex:transaction(function(tx) return tx:value("SELECT 1") end))
    assert.is_true(mtenant.now_ms() - started < 50)
    hogs:await()
    assert.equal(2, most)
  end))

  it("does not let one tenant's queue starve another", env.in_task(function()
    local manager = env.manager({ connection = {
      max_connections = 1, pool = { acquire_timeout_ms = 30000 },
    } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    assert(acme:query("SELECT 1"))
    local done = 0
    local hog = mtenant.spawn(function()
      mtenant.each(many(500), 500, function()
        env.must(acme:query("SELECT pg_sleep(0.001)"))
        done = done + 1
      end)
    end)
    env.eventually("the hog to be at it", function() return done > 0 end)
    for _ = 1, 10 do
      local before = done
      assert.equal(1, globex:value("SELECT 1"))
      assert.is_true(done - before < 60, "waited for " .. done - before)
    end
    assert.is_true(done < 400)
    -- a transaction gets its turn as well
    local before = done
    assert.equal(1, globex:transaction(function(tx) return tx:value("SELECT 1") end))
    assert.is_true(done - before < 120, "waited for " .. done - before)
    hog:await()
  end))

  it("serves the statements of one tenant in order", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local db = assert(manager:get_db("acme"))
    assert(db:query("CREATE TABLE log (id serial, n int)"))
    mtenant.each(many(100), 100, function(i)
      return db:query("INSERT INTO log (n) VALUES ($1)", i)
    end)
    assert.equal(0, db:value("SELECT count(*) FROM log WHERE id <> n"))
    assert(db:query("DROP TABLE log"))
  end))
end)


describe("waiting for a connection", function()
  setup(function() env.tenants({ "acme", "globex" }) end)
  after_each(env.assert_nothing_left)

  -- runs fn while every connection of the manager is held by acme
  local function while_held(manager, fn)
    local release
    local holder = mtenant.spawn(function()
      return assert(manager:get_db("acme")):transaction(function(tx)
        env.must(tx:query("SELECT 1"))
        while not release do mtenant.sleep(1) end
        return true
      end)
    end)
    env.eventually("the connection to be held", function()
      return env.count("state = 'idle in transaction'") == 1
    end)
    fn()
    release = true
    assert(holder:await())
  end

  for _, mode in ipairs({ "shared", "dedicated" }) do
    it("ends after acquire_timeout_ms, in mode " .. mode, env.in_task(function()
      local manager = env.manager({
        connection = { max_connections = 1, pool = { acquire_timeout_ms = 100 } },
        isolation = { mode = mode },
      })
      while_held(manager, function()
        local globex = assert(manager:get_db("globex"))
        for _, run in ipairs({
          function() return globex:query("SELECT 1") end,
          function() return globex:transaction(function(tx) return tx:query("SELECT 1") end) end,
          function() return globex:session(function() return 1 end) end,
          function() return globex:exec("SELECT 1") end,
        }) do
          local started = mtenant.now_ms()
          local value, err = run()
          local took = mtenant.now_ms() - started
          assert.is_nil(value)
          assert.equal("pool_exhausted", err.code)
          assert.is_false(err.ambiguous)
          assert.is_true(took >= 95 and took < 1000, "took " .. took)
        end
      end)
      assert.equal(1, assert(manager:get_db("acme")):value("SELECT 1"))
    end))
  end

  it("is limited in length by max_waiting", env.in_task(function()
    local manager = env.manager({ connection = {
      max_connections = 1,
      pool = { max = 1, max_waiting = 5, acquire_timeout_ms = 10000 },
    } })
    local globex = assert(manager:get_db("globex"))
    local waiting = {}
    while_held(manager, function()
      for _ = 1, 5 do
        waiting[#waiting + 1] = mtenant.spawn(globex.value, globex, "SELECT 1")
      end
      for _ = 1, 6 do -- the first is next in line, the others queue
        waiting[#waiting + 1] = mtenant.spawn(globex.transaction, globex,
          function(tx) return tx:value("SELECT 1") end)
      end
      mtenant.sleep(5)
      local started = mtenant.now_ms()
      local value, err = globex:value("SELECT 1")
      assert.is_nil(value)
      assert.equal("pool_exhausted", err.code)
      assert.is_true(mtenant.now_ms() - started < 100)
      value, err = globex:transaction(function() end)
      assert.is_nil(value)
      assert.equal("pool_exhausted", err.code)
    end)
    for _, task in ipairs(waiting) do assert.equal(1, task:await()) end
  end))

  it("ends with a time limit or a cancel, leaving the queue in order",
     env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local globex = assert(manager:get_db("globex"))
    while_held(manager, function()
      local patient = mtenant.spawn(globex.value, globex, "SELECT 7")
      local _, err = globex:query({ sql = "SELECT 1", timeout_ms = 30 })
      assert.equal("timeout", err.code)
      assert.is_false(err.ambiguous)
      _, err = globex:query({ sql = "CREATE TABLE x ()", timeout_ms = 30 })
      assert.equal("timeout", err.code)
      assert.is_false(err.ambiguous)
      _, err = mtenant.with_deadline(30, globex.query, globex, "SELECT 1")
      assert.equal("timeout", err.code)
      assert.is_false(err.ambiguous)
      _, err = mtenant.with_deadline(30, globex.transaction, globex,
                                     function() end)
      assert.equal("timeout", err.code)
      local task = mtenant.spawn(globex.query, globex, "SELECT 1")
      local other = mtenant.spawn(globex.session, globex, function() end)
      mtenant.sleep(5)
      task:cancel()
      other:cancel()
      _, err = task:await()
      assert.equal("cancelled", err.code)
      assert.is_false(err.ambiguous)
      _, err = other:await()
      assert.equal("cancelled", err.code)
      assert.is_false(patient.done)
      mtenant.spawn(function() assert.equal(7, patient:await()) end)
    end)
  end))

  it("is over at once for a handle whose tenant is not blocked", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 2 } })
      while_held(manager, function()
        local globex = assert(manager:get_db("globex"))
        for _ = 1, 20 do assert.equal(1, globex:value("SELECT 1")) end
        assert.equal(1, globex:transaction(function(tx)
          return tx:value("SELECT 1")
        end))
      end)
    end))
end)


describe("a connection", function()
  setup(function() env.tenants({ "acme", "globex" }) end)
  after_each(env.assert_nothing_left)

  it("is closed when it was idle for too long", env.in_task(function()
    local manager = env.manager({ connection = { pool = {
      idle_timeout_ms = 50,
    } } })
    local db = assert(manager:get_db("acme"))
    assert.equal(1, db:value("SELECT 1"))
    assert.equal(1, env.count())
    env.eventually("the connection to be closed", function()
      return env.count() == 0
    end)
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("stays when pool.min asks for it", env.in_task(function()
    local manager = env.manager({ connection = { pool = {
      idle_timeout_ms = 50, min = 2,
    } } })
    local db = assert(manager:get_db("acme"))
    mtenant.each(many(6), 6, function()
      return db:transaction(function(tx) return tx:query("SELECT pg_sleep(0.05)") end)
    end)
    assert.is_true(env.count() > 2)
    env.eventually("the others to be closed", function()
      return env.count() <= 2
    end)
    assert.equal(2, env.count())
  end))

  it("is replaced when it is old, also under load", env.in_task(function()
    local manager = env.manager({ connection = {
      max_connections = 2, pool = { max_lifetime_ms = 300 },
    } })
    local db = assert(manager:get_db("acme"))
    local pids, n = {}, 0
    env.eventually("another backend", function()
      local pid = env.must(db:value("SELECT pg_backend_pid()"))
      if not pids[pid] then n = n + 1 end
      pids[pid] = true
      return n >= 2
    end)
    assert.is_true(env.count() <= 2)
  end))

  it("is not replaced in the middle of a transaction", env.in_task(function()
    local manager = env.manager({ connection = {
      max_connections = 1, pool = { max_lifetime_ms = 50, idle_timeout_ms = 50 },
    } })
    local db = assert(manager:get_db("acme"))
    local before
    assert(db:transaction(function(tx)
      before = tx:value("SELECT pg_backend_pid()")
      mtenant.sleep(1500)
      assert.equal(before, tx:value("SELECT pg_backend_pid()"))
      return true
    end))
    assert.are_not.equal(before, db:value("SELECT pg_backend_pid()"))
  end))

  it("is its tenant's own in dedicated mode", env.in_task(function()
    local manager = env.manager({ isolation = { mode = "dedicated" } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    local pid = acme:value("SELECT pg_backend_pid()")
    for _ = 1, 5 do
      assert.are_not.equal(pid, globex:value("SELECT pg_backend_pid()"))
      assert.equal(pid, acme:value("SELECT pg_backend_pid()"))
    end
    assert.equal("t_acme", acme:value("SELECT current_schema()"))
    assert.equal(2, env.count())
    assert.is_true(manager:evict_pool("acme"))
    env.eventually("acme's connection to be closed", function()
      return env.count() == 1
    end)
    assert.equal("t_acme", acme:value("SELECT current_schema()"))
  end))

  it("in dedicated mode makes room for other tenants within the budget",
     env.in_task(function()
    local ids = {}
    for i = 1, 12 do ids[i] = "ded" .. i end
    env.tenants(ids)
    local manager = env.manager({
      connection = { max_connections = 3, pool = { acquire_timeout_ms = 20000 } },
      isolation = { mode = "dedicated" },
    })
    local most, over = 0, false
    mtenant.spawn(function()
      while not over do
        most = math.max(most, manager:get_stats().open)
        mtenant.sleep(1)
      end
    end)
    for _ = 1, 2 do
      local _, errs = mtenant.each(ids, 12, function(id)
        local schema = env.must(assert(manager:get_db(id)):value(
          "SELECT current_schema() FROM pg_sleep(0.005)"))
        assert.equal("t_" .. id, schema)
        return true
      end)
      assert.is_nil(errs and tostring(select(2, next(errs))))
    end
    over = true
    mtenant.sleep(2)
    assert.is_true(most <= 3, "there were " .. most)
  end))
end)
