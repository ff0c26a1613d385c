--- Time limits and cancelling: when they end a statement, what they say about
--- it, and whom they leave alone.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function db_of(id, overrides)
  return assert(env.manager(overrides):get_db(id))
end


local function active()
  return env.count("state = 'active' AND query ~ 'pg_sleep'")
end


describe("timeout_ms", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE TABLE t_acme.items (id int)")
  end)
  before_each(function() env.sql("TRUNCATE t_acme.items") end)
  after_each(env.assert_nothing_left)

  local SLOW = "SELECT pg_sleep(30)"
  local WAYS = {
    { "query", function(db, ms) return db:query({ sql = SLOW, timeout_ms = ms }) end },
    { "one", function(db, ms) return db:one({ sql = SLOW, timeout_ms = ms }) end },
    { "value", function(db, ms) return db:value({ sql = SLOW, timeout_ms = ms }) end },
    { "exec", function(db, ms) return db:exec(SLOW, { timeout_ms = ms }) end },
    { "a block", function(db, ms)
      return db:query({ sql = "DO $$ BEGIN PERFORM pg_sleep(30); END $$",
                        timeout_ms = ms })
    end },
    { "a definition", function(db, ms)
      return db:query({ sql = "CREATE TABLE x AS SELECT 1 AS a FROM pg_sleep(30)",
                        timeout_ms = ms })
    end },
    { "a transaction", function(db, ms)
      return db:transaction(function(tx)
        return tx:query({ sql = SLOW, timeout_ms = ms })
      end)
    end },
    { "tx:exec", function(db, ms)
      return db:transaction(function(tx) return tx:exec(SLOW, { timeout_ms = ms }) end)
    end },
    { "a session", function(db, ms)
      return db:session(function(s)
        return s:query({ sql = SLOW, timeout_ms = ms })
      end)
    end },
    { "a session statement", function(db, ms)
      return db:query({ sql = "SELECT pg_sleep(30), pg_advisory_lock(5)",
                        timeout_ms = ms })
    end },
    { "a pipeline", function(db, ms)
      return db:pipeline(function(p)
        return p:query({ sql = SLOW, timeout_ms = ms }):await()
      end)
    end },
  }

  for _, way in ipairs(WAYS) do
    it("ends " .. way[1] .. " on the server, without doubt", env.in_task(
      function()
        local db = db_of("acme")
        assert.equal(1, db:value("SELECT 1"))
        local started = mtenant.now_ms()
        local value, err = way[2](db, 100)
        local took = mtenant.now_ms() - started
        assert.is_nil(value)
        assert.equal("timeout", err.code)
        assert.is_false(err.ambiguous)
        assert.is_false(err.retryable)
        assert.is_true(took >= 90 and took < 1000, "took " .. took)
        env.eventually("the server to be done", function() return active() == 0 end)
        assert.equal(1, db:value("SELECT 1"))
      end))
  end

  it("has a default in the configuration", env.in_task(function()
    local db = db_of("acme", { connection = { statement_timeout_ms = 60 } })
    for _, run in ipairs({
      function() return db:query(SLOW) end,
      function() return db:exec(SLOW) end,
      function() return db:transaction(function(tx) return tx:query(SLOW) end) end,
      function() return db:session(function(s) return s:query(SLOW) end) end,
      function() return db:pipeline(function(p) return p:query(SLOW):await() end) end,
      function()
        local ok, err = pcall(function() for _ in db:rows(SLOW) do end end)
        if ok then return true end
        return nil, err
      end,
    }) do
      local started = mtenant.now_ms()
      local value, err = run()
      assert.is_nil(value)
      assert.equal("timeout", err.code)
      assert.is_true(mtenant.now_ms() - started < 1000)
    end
    assert.equal(1, db:value({ sql = "SELECT 1 FROM pg_sleep(0.1)",
                               timeout_ms = 5000 }))
  end))

  it("gives the result that came first", env.in_task(function()
    local db = db_of("acme")
    for _ = 1, 20 do
      assert.equal(1, db:value({ sql = "SELECT 1", timeout_ms = 1000 }))
    end
    for _ = 1, 30 do -- on the edge: an answer or a timeout, and never a doubt
      local n = env.sql("SELECT count(*) FROM t_acme.items")
      local rows, err = db:query({
        sql = "INSERT INTO items SELECT 1 FROM pg_sleep(0.004)", timeout_ms = 5,
      })
      local m = env.sql("SELECT count(*) FROM t_acme.items")
      if rows then
        assert.equal(1, m - n)
      else
        assert.equal("timeout", err.code)
        assert.is_false(err.ambiguous)
        assert.equal(0, m - n)
      end
    end
  end))

  it("is one statement's own: the others on its connection go on", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local acme = assert(manager:get_db("acme"))
      local globex = assert(manager:get_db("globex"))
      assert.equal(1, acme:value("SELECT 1"))
      local slow = mtenant.spawn(acme.query, acme, {
        sql = "SELECT pg_sleep(30)", timeout_ms = 100,
      })
      local others = {}
      for i = 1, 10 do
        others[i] = mtenant.spawn(globex.value, globex, "SELECT $1::int", i)
      end
      local _, err = slow:await()
      assert.equal("timeout", err.code)
      for i = 1, 10 do assert.equal(i, others[i]:await()) end
      assert.equal("0", globex:value("SHOW statement_timeout"))
    end))

  it("counts from the call, not from when it is sent", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    local holder = mtenant.spawn(acme.session, acme, function(s)
      return s:query("SELECT pg_sleep(0.15)")
    end)
    env.eventually("the connection to be taken", function() return active() == 1 end)
    local started = mtenant.now_ms()
    local value, err = globex:query({ sql = "SELECT pg_sleep(30)",
                                      timeout_ms = 250 })
    local took = mtenant.now_ms() - started
    assert.is_nil(value)
    assert.equal("timeout", err.code)
    assert.is_false(err.ambiguous)
    assert.is_true(took >= 240 and took < 600, "took " .. took)
    assert(holder:await())
  end))

  it("is in doubt only when the server does not answer", env.in_task(function()
    local server = env.start()
    local pid
    finally(function()
      if pid then env.signal(server, "CONT", pid) end
      env.close(server)
    end)
    env.tenants({ "acme" }, server)
    local manager = env.manager({ connection = { cancel_timeout_ms = 100 } }, server)
    local db = assert(manager:get_db_async("acme"))
    local function stop(backend)
      pid = backend
      env.signal(server, "STOP", pid)
    end
    for _, run in ipairs({
      function()
        stop(db:value("SELECT pg_backend_pid()"))
        return db:query({ sql = "SELECT 1", timeout_ms = 50 })
      end,
      function()
        return db:session(function(s)
          stop(s:backend_pid())
          return s:query({ sql = "SELECT 1", timeout_ms = 50 })
        end)
      end,
    }) do
      local started = mtenant.now_ms()
      local value, err = run()
      local took = mtenant.now_ms() - started
      assert.is_nil(value)
      assert.is_true(err.ambiguous, tostring(err))
      assert.is_false(err.retryable)
      assert.is_true(took >= 140 and took < 1500, "took " .. took)
      env.signal(server, "CONT", pid)
      pid = nil
      assert.equal(1, db:value("SELECT 1"))
    end
  end))
end)


describe("cancelling a task", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE TABLE t_acme.items (id int); CREATE TABLE t_globex.items (id int)")
  end)
  before_each(function()
    env.sql("TRUNCATE t_acme.items, t_globex.items")
  end)
  after_each(env.assert_nothing_left)

  it("cancels its statement on the server", env.in_task(function()
    local db = db_of("acme")
    for _, run in ipairs({
      function() return db:query("SELECT pg_sleep(30)") end,
      function() return db:exec("SELECT pg_sleep(30)") end,
      function()
        return db:transaction(function(tx) return tx:query("SELECT pg_sleep(30)") end)
      end,
      function()
        return db:session(function(s) return s:query("SELECT pg_sleep(30)") end)
      end,
    }) do
      local task = mtenant.spawn(run)
      env.eventually("it to run", function() return active() == 1 end)
      mtenant.sleep(10) -- the answers to what was ahead of it have been read
      local started = mtenant.now_ms()
      task:cancel()
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("cancelled", err.code)
      assert.is_false(err.ambiguous)
      env.eventually("it to stop", function() return active() == 0 end)
      assert.is_true(mtenant.now_ms() - started < 1000)
    end
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("stops the statement later when others were ahead of it", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local acme = assert(manager:get_db("acme"))
      local globex = assert(manager:get_db("globex"))
      for _, db in ipairs({ acme, globex }) do
        assert.equal(1, db:value("SELECT 1"))
      end
      local first = mtenant.spawn(globex.value, globex, "SELECT 1 FROM pg_sleep(0.05)")
      local task = mtenant.spawn(acme.query, acme, "SELECT pg_sleep(30), 'mine'")
      mtenant.sleep(5)
      task:cancel()
      local _, err = task:await()
      assert.equal("cancelled", err.code)
      assert.equal(1, first:await())
      local started = mtenant.now_ms()
      assert.equal(1, globex:value("SELECT 1"))
      assert.is_true(mtenant.now_ms() - started < 1000)
      assert.equal(0, active())
    end))

  it("rolls its transaction back, also when the function carries on",
     env.in_task(function()
    local db = db_of("acme")
    for _, ending in ipairs({
      function() return "as if nothing had happened" end,
      function() error("raised", 0) end,
      function() return nil, "no" end,
    }) do
      local task = mtenant.spawn(function()
        return db:transaction(function(tx)
          env.must(tx:query("INSERT INTO items VALUES (1)"))
          tx:query("SELECT pg_sleep(30)")
          local _, err = tx:query("INSERT INTO items VALUES (2)")
          assert.equal("cancelled", err.code)
          return ending()
        end)
      end)
      env.eventually("it to sleep", function() return active() == 1 end)
      task:cancel()
      pcall(task.await, task)
      env.eventually("the end", function()
        return env.count("state <> 'idle'") == 0
      end)
      assert.equal("0", env.sql("SELECT count(*) FROM t_acme.items"))
    end
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("leaves other tenants' statements on the same connection alone",
     env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local acme = assert(manager:get_db("acme"))
    local globex = assert(manager:get_db("globex"))
    local over, acknowledged = false, 0
    local writers = {}
    for i = 1, 3 do
      writers[i] = mtenant.spawn(function()
        while not over do
          env.must(globex:query("INSERT INTO items SELECT 1 FROM pg_sleep(0.002)"))
          acknowledged = acknowledged + 1
        end
        return true
      end)
    end
    local sure, doubtful, done = 0, 0, 0
    for i = 1, 60 do
      local task = mtenant.spawn(acme.query, acme,
        "INSERT INTO items SELECT 1 FROM pg_sleep(0.005)")
      mtenant.sleep(i % 12)
      task:cancel()
      local rows, err = task:await()
      if rows then
        done = done + 1
      else
        assert.equal("cancelled", err.code)
        if err.ambiguous then doubtful = doubtful + 1 else sure = sure + 1 end
      end
    end
    over = true
    for i = 1, 3 do assert.is_true(writers[i]:await()) end
    assert.equal(acknowledged, tonumber(env.sql("SELECT count(*) FROM t_globex.items")))
    assert.is_true(acknowledged > 20)
    env.eventually("the connection to be quiet", function() return active() == 0 end)
    local rows = tonumber(env.sql("SELECT count(*) FROM t_acme.items"))
    assert.is_true(rows >= done and rows <= done + doubtful,
      ("%d rows, %d done, %d doubtful, %d not"):format(rows, done, doubtful, sure))
  end, 30000))

  it("does not hit the next statement by a late cancel", env.in_task(function()
    local db = db_of("acme", { connection = { max_connections = 1 } })
    for i = 1, 100 do
      local task = mtenant.spawn(db.query, db, "SELECT pg_sleep(0.003)")
      mtenant.sleep(i % 5)
      task:cancel()
      assert(db:query("INSERT INTO items VALUES (1)"))
      task:await()
      assert.equal(i, db:transaction(function(tx)
        return tx:value("SELECT count(*) FROM items")
      end))
    end
  end, 30000))

  it("before it is sent takes it back, and that is certain", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local acme = assert(manager:get_db("acme"))
      local globex = assert(manager:get_db("globex"))
      local holder = mtenant.spawn(globex.transaction, globex, function(tx)
        env.must(tx:query("SELECT 1"))
        return mtenant.sleep(60)
      end)
      env.eventually("the connection to be taken", function()
        return env.count("state = 'idle in transaction'") == 1
      end)
      local tasks = {}
      for i = 1, 5 do
        tasks[i] = mtenant.spawn(acme.query, acme, "INSERT INTO items VALUES (1)")
      end
      mtenant.sleep(5)
      for i = 1, 5 do tasks[i]:cancel() end
      for i = 1, 5 do
        local _, err = tasks[i]:await()
        assert.equal("cancelled", err.code)
        assert.is_false(err.ambiguous)
      end
      assert(holder:await())
      assert.equal(0, acme:value("SELECT count(*) FROM items"))
    end))
end)


describe("a transaction that does nothing", function()
  setup(function() env.tenants { "acme" } end)
  after_each(env.assert_nothing_left)

  it("is ended by the server after idle_transaction_timeout_ms", env.in_task(
    function()
      local manager = env.manager {
        connection = { idle_transaction_timeout_ms = 100 },
      }
      local db = assert(manager:get_db("acme"))
      assert(db:exec("CREATE TABLE idle (id int)"))
      local ok, err = db:transaction(function(tx)
        env.must(tx:query("INSERT INTO idle VALUES (1)"))
        mtenant.sleep(400)
        return tx:query("INSERT INTO idle VALUES (2)")
      end)
      assert.is_nil(ok)
      assert.equal("connection_lost", err.code)
      assert.is_false(err.ambiguous)
      assert.equal(0, db:value("SELECT count(*) FROM idle"))
      assert.equal("100ms",
                   db:value("SHOW idle_in_transaction_session_timeout"))
    end))
end)
