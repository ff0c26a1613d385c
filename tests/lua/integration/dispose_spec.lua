--- The end of a manager: whatever is going on, it ends soon, and nothing is
--- left on either side.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local MESSAGE = "[mtenant] TenantManager has been disposed"


describe("dispose", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE TABLE t_acme.items (id int)")
  end)
  after_each(env.assert_nothing_left)

  it("of a manager that was never used returns at once, twice", env.in_task(
    function()
      local manager = env.manager()
      assert.is_true(manager:dispose())
      assert.is_true(manager:dispose())
    end))

  it("works outside of any task as well", function()
    local manager = env.manager()
    mtenant.run(function()
      assert.equal(1, assert(manager:get_db("acme")):value("SELECT 1"))
    end)
    assert.is_true(manager:dispose())
    env.eventually("no connection", function() return env.count() == 0 end)
  end)

  it("makes every later call fail, with the same message", env.in_task(
    function()
      local manager = env.manager()
      local db = assert(manager:get_db_async("acme"))
      local shared = assert(manager:get_shared_db_async())
      manager:dispose()
      for name, call in pairs({
        get_db = function() return manager:get_db("acme") end,
        get_db_other = function() return manager:get_db("other") end,
        get_db_async = function() return manager:get_db_async("acme") end,
        get_shared_db = function() return manager:get_shared_db() end,
        get_shared_db_async = function() return manager:get_shared_db_async() end,
        warmup = function() return manager:warmup({ "acme" }) end,
        query = function() return db:query("SELECT 1") end,
        one = function() return db:one("SELECT 1") end,
        value = function() return db:value("SELECT 1") end,
        exec = function() return db:exec("SELECT 1") end,
        ddl = function() return db:query("CREATE TABLE x ()") end,
        set = function() return db:query("SET work_mem = '1MB'") end,
        transaction = function()
          return db:transaction(function(tx) return tx:query("SELECT 1") end)
        end,
        session = function() return db:session(function() return 1 end) end,
        pipeline = function()
          return db:pipeline(function(p) return p:query("SELECT 1"):await() end)
        end,
        atomic = function()
          return db:pipeline({ atomic = true }, function(p) p:query("SELECT 1") end)
        end,
        shared_query = function() return shared:query("SELECT 1") end,
        rows = function()
          local ok, err = pcall(function() for _ in db:rows("SELECT 1") do end end)
          if ok then return true end
          return nil, err
        end,
      }) do
        local value, err = call()
        assert.is_nil(value, name)
        assert.equal("disposed", err.code, name)
        assert.equal(MESSAGE, err.message, name)
        assert.is_false(err.retryable, name)
        assert.is_false(err.ambiguous, name)
      end
      assert.is_false(manager:evict_pool("acme"))
      assert.is_false(manager:has_pool("acme"))
      assert.equal(0, manager:get_pool_count())
      assert.same({}, manager:get_active_tenant_ids())
      assert.equal(3, manager:get_retry_config().max_attempts)
    end))

  it("cancels what runs on the server, and says so", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db_async("acme"))
    local RUNS = {
      function() return db:query("SELECT pg_sleep(60)") end,
      function() return db:exec("SELECT pg_sleep(60)") end,
      function() return db:query("DO $$ BEGIN PERFORM pg_sleep(60); END $$") end,
      function()
        return db:transaction(function(tx) return tx:query("SELECT pg_sleep(60)") end)
      end,
      function()
        return db:session(function(s) return s:query("SELECT pg_sleep(60)") end)
      end,
      function()
        local ok, err = pcall(function()
          for _ in db:rows("SELECT pg_sleep(60)") do end
        end)
        if ok then return true end
        return nil, err
      end,
    }
    local tasks = {}
    for i, run in ipairs(RUNS) do tasks[i] = mtenant.spawn(run) end
    env.eventually("all to run", function()
      return env.count("state = 'active' AND query ~ 'pg_sleep'") == #RUNS
    end)
    local started = mtenant.now_ms()
    manager:dispose()
    local took = mtenant.now_ms() - started
    assert.is_true(took < 1500, "took " .. took)
    for i, task in ipairs(tasks) do
      local value, err = task:await()
      assert.is_nil(value, i)
      assert.equal("disposed", err.code, i)
    end
    env.eventually("the server to have stopped them", function()
      return env.count() == 0
    end)
  end))

  it("ends a transaction between its statements, and undoes it", env.in_task(
    function()
      local manager = env.manager()
      local db = assert(manager:get_db_async("acme"))
      local go
      local task = mtenant.spawn(db.transaction, db, function(tx)
        env.must(tx:query("INSERT INTO items VALUES (1)"))
        while not go do mtenant.sleep(1) end
        return tx:query("INSERT INTO items VALUES (2)")
      end)
      env.eventually("the transaction", function()
        return env.count("state = 'idle in transaction'") == 1
      end)
      local disposal = mtenant.spawn(manager.dispose, manager)
      mtenant.sleep(5)
      go = true
      local started = mtenant.now_ms()
      assert.is_true(disposal:await())
      assert.is_true(mtenant.now_ms() - started < 1000)
      local value, err = task:await()
      assert.is_nil(value)
      assert.is_true(err.code == "disposed" or err.code == "connection_lost",
                     tostring(err))
      assert.is_false(err.ambiguous)
      assert.equal("0", env.sql("SELECT count(*) FROM t_acme.items"))
    end))

  it("answers who waits for a connection at once", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local acme = assert(manager:get_db_async("acme"))
    local globex = assert(manager:get_db("globex"))
    local holder = mtenant.spawn(acme.query, acme, "SELECT pg_sleep(60)")
    env.eventually("the connection to be busy", function()
      return env.count("state = 'active'") == 1
    end)
    mtenant.sleep(30)
    local waiters, answered = {}, nil
    for i, method in ipairs({ "query", "exec", "transaction", "session" }) do
      local arg = i <= 2 and "SELECT 1" or function() end
      waiters[i] = mtenant.spawn(function()
        local value, err = globex[method](globex, arg)
        answered = answered or mtenant.now_ms()
        return value, err
      end)
    end
    mtenant.sleep(5)
    local started = mtenant.now_ms()
    manager:dispose()
    for _, task in ipairs(waiters) do
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("disposed", err.code)
      assert.is_false(err.ambiguous)
    end
    assert.is_true(answered - started < 50)
    local _, err = holder:await()
    assert.equal("disposed", err.code)
  end))

  it("while tenants are being connected leaves no connection behind",
     env.in_task(function()
    for wait = 0, 20, 2 do
      local manager = env.manager({ isolation = {
        mode = wait % 4 == 0 and "shared" or "dedicated",
      } })
      local tasks = {}
      for i, id in ipairs({ "acme", "globex", "acme" }) do
        tasks[i] = mtenant.spawn(manager.get_db_async, manager, id)
      end
      tasks[4] = mtenant.spawn(manager.get_shared_db_async, manager)
      mtenant.sleep(wait / 2)
      manager:dispose()
      for _, task in ipairs(tasks) do
        local db, err = task:await()
        if db then
          assert.is_nil(err)
          db, err = db:query("SELECT 1")
          assert.is_nil(db)
        end
        assert.equal("disposed", err.code)
      end
      env.eventually("no connection", function() return env.count() == 0 end)
    end
  end))

  it("ends a retry that waits, at once", env.in_task(function()
    local retries = 0
    local manager = env.manager({ connection = {
      url = "postgresql://mtenant@127.0.0.1:1/mtenant",
      retry = { initial_delay_ms = 60000, max_delay_ms = 60000,
                on_retry = function() retries = retries + 1 end },
    } })
    local task = mtenant.spawn(manager.get_db_async, manager, "acme")
    env.eventually("the first retry", function() return retries == 1 end)
    local started = mtenant.now_ms()
    manager:dispose()
    local db, err = task:await()
    assert.is_nil(db)
    assert.equal("disposed", err.code)
    assert.is_true(mtenant.now_ms() - started < 100)
  end))

  it("ends a connect that hangs, at once", env.in_task(function()
    local server = env.silent_server()
    finally(function() env.close(server) end)
    local manager = env.manager({ connection = {
      pool = { connect_timeout_ms = 60000 },
    } }, server)
    local task = mtenant.spawn(manager.get_db_async, manager, "acme")
    local query = mtenant.spawn(function()
      return assert(manager:get_db("globex")):query("SELECT 1")
    end)
    mtenant.sleep(50)
    local started = mtenant.now_ms()
    manager:dispose()
    for _, waiter in ipairs({ task, query }) do
      local value, err = waiter:await()
      assert.is_nil(value)
      assert.equal("disposed", err.code)
    end
    assert.is_true(mtenant.now_ms() - started < 200)
  end))

  it("cuts off after its time limit what does not listen", env.in_task(
    function()
      local server, pid = env.start(), nil
      finally(function()
        if pid then env.signal(server, "CONT", pid) end
        env.close(server)
      end)
      env.tenants({ "acme" }, server)
      local manager = env.manager(nil, server)
      local db = assert(manager:get_db_async("acme"))
      pid = db:value("SELECT pg_backend_pid()")
      local task = mtenant.spawn(db.query, db, "SELECT pg_sleep(60)")
      mtenant.sleep(20)
      env.signal(server, "STOP", pid) -- a cancel does not reach it any more
      local started = mtenant.now_ms()
      manager:dispose(200)
      local took = mtenant.now_ms() - started
      assert.is_true(took >= 150 and took < 1500, "took " .. took)
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("disposed", err.code)
      assert.is_true(err.ambiguous)
    end))

  it("of several at the same time waits for the one end", env.in_task(
    function()
      local manager = env.manager()
      assert(manager:get_db_async("acme"))
      local ended = 0
      mtenant.each({ 1, 2, 3, 4 }, 4, function()
        manager:dispose()
        ended = ended + 1
        assert.equal(0, manager:get_stats().open)
      end)
      assert.equal(4, ended)
      env.eventually("no connection", function() return env.count() == 0 end)
    end))

  it("goes on when its task is cancelled", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db_async("acme"))
    local query = mtenant.spawn(db.query, db, "SELECT pg_sleep(60)")
    mtenant.sleep(20)
    local task = mtenant.spawn(function()
      mtenant.sleep(5)
      manager:dispose()
      return "disposed"
    end)
    mtenant.sleep(1)
    task:cancel()
    assert.equal("disposed", task:await())
    local _, err = query:await()
    assert.equal("disposed", err.code)
  end))

  it("is what a forgotten manager gets from the collector", env.in_task(
    function()
      do
        local manager = env.manager()
        assert.equal(1, assert(manager:get_db("acme")):value("SELECT 1"))
      end
      env.eventually("its connection to be closed", function()
        collectgarbage()
        return env.count() == 0
      end)
    end))

  it("of one that the collector has just taken is nothing", env.in_task(
    function()
      for _ = 1, 5 do
        do
          local manager = env.manager()
          assert.equal(1, assert(manager:get_db("acme")):value("SELECT 1"))
          -- what a finalizer can still reach lives on for a while
          mtenant.spawn(function() return manager end):await()
        end
        collectgarbage()
        mtenant.dispose_all()
      end
      env.eventually("no connection", function()
        collectgarbage()
        return env.count() == 0
      end)
    end))

  it("of all managers leaves none", env.in_task(function()
    for _ = 1, 3 do
      assert.equal(1, assert(env.manager():get_db("acme")):value("SELECT 1"))
    end
    mtenant.dispose_all()
    env.eventually("no connection", function() return env.count() == 0 end)
  end))
end)
