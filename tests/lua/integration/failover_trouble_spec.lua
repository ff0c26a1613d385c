--- Failover where it is not plain: a server that turns read-only with sessions
--- and transactions under way, read-only by the user's own wish, poolers, hosts
--- that fail for different reasons.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local INSERT = "INSERT INTO ledger VALUES ($1)"


local function url_of(hosts, attrs)
  local dirs, ports = {}, {}
  for i, host in ipairs(hosts) do
    dirs[i], ports[i] = host.dir, ("%d"):format(host.port)
  end
  return ("host=%s port=%s user=mtenant dbname=mtenant target_session_attrs=%s")
    :format(table.concat(dirs, ","), table.concat(ports, ","), attrs)
end


local function manager_of(hosts, attrs, connection)
  connection = connection or {}
  connection.url = url_of(hosts, attrs)
  connection.retry = { max_attempts = 1 }
  return env.manager({ connection = connection })
end


local function name_of(db)
  return env.must(db:value("SELECT current_setting('cluster_name')"))
end


describe("a primary that only reads from now on", function()
  local old, new

  setup(function()
    old = env.start({ conf = { cluster_name = "old" } })
    new = env.start({ conf = { cluster_name = "new" } })
    for _, server in ipairs { old, new } do
      env.tenants({ "acme" }, server)
      env.sql("CREATE TABLE t_acme.ledger (n int)", server)
    end
  end)
  before_each(function()
    old:psql("ALTER SYSTEM RESET default_transaction_read_only;\n"
      .. "SELECT pg_reload_conf()")
  end)
  teardown(function()
    env.close(old)
    env.close(new)
  end)
  after_each(env.assert_nothing_left)

  local function demote()
    old:psql("ALTER SYSTEM SET default_transaction_read_only = on;\n"
      .. "SELECT pg_reload_conf()")
    env.eventually("the setting", function()
      return old:psql("SHOW default_transaction_read_only") == "on"
    end)
    mtenant.sleep(50) -- for the backends that wait for a command
  end

  local function count(n, server)
    return env.sql("SELECT count(*) FROM t_acme.ledger WHERE n = " .. n, server)
  end

  local function assert_moved(err)
    assert.equal("25006", err.sqlstate)
    assert.is_true(err.retryable)
    assert.is_false(err.ambiguous)
  end

  local function assert_own(err)
    assert.equal("25006", err.sqlstate)
    assert.is_false(err.retryable)
  end

  it("is left by all after the first write that it refuses, and cuts nobody off",
    env.in_task(function()
      local manager = manager_of({ old, new }, "read-write")
      local db = env.must(manager:get_db_async("acme"))
      local pinned = mtenant.spawn(function()
        return db:session(function(s)
          env.must(s:value("SELECT '1'"))
          mtenant.sleep(300)
          return name_of(s)
        end)
      end)
      mtenant.sleep(50)
      assert.equal("old", name_of(db)) -- by another connection
      demote()
      local ok, err = db:query(INSERT, 1)
      assert.is_nil(ok)
      assert_moved(err)
      env.must(db:query(INSERT, 1))
      assert.equal("new", name_of(db))
      assert.equal("0", count(1, old))
      assert.equal("1", count(1, new))
      assert.equal("old", (env.must(pinned:await())))
      env.eventually("no connection to the old one", function()
        return env.count("true", old) == 0
      end)
    end))

  it("is left by with_retry without a failure", env.in_task(function()
    local manager = manager_of({ old, new }, "read-write")
    local db = env.must(manager:get_db_async("acme"))
    demote()
    local result = env.must(mtenant.with_retry(function()
      return db:query(INSERT, 2)
    end, { max_attempts = 5, initial_delay_ms = 5 }))
    assert.equal(2, result.attempts)
    assert.equal("1", count(2, new))
  end))

  it("is left by a transaction, which may be tried again", env.in_task(function()
    local manager = manager_of({ old, new }, "read-write", { max_connections = 1 })
    local db = env.must(manager:get_db_async("acme"))
    local function write(tx) return tx:query(INSERT, 3) end
    demote()
    local ok, err = db:transaction(write)
    assert.is_nil(ok)
    assert_moved(err)
    env.must(db:transaction(write))
    assert.equal("1", count(3, new))
  end))

  it("is not meant by a transaction or a session of the user's own that only "
     .. "reads", env.in_task(function()
    local manager = manager_of({ old, new }, "read-write", { max_connections = 1 })
    local db = env.must(manager:get_db_async("acme"))
    local before = manager:get_stats().opened
    for _ = 1, 3 do
      local _, err = db:transaction({ read_only = true }, function(tx)
        return tx:query(INSERT, 4)
      end)
      assert_own(err)
      _, err = db:session(function(s)
        env.must(s:query("SET default_transaction_read_only = on"))
        return s:query(INSERT, 4)
      end)
      assert_own(err)
    end
    assert.equal("old", name_of(db))
    assert.equal(before, manager:get_stats().opened)
  end))

  it("will do where a primary is asked for", env.in_task(function()
    local manager = manager_of({ old, new }, "primary")
    local db = env.must(manager:get_db_async("acme"))
    demote()
    env.must(db:value("SELECT '1'")) -- reports it: the connection is replaced
    env.must(db:value("SELECT '1'"))
    local before = manager:get_stats().opened
    for _ = 1, 3 do
      local _, err = db:query(INSERT, 5)
      assert_own(err)
    end
    assert.equal("old", name_of(db))
    assert.equal(before, manager:get_stats().opened)
  end))

  it("is seen through poolers, which repeat what was reported once",
    env.in_task(function()
      for _, server in ipairs { old, new } do
        server:psql("ALTER ROLE mtenant IN DATABASE mtenant SET search_path = ''")
      end
      local poolers = { old:bouncer(), new:bouncer() }
      local function through(attrs)
        return manager_of(poolers, attrs, { pooler = "transaction" })
      end
      local _, err = through("standby"):get_db_async("acme")
      assert.equal("unreachable", err.code)
      assert.matches("is not a standby", err.message, 1, true)
      local db = env.must(through("read-write"):get_db_async("acme"))
      env.must(db:query(INSERT, 6))
      local _, own = db:transaction({ read_only = true }, function(tx)
        return tx:query(INSERT, 7)
      end)
      assert_own(own)
      demote()
      local _, refused = db:query(INSERT, 7)
      assert_moved(refused)
      env.must(db:query(INSERT, 7))
      assert.equal("0", count(7, old))
      assert.equal("1", count(7, new))
      mtenant.dispose_all(1000)
      for _, pooler in ipairs(poolers) do pooler:close() end
    end))

  it("and a host that is down are both named when none will do", env.in_task(
    function()
      demote()
      local nobody = { dir = new.dir .. "/none", port = 5432 }
      local manager = manager_of({ old, nobody }, "read-write")
      local _, err = manager:get_db_async("acme")
      assert.equal("unreachable", err.code)
      assert.is_true(err.retryable)
      assert.matches("is read-only (target_session_attrs=read-write); could not "
        .. "connect to " .. nobody.dir, err.message, 1, true)
    end))
end)
