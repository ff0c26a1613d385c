--- Why a connection could not be made: each cause has its code, at once and
--- without secrets.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local CODE = mtenant.errors.CODE

local server -- over TCP, asks for passwords
local silent -- accepts connections, and that is all


local function url(user, password, database, port, host)
  return ("postgresql://%s%s@%s:%d/%s"):format(user,
    password and ":" .. password or "", host or "127.0.0.1",
    port or server.port, database or "mtenant")
end


-- the error of get_db_async and how long it took
local function failure(overrides)
  local base = { connection = { url = url("mtenant"), retry = {
    max_attempts = 2, initial_delay_ms = 5, max_delay_ms = 5,
  } } }
  for key, value in pairs(overrides) do base.connection[key] = value end
  local manager = env.manager(base)
  local started = mtenant.now_ms()
  local db, err = manager:get_db_async("acme")
  local took = mtenant.now_ms() - started
  assert.is_nil(db)
  manager:dispose()
  return err, took
end


local function assert_failure(overrides, code, attempts, sqlstate)
  local err = failure(overrides)
  assert.equal(CODE[code], err.code, tostring(err))
  assert.equal(attempts, err.attempts, tostring(err))
  assert.equal(attempts > 1, err.retryable)
  assert.equal(sqlstate, err.sqlstate)
  assert.is_false(err.ambiguous)
  assert.is_falsy(err.message:find("[\r\n]"))
  assert.is_falsy(tostring(err):find("s3cret", 1, true))
  assert.equal("acme", err.tenant_id)
  return err
end


describe("a connection", function()
  setup(function()
    server = env.start({ tcp = true, hba = table.concat({
      "local all all trust",
      "host all asks,asks2 127.0.0.1/32 scram-sha-256",
      "host all banned 127.0.0.1/32 reject",
      "hostssl all needs_tls 127.0.0.1/32 trust",
      "host all mtenant,limited 127.0.0.1/32 trust",
    }, "\n") })
    env.tenants({ "acme" }, server)
    server:psql([[
      CREATE ROLE asks LOGIN PASSWORD 's3cret';
      CREATE ROLE asks2 LOGIN PASSWORD 's3cret2';
      CREATE ROLE banned LOGIN;
      CREATE ROLE needs_tls LOGIN;
      CREATE ROLE limited LOGIN CONNECTION LIMIT 0;
      CREATE DATABASE closed ALLOW_CONNECTIONS false;
      GRANT USAGE ON SCHEMA t_acme TO asks, asks2, limited;]])
  end)
  teardown(function()
    env.close(server)
    if silent then env.close(silent) end
  end)
  after_each(env.assert_nothing_left)

  it("to a port where nobody listens is refused", env.in_task(function()
    local err = assert_failure({ url = url("mtenant", nil, nil, 1) }, "refused", 2)
    assert.is_truthy(err.message:find("127.0.0.1", 1, true))
    assert.is_truthy(err.message:find("1", 1, true))
  end))

  it("to a socket that is not there is refused", env.in_task(function()
    assert_failure({ url = "postgresql://mtenant@/mtenant?host=/nowhere/at/all" },
                   "refused", 2)
  end))

  it("with a wrong password, or none, is auth, and not repeated", env.in_task(
    function()
      assert_failure({ url = url("asks", "wrong-s3cret") }, "auth", 1, "28P01")
      assert_failure({ url = url("asks") }, "auth", 1)
      assert_failure({ url = url("asks"), password = "wrong-s3cret" }, "auth", 1,
                     "28P01")
      assert_failure({ url = url("nobody_at_all") }, "auth", 1, "28000")
      assert_failure({ url = url("banned") }, "auth", 1, "28000")
    end))

  it("takes the password from the configuration, as text or function",
     env.in_task(function()
    local calls = 0
    for _, password in ipairs({ "s3cret", function()
      calls = calls + 1
      return "s3cret"
    end }) do
      local manager = env.manager({ connection = {
        url = url("asks"), password = password,
      } })
      local db = assert(manager:get_db_async("acme"))
      assert.equal("asks", db:value("SELECT current_user::text"))
      manager:dispose()
    end
    assert.equal(1, calls)
    for _, password in ipairs({
      function() error("no password today") end, function() return 5 end,
    }) do
      local err
      local said = env.stderr_of(function()
        err = failure({ url = url("asks"), password = password })
      end)
      assert.equal("auth", err.code)
      assert.is_truthy(said:find("password", 1, true))
    end
  end))

  it("to a database that is not there is final", env.in_task(function()
    assert_failure({ url = url("mtenant", nil, "absent") }, "query", 1, "3D000")
  end))

  it("to a database that takes none is final", env.in_task(function()
    local err = failure({ url = url("mtenant", nil, "closed") })
    assert.equal("55000", err.sqlstate)
    assert.equal(1, err.attempts)
  end))

  it("to a host nobody knows is dns, and is repeated", env.in_task(function()
    local err = assert_failure({
      url = url("mtenant", nil, nil, nil, "no-such-host.invalid"),
    }, "dns", 2)
    assert.is_truthy(err.message:find("no-such-host.invalid", 1, true))
  end, 20000))

  it("by a name in the hosts file is made", env.in_task(function()
    local manager = env.manager({ connection = {
      url = url("mtenant", nil, nil, nil, "localhost"),
    } })
    local db = assert(manager:get_db_async("acme"))
    assert.equal("t_acme", db:value("SELECT current_schema()"))
  end))

  it("goes on to the next host of the url", env.in_task(function()
    local manager = env.manager({ connection = {
      url = ("postgresql://mtenant@127.0.0.1:1,127.0.0.1:%d/mtenant"):format(
        server.port),
    } })
    local db = assert(manager:get_db_async("acme"))
    assert.equal("t_acme", db:value("SELECT current_schema()"))
    assert_failure({
      url = "postgresql://mtenant@127.0.0.1:1,127.0.0.1:2/mtenant",
    }, "refused", 2)
  end))

  it("without TLS, where it is asked for, is tls", env.in_task(function()
    local err = failure({ url = url("mtenant") .. "?sslmode=require" })
    assert.equal("tls", err.code)
    assert.equal(1, err.attempts)
    assert.is_false(err.retryable)
    err = failure({ url = url("needs_tls") .. "?sslmode=disable" })
    assert.equal("auth", err.code)
  end))

  it("too many is too_many_connections, and is repeated", env.in_task(function()
    assert_failure({ url = url("limited") }, "too_many_connections", 2, "53300")
  end))

  it("to a server that only starts is starting_up", env.in_task(function()
    local standby = env.start({ tcp = true })
    finally(function() env.close(standby) end)
    standby:stop("fast")
    -- a standby that has nothing to follow, and answers nobody yet
    local signal = assert(io.open(standby.dir .. "/data/standby.signal", "w"))
    signal:close()
    local conf = assert(io.open(standby.dir .. "/data/postgresql.conf", "a"))
    conf:write("\nhot_standby = off\n")
    conf:close()
    standby:start_in_background(0)
    local err
    env.eventually("57P03", function()
      err = failure({ url = url("mtenant", nil, nil, standby.port) })
      return err.code == "starting_up"
    end)
    assert.equal("57P03", err.sqlstate)
    assert.is_true(err.retryable)
    assert.equal(2, err.attempts)
  end))

  it("that is accepted and then ignored ends after connect_timeout_ms",
     env.in_task(function()
    silent = env.silent_server()
    local err, took = failure({
      url = url("mtenant", nil, nil, silent.port),
      pool = { connect_timeout_ms = 150 },
    })
    assert.equal("timeout", err.code)
    assert.is_true(err.retryable)
    assert.is_false(err.ambiguous)
    assert.equal(2, err.attempts)
    assert.is_true(took >= 300 and took < 1500, "took " .. took)
  end))

  it("that is ignored by one host is tried at the next", env.in_task(function()
    silent = silent or env.silent_server()
    local manager = env.manager({ connection = {
      url = ("postgresql://mtenant@127.0.0.1:%d,127.0.0.1:%d/mtenant"):format(
        silent.port, server.port),
      pool = { connect_timeout_ms = 150 },
    } })
    local db = assert(manager:get_db_async("acme"))
    assert.equal("t_acme", db:value("SELECT current_schema()"))
  end))

  it("fails a plain query at once, without tries of its own", env.in_task(
    function()
      local manager = env.manager({
        connection = { url = url("mtenant", nil, nil, 1) },
        breaker = { initial_delay_ms = 0 },
      })
      local db = assert(manager:get_db("acme"))
      for _, run in ipairs({
        function() return db:query("SELECT 1") end,
        function() return db:exec("SELECT 1") end,
        function() return db:transaction(function(tx) return tx:query("SELECT 1") end) end,
        function() return db:session(function() return 1 end) end,
        function() return manager:get_shared_db():query("SELECT 1") end,
      }) do
        local started = mtenant.now_ms()
        local value, err = run()
        assert.is_nil(value)
        assert.equal("refused", err.code)
        assert.is_true(err.retryable)
        assert.is_false(err.ambiguous)
        assert.is_true(mtenant.now_ms() - started < 500)
      end
    end))

  it("with a malformed url is misuse, when the manager is made", function()
    for _, wrong in ipairs({
      "postgresql://a:s3cret@host:notaport/x", "postgresql://[::1/x",
      "host=a port=5432 nonsense=1", "postgresql://h/x?nonsense=s3cret",
      "postgresql://a%zz@h/x", "port=1,2 host=a",
    }) do
      local ok, err = pcall(function()
        local manager = mtenant.create_tenant_manager(env.config({
          connection = { url = wrong },
        }))
        return manager
      end)
      assert.is_false(ok, wrong)
      assert.is_true(mtenant.errors.is(err, "misuse"), tostring(err))
      assert.is_falsy(err.message:find("s3cret", 1, true), err.message)
      assert.is_falsy(err.message:find("\n"))
      assert.is_truthy(err.message:find("connect_errors_spec.lua", 1, true),
                       err.message)
    end
    for _, wrong in ipairs({ "", false, 5 }) do
      local config = env.config()
      config.connection.url = wrong
      local ok, err = pcall(mtenant.create_tenant_manager, config)
      assert.is_false(ok)
      assert.is_true(mtenant.errors.is(err, "misuse"))
    end
  end)

  it("of a route has its own errors", env.in_task(function()
    local manager = env.manager({ resolve = function(id)
      if id == "bad" then return { url = "postgresql://h:notaport/x", schema = "x" } end
      return { url = url("mtenant", nil, nil, 1), schema = "t_acme" }
    end })
    local _, err = manager:get_db_async("bad")
    assert.is_true(err.code == "policy" or err.code == "misuse", tostring(err))
    _, err = assert(manager:get_db("other")):query("SELECT 1")
    assert.equal("refused", err.code)
  end))
end)
