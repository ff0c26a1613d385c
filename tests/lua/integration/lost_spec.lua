--- Connections that are lost: what the statements on them say, and what is
--- true of them on the server.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function terminate(pid)
  env.sql("SELECT pg_terminate_backend(" .. pid .. ")")
end


-- one that has been at it for a while: nobody takes it for an idle one
local function backend_of(pattern, server)
  return env.eventually("a backend", function()
    return tonumber(env.sql("SELECT pid FROM pg_stat_activity WHERE "
      .. "application_name = '" .. env.APPLICATION .. "' AND " .. pattern
      .. " AND clock_timestamp() - query_start > interval '80 ms'", server))
  end)
end


describe("a terminated backend", function()
  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE TABLE t_acme.items (id int); CREATE TABLE t_globex.items (id int)")
  end)
  before_each(function() env.sql("TRUNCATE t_acme.items, t_globex.items") end)
  after_each(env.assert_nothing_left)

  it("in the middle of a statement: connection_lost, and it did not run",
     env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    for _, run in ipairs({
      function() return db:query("INSERT INTO items SELECT 1 FROM pg_sleep(30)") end,
      function() return db:exec("INSERT INTO items SELECT 1 FROM pg_sleep(30)") end,
      function()
        return db:transaction(function(tx)
          return tx:query("INSERT INTO items SELECT 1 FROM pg_sleep(30)")
        end)
      end,
    }) do
      local task = mtenant.spawn(run)
      terminate(backend_of("state = 'active' AND query ~ 'pg_sleep'"))
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("connection_lost", err.code)
      assert.equal("57P01", err.sqlstate)
      assert.equal("FATAL", err.severity)
      assert.is_false(err.ambiguous)
      assert.is_true(err.retryable)
      assert.equal("0", env.sql("SELECT count(*) FROM t_acme.items"))
      assert.equal(1, db:value("SELECT 1"))
    end
  end))

  it("takes nothing along that waited behind the statement", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local acme = assert(manager:get_db("acme"))
      local globex = assert(manager:get_db("globex"))
      for _, db in ipairs({ acme, globex }) do assert.equal(1, db:value("SELECT 1")) end
      local slow = mtenant.spawn(acme.query, acme, "SELECT pg_sleep(30)")
      local others = {}
      for i = 1, 10 do
        others[i] = mtenant.spawn(globex.query, globex,
                                  "INSERT INTO items VALUES ($1)", i)
      end
      terminate(backend_of("state = 'active' AND query ~ 'pg_sleep'"))
      local _, err = slow:await()
      assert.equal("connection_lost", err.code)
      local rows = 0
      for i = 1, 10 do
        local ok, why = others[i]:await()
        if ok then
          rows = rows + 1
        else
          assert.equal("connection_lost", why.code)
          assert.is_false(why.ambiguous)
        end
      end
      assert.equal(rows, tonumber(env.sql("SELECT count(*) FROM t_globex.items")))
      assert.equal(10, rows) -- they certainly did not run there: they run again
    end))

  it("between the statements of a transaction: it is lost as a whole",
     env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    local runs = 0
    local value, err = db:transaction(function(tx)
      runs = runs + 1
      env.must(tx:query("INSERT INTO items VALUES (1)"))
      terminate(tx:value("SELECT pg_backend_pid()"))
      local _, why
      env.eventually("the loss", function()
        _, why = tx:query("INSERT INTO items VALUES (2)")
        return why ~= nil
      end)
      assert.equal("connection_lost", why.code)
      assert.is_false(why.ambiguous)
      _, why = tx:query("SELECT 1")
      assert.equal("connection_lost", why.code)
      _, why = tx:exec("SELECT 1")
      assert.equal("connection_lost", why.code)
      return "as if nothing had happened"
    end)
    assert.is_nil(value)
    assert.equal("connection_lost", err.code)
    assert.is_false(err.ambiguous)
    assert.equal(1, runs)
    assert.equal("0", env.sql("SELECT count(*) FROM t_acme.items"))
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("in the middle of COMMIT: nothing was kept, and it says so", env.in_task(
    function()
      env.sql([[
        CREATE OR REPLACE FUNCTION t_acme.slow() RETURNS trigger
          LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t_acme.items
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
          EXECUTE FUNCTION t_acme.slow()]])
      finally(function() env.sql("DROP TRIGGER slow ON t_acme.items") end)
      local db = assert(env.manager():get_db("acme"))
      local task = mtenant.spawn(db.transaction, db, function(tx)
        return env.must(tx:query("INSERT INTO items VALUES (1)"))
      end)
      terminate(backend_of("state = 'active' AND query = 'COMMIT'"))
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("connection_lost", err.code)
      local rows = env.sql("SELECT count(*) FROM t_acme.items")
      assert.is_true(err.ambiguous or rows == "0")
    end))

  it("in a session, in rows, in a pipeline", env.in_task(function()
    local db = assert(env.manager():get_db("acme"))
    for _, run in ipairs({
      function() return db:session(function(s) return s:query("SELECT pg_sleep(30)") end) end,
      function()
        local ok, err = pcall(function()
          for _ in db:rows("SELECT pg_sleep(30)") do end
        end)
        if ok then return true end
        return nil, err
      end,
      function()
        return db:pipeline({ atomic = true }, function(p)
          p:query("INSERT INTO items VALUES (1)")
          p:query("SELECT pg_sleep(30)")
        end)
      end,
    }) do
      local task = mtenant.spawn(run)
      terminate(backend_of("state = 'active' AND query ~ 'pg_sleep'"))
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("connection_lost", err.code)
      assert.equal(1, db:value("SELECT 1"))
    end
    assert.equal("0", env.sql("SELECT count(*) FROM t_acme.items"))
  end))

  it("that was idle is not noticed by the next statement", env.in_task(
    function()
      local manager = env.manager({ connection = { max_connections = 1 } })
      local db = assert(manager:get_db("acme"))
      for i = 1, 30 do
        local lost = manager:get_stats().lost
        terminate(db:value("SELECT pg_backend_pid()"))
        -- a transaction can't go elsewhere: it needs the loss to be known
        if i % 2 == 0 then
          env.eventually("the loss", function()
            return manager:get_stats().lost > lost
          end)
        elseif i % 3 == 0 then
          mtenant.sleep(i % 4)
        end
        local ok, err
        if i % 2 == 1 then
          ok, err = db:query("INSERT INTO items VALUES ($1)", i)
        else
          ok, err = db:transaction(function(tx)
            return tx:query("INSERT INTO items VALUES ($1)", i)
          end)
        end
        assert.is_nil(err and tostring(err))
        assert.is_truthy(ok)
      end
      assert.equal(30, db:value("SELECT count(DISTINCT id) FROM items"))
      assert.equal(30, db:value("SELECT count(*) FROM items"))
    end))

  it("by the server's own limits is one that was idle, or is told",
     env.in_task(function()
    env.sql("ALTER ROLE mtenant SET idle_session_timeout = '60ms'")
    env.sql("ALTER ROLE mtenant SET idle_in_transaction_session_timeout = '60ms'")
    finally(function()
      env.sql("ALTER ROLE mtenant RESET idle_session_timeout")
      env.sql("ALTER ROLE mtenant RESET idle_in_transaction_session_timeout")
    end)
    local manager = env.manager({ connection = { max_connections = 1 } })
    local db = assert(manager:get_db("acme"))
    for i = 1, 2 do
      assert.equal(1, db:value("SELECT 1"))
      env.eventually("the loss", function() return manager:get_stats().lost == i end)
    end
    local _, err = db:transaction(function(tx)
      env.must(tx:query("INSERT INTO items VALUES (1)"))
      env.eventually("the loss", function() return manager:get_stats().lost == 3 end)
      return tx:query("SELECT 1")
    end)
    assert.equal("connection_lost", err.code)
    assert.is_false(err.ambiguous)
    assert.equal(0, db:value("SELECT count(*) FROM items"))
  end))

  it("makes with_retry try again, without any row twice", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 2 } })
    local db = assert(manager:get_db("acme"))
    local over, kills = false, 0
    local killer = mtenant.spawn(function()
      while not over do
        env.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
          .. "application_name = '" .. env.APPLICATION .. "' LIMIT 1")
        kills = kills + 1
        mtenant.sleep(10)
      end
    end)
    local doubtful = 0
    local _, errs = mtenant.each({ 1, 2, 3, 4, 5, 6, 7, 8 }, 8, function(worker)
      for i = 1, 15 do
        local result, err = mtenant.with_retry(function()
          return db:query("INSERT INTO items SELECT $1::int FROM pg_sleep(0.002)",
                          worker * 100 + i)
        end, { max_attempts = 50, initial_delay_ms = 1, max_delay_ms = 5 })
        if not result then
          if not err.ambiguous then return nil, err end
          doubtful = doubtful + 1
        end
      end
      return true
    end)
    over = true
    killer:await()
    assert.is_nil(errs and tostring(select(2, next(errs))))
    assert.is_true(kills > 3)
    local rows = tonumber(env.sql("SELECT count(*) FROM t_acme.items"))
    assert.equal("0", env.sql("SELECT count(*) FROM (SELECT id FROM t_acme.items "
      .. "GROUP BY id HAVING count(*) > 1) x"))
    assert.is_true(rows >= 120 - doubtful and rows <= 120, rows .. " rows")
  end, 30000))
end)


describe("a server that dies", function()
  local server

  setup(function()
    server = env.start()
    env.tenants({ "acme", "globex" }, server)
    env.sql("CREATE TABLE t_acme.items (id int); CREATE TABLE t_globex.items (id int)",
            server)
  end)
  before_each(function()
    env.sql("TRUNCATE t_acme.items, t_globex.items", server)
  end)
  teardown(function() env.close(server) end)
  after_each(env.assert_nothing_left)

  it("leaves in doubt what it had been sent", env.in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } }, server)
    local acme = assert(manager:get_db_async("acme"))
    local globex = assert(manager:get_db_async("globex"))
    -- both are known to be quick: one is sent behind the other
    local slow = "INSERT INTO items SELECT 1 FROM pg_sleep($1)"
    for _ = 1, 8 do
      env.must(acme:query(slow, 0))
      env.must(globex:query("INSERT INTO items VALUES (1)"))
    end
    local head = mtenant.spawn(acme.query, acme, slow, 30)
    local behind = mtenant.spawn(globex.query, globex, "INSERT INTO items VALUES (1)")
    backend_of("state = 'active' AND query ~ 'pg_sleep'", server)
    server:restart("kill")
    for _, task in ipairs({ head, behind }) do
      local value, err = task:await()
      assert.is_nil(value)
      assert.equal("connection_lost", err.code)
      assert.is_true(err.ambiguous)
      assert.is_false(err.retryable)
      assert.is_false(mtenant.is_retryable_error(err))
      assert.is_truthy(tostring(err):find("outcome is unknown", 1, true))
    end
    assert.equal(1, acme:value("SELECT 1"))
  end))

  it("leaves no doubt about a transaction that was not at its COMMIT",
     env.in_task(function()
    local manager = env.manager(nil, server)
    local db = assert(manager:get_db_async("acme"))
    local task = mtenant.spawn(db.transaction, db, function(tx)
      env.must(tx:query("INSERT INTO items VALUES (1)"))
      return tx:query("SELECT pg_sleep(30)")
    end)
    backend_of("state = 'active' AND query ~ 'pg_sleep'", server)
    server:restart("immediate")
    local value, err = task:await()
    assert.is_nil(value)
    assert.equal("connection_lost", err.code)
    assert.is_false(err.ambiguous)
    assert.equal("0", env.sql("SELECT count(*) FROM t_acme.items", server))
  end))

  it("leaves in doubt a COMMIT that was on its way", env.in_task(function()
    env.sql([[
      CREATE FUNCTION t_acme.slow() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
      CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t_acme.items
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        EXECUTE FUNCTION t_acme.slow()]], server)
    finally(function() env.sql("DROP TRIGGER slow ON t_acme.items", server) end)
    local manager = env.manager(nil, server)
    local db = assert(manager:get_db_async("acme"))
    local runs = 0
    local task = mtenant.spawn(db.transaction, db, { retry = 5 }, function(tx)
      runs = runs + 1
      return env.must(tx:query("INSERT INTO items VALUES (1)"))
    end)
    backend_of("state = 'active' AND query = 'COMMIT'", server)
    server:restart("kill")
    local value, err = task:await()
    assert.is_nil(value)
    assert.equal("connection_lost", err.code)
    assert.is_true(err.ambiguous)
    assert.equal(1, runs)
  end))

  it("makes an idempotent query run once more", env.in_task(function()
    local manager = env.manager(nil, server)
    local db = assert(manager:get_db_async("acme"))
    local task = mtenant.spawn(db.query, db, {
      sql = "SELECT count(*) AS n FROM pg_sleep(0.3)", idempotent = true,
    })
    backend_of("state = 'active' AND query ~ 'pg_sleep'", server)
    server:restart("kill")
    local rows, err = task:await()
    assert.is_nil(err and tostring(err))
    assert.equal(1, rows[1].n)
  end))
end)
