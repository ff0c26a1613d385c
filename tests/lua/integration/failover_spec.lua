--- Several hosts, and which of them may serve: target_session_attrs, failover,
--- reconnect.

local env = require "tests.support.env"
local mtenant = require "mtenant"


-- both servers' sockets in one URL, in this order
local function url_of(first, second, attrs)
  return ("host=%s,%s port=%d,%d user=mtenant dbname=mtenant%s"):format(
    first.dir, second.dir, first.port, second.port,
    attrs and " target_session_attrs=" .. attrs or "")
end


local function manager_of(url, overrides)
  local all = { connection = { url = url } }
  for key, value in pairs(overrides or {}) do
    if key == "connection" then
      for name, v in pairs(value) do all.connection[name] = v end
    else
      all[key] = value
    end
  end
  return env.manager(all)
end


-- which of the two a manager is served by
local function served_by(manager)
  local db, err = manager:get_db_async("acme")
  if not db then return nil, err end
  return db:value("SELECT pg_is_in_recovery()") and "standby" or "primary"
end


local function caught_up(primary, standby)
  local lsn = primary:psql("SELECT pg_current_wal_lsn()")
  env.eventually("the standby has it all", function()
    return standby:psql(("SELECT pg_last_wal_replay_lsn() >= '%s'"):format(lsn))
      == "t"
  end)
end


describe("target_session_attrs", function()
  local primary, standby

  setup(function()
    primary = env.start()
    env.tenants({ "acme" }, primary)
    standby = env.standby(primary)
    caught_up(primary, standby)
  end)
  teardown(function()
    env.close(standby)
    env.close(primary)
  end)
  after_each(env.assert_nothing_left)

  for attrs, right in pairs {
    any = "first", ["read-write"] = "primary", ["read-only"] = "standby",
    primary = "primary", standby = "standby", ["prefer-standby"] = "standby",
  } do
    it("= " .. attrs .. " finds its server in either order", env.in_task(
      function()
        for _, order in ipairs { { primary, standby }, { standby, primary } } do
          local manager = manager_of(url_of(order[1], order[2], attrs))
          local wanted = right ~= "first" and right
            or order[1] == primary and "primary" or "standby"
          assert.equal(wanted, served_by(manager))
          manager:dispose()
        end
      end))
  end

  it("= prefer-standby takes what there is", env.in_task(function()
    local manager = manager_of(url_of(primary, primary, "prefer-standby"))
    assert.equal("primary", served_by(manager))
  end))

  it("that no host has is unreachable, and says why", env.in_task(function()
    local manager = manager_of(url_of(primary, primary, "standby"), {
      connection = { retry = { max_attempts = 2, initial_delay_ms = 1 } },
    })
    local db, err = manager:get_db_async("acme")
    assert.is_nil(db)
    assert.equal("unreachable", err.code)
    assert.is_true(err.retryable)
    assert.equal(2, err.attempts)
    assert.matches("is not a standby %(target_session_attrs=standby%)",
                   err.message)
  end))

  it("is looked up in the environment, too", env.in_task(function()
    local code = ([[
      local mtenant = require "mtenant"
      mtenant.run(function()
        local m = assert(mtenant.create_tenant_manager {
          connection = { url = %q },
          resolve = function() return { schema = "t_acme" } end,
        })
        print(assert(m:get_db_async("acme")):value("SELECT pg_is_in_recovery()"))
        m:dispose()
      end)]]):format(url_of(primary, standby))
    local out = env.run_script(code, { PGTARGETSESSIONATTRS = "standby" })
    assert.matches("true", type(out) == "table" and out.stdout or out)
  end))

  it("is checked before anything is sent", function()
    local ok, err = pcall(mtenant.create_tenant_manager, {
      connection = { url = url_of(primary, standby, "master") },
      resolve = function() end,
    })
    assert.is_false(ok)
    assert.matches("target_session_attrs must be", err.message)
  end)

  it("goes past a host that says nothing", env.in_task(function()
    local silent = env.silent_server()
    local manager = manager_of(url_of(silent, primary, "primary"), {
      connection = { pool = { connect_timeout_ms = 300 } },
    })
    assert.equal("primary", served_by(manager))
    manager:dispose()
    env.close(silent)
  end))
end)


describe("a failover", function()
  local primary, standby, servers

  before_each(function()
    primary = env.start { conf = { synchronous_commit = "on" } }
    env.tenants({ "acme" }, primary)
    primary:psql("CREATE TABLE t_acme.rows (n int PRIMARY KEY);"
      .. "ALTER TABLE t_acme.rows OWNER TO mtenant;"
      .. "GRANT ALL ON SCHEMA t_acme TO mtenant")
    standby = env.standby(primary)
    servers = { standby, primary }
    -- what is acknowledged is on both
    primary:psql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary:psql("SELECT pg_reload_conf()")
    env.eventually("replication is synchronous", function()
      return primary:psql("SELECT sync_state FROM pg_stat_replication")
        == "sync"
    end)
  end)
  after_each(function()
    env.assert_nothing_left()
    for _, server in ipairs(servers) do env.close(server) end
  end)

  it("loses nothing that was acknowledged, and repeats nothing", env.in_task(
    function()
      local manager = manager_of(url_of(primary, standby, "read-write"), {
        connection = { retry = { max_attempts = 100, initial_delay_ms = 20,
                                 max_delay_ms = 200 } },
        breaker = { initial_delay_ms = 50, max_delay_ms = 200 },
      })
      local acknowledged, refused, unknown, n, stop = {}, {}, {}, 0, false
      local writers = {}
      for i = 1, 4 do
        writers[i] = mtenant.spawn(function()
          while not stop do
            local db = assert(manager:get_db_async("acme"))
            n = n + 1
            local me = n
            local ok, err = db:query("INSERT INTO rows VALUES ($1)", me)
            if ok then acknowledged[#acknowledged + 1] = me
            elseif err.ambiguous then unknown[me] = true
            else refused[me] = err.code end
          end
        end)
      end
      mtenant.sleep(300)
      local before = #acknowledged
      assert.is_true(before > 0)
      primary:stop("immediate")
      -- without its standby it would wait for ever, as it is to
      standby:psql("ALTER SYSTEM SET synchronous_standby_names = ''")
      standby:promote()
      env.eventually("writes go on", function()
        return #acknowledged > before + 50
      end, 10000)
      stop = true
      for _, t in ipairs(writers) do t:await() end
      local db = assert(manager:get_db("acme"))
      local there = {}
      for _, row in ipairs(assert(db:query("SELECT n FROM rows"))) do
        assert.is_nil(there[row.n])
        there[row.n] = true
      end
      for _, me in ipairs(acknowledged) do assert.is_true(there[me]) end
      for me in pairs(refused) do assert.is_nil(there[me]) end
      local ambiguous = 0
      for _ in pairs(unknown) do ambiguous = ambiguous + 1 end
      assert.is_true(ambiguous <= 4 * 32)
    end, 60000))

  it("is noticed where connections stay: a standby is promoted", env.in_task(
    function()
      local manager = manager_of(url_of(standby, primary, "standby"), {
        connection = { retry = { max_attempts = 1 } },
      })
      local db = assert(manager:get_db_async("acme"))
      assert.is_true(db:value("SELECT pg_is_in_recovery()"))
      standby:promote()
      -- this one may still be answered by it; nobody after it is
      db:query("SELECT 1")
      env.eventually("its connections are gone", function()
        db:query("SELECT 1")
        return manager:get_stats().open == 0
      end)
      local _, err = db:query("SELECT 1")
      assert.equal("unreachable", err.code)
    end))

  it("is noticed where connections stay: a primary turns read-only",
     env.in_task(function()
    local manager = manager_of(url_of(primary, standby, "read-write"), {
      connection = { retry = { max_attempts = 1 } },
    })
    local db = assert(manager:get_db_async("acme"))
    assert(db:query("INSERT INTO rows VALUES (1)"))
    primary:psql("ALTER SYSTEM SET default_transaction_read_only = on")
    primary:psql("SELECT pg_reload_conf()")
    local err
    env.eventually("a write is refused", function()
      local ok
      ok, err = db:query("INSERT INTO rows VALUES (2)")
      if ok then db:query("DELETE FROM rows WHERE n = 2") end
      return err ~= nil
    end)
    assert.is_true(err.retryable)
    assert.is_false(err.ambiguous)
    assert.is_true(err.sqlstate == "25006" or err.code == "unreachable")
    env.eventually("its connections are gone", function()
      db:query("SELECT 1")
      return manager:get_stats().open == 0
    end)
    standby:psql("ALTER SYSTEM SET synchronous_standby_names = ''")
    standby:promote()
    env.eventually("the new primary serves", function()
      return db:query("INSERT INTO rows VALUES (3)") ~= nil
    end, 10000)
    assert.equal("1", standby:psql("SELECT count(*) FROM t_acme.rows "
                                   .. "WHERE n = 3"))
  end))
end)


describe("reconnect", function()
  before_each(function() env.tenants { "acme", "globex" } end)
  after_each(env.assert_nothing_left)

  it("replaces connections, and no statement fails by it", env.in_task(
    function()
      local manager = env.manager { connection = { max_connections = 4 } }
      local failed, done, stop, pids = nil, 0, false, {}
      local tasks = {}
      for i = 1, 8 do
        tasks[i] = mtenant.spawn(function()
          local db = manager:get_db(i % 2 == 0 and "acme" or "globex")
          while not stop do
            local pid, err
            if i < 7 then
              pid, err = db:value("SELECT pg_backend_pid()")
            else
              pid, err = db:transaction(function(tx)
                env.must(tx:query("SELECT 1"))
                mtenant.sleep(5)
                return tx:value("SELECT pg_backend_pid()")
              end)
            end
            failed = failed or err
            pids[pid or 0], done = true, done + 1
          end
        end)
      end
      for _ = 1, 10 do
        mtenant.sleep(50)
        assert.is_true(manager:reconnect())
      end
      stop = true
      for _, t in ipairs(tasks) do t:await() end
      assert.is_nil(failed)
      local backends = 0
      for _ in pairs(pids) do backends = backends + 1 end
      assert.is_true(backends > 10, backends .. " backends")
      assert.is_true(done > 100)
    end))

  it("can be of one server", env.in_task(function()
    local manager = env.manager()
    assert(manager:get_db("acme"):query("SELECT 1"))
    assert.is_false(manager:reconnect("nowhere:1"))
    local ok, err = pcall(manager.reconnect, manager, 5)
    assert.is_false(ok)
    assert.equal("misuse", err.code)
  end))
end)
