--- The fields of a route: each is checked, and named when it is wrong. Nothing
--- here connects anywhere.

local errors = require "mtenant.errors"
local mtenant = require "mtenant"
local named_servers = require "mtenant.named_servers"
local testing = require "mtenant.testing"


local CONFIG = {
  connection = { url = "postgresql://app:secret@main/app?sslmode=require" },
  servers = {
    eu1 = "postgresql://eu1:6000",
    ["eu1-replica"] = { url = "host=eu1-b user=reader", labels = { zone = "b" } },
  },
}


local function config(route)
  local out = {}
  for key, value in pairs(CONFIG) do out[key] = value end
  out.resolve = function() return route end
  return out
end


local function with_schema(route)
  route.schema = route.schema or "t_acme"
  return route
end


local function resolve(route)
  return testing.resolve(config(with_schema(route)), "acme")
end


local function refused(route)
  local found, err = resolve(route)
  assert.is_nil(found)
  assert.is_true(errors.is(err))
  assert.equal("policy", err.code)
  assert.equal("acme", err.tenant_id)
  assert.is_nil(err.message:find("secret", 1, true))
  return err.message
end


local HUGE, NAN = math.huge, 0 / 0


describe("a route", function()
  it("is taken with all that it can say", function()
    local route = assert(resolve({
      server = "eu1", role = "r_acme", strategy = "schema", ttl_ms = 5,
      settings = { work_mem = "5MB", statement_timeout = 1500, jit = false,
                   ["app.x"] = 0.5 },
      pool = { max = 3, max_waiting = 7, mode = "dedicated" },
      labels = { tier = "gold" },
      read = { "eu1-replica", { server = "eu1" },
               { url = "postgresql://r:secret@other:5433/app" },
               max_lag_ms = 250, read_your_writes = false },
    }))
    assert.same({
      server = "eu1", url = "postgresql://eu1:6000", schema = "t_acme",
      role = "r_acme", strategy = "schema", ttl_ms = 5,
      settings = { work_mem = "5MB", statement_timeout = "1500", jit = "off",
                   ["app.x"] = "0.5" },
      pool = { max = 3, max_waiting = 7, mode = "dedicated" },
      labels = { tier = "gold" },
      read = {
        { server = "eu1-replica", url = "host=eu1-b user=reader" },
        { server = "eu1", url = "postgresql://eu1:6000" },
        { url = "postgresql://r@other:5433/app" },
        max_lag_ms = 250, read_your_writes = false,
      },
    }, route)
    assert.is_nil(resolve({ read = {}, settings = {} }).read)
    assert.is_true(resolve({ read = { "eu1" } }).read.read_your_writes)
  end)

  it("is refused for each field that is wrong, by its name", function()
    local reader = "eu1-replica"
    for _, case in ipairs({
      { { sever = "eu1" }, 'route.sever is not .*did you mean "server"' },
      { { 5 }, "route%[1%] is not" },
      { { server = 5 }, "route.server must be a string, got number" },
      { { server = "" }, "route.server must not be empty" },
      { { server = "eu1\0" }, "route.server must not contain a NUL" },
      { { server = "eu2" }, 'route.server: "eu2" is none of config.servers, '
        .. 'did you mean "eu1"' },
      { { server = "zzzzzzz" }, 'route.server: "zzzzzzz" is none' },
      { { server = "eu1", url = "postgresql://x/" }, "both a server and a url" },
      { { url = true }, "route.url must be a string, got boolean" },
      { { url = "" }, "route.url must not be empty" },
      { { url = "postgresql://h\0/x" }, "route.url must not contain a NUL" },
      { { database = 1 }, "route.database must be a string" },
      { { role = {} }, "route.role must be a string, got table" },
      { { strategy = "rows" }, "route.strategy must be" },
      { { settings = "x" }, "route.settings must be a table, got string" },
      { { settings = { "x" } }, "route.settings: .*got number" },
      { { settings = { [""] = "x" } }, "route.settings: " },
      { { settings = { work_mem = {} } }, "route.settings.work_mem must be a "
        .. "string, a number or a boolean, got table" },
      { { settings = { work_mem = NAN } }, "route.settings.work_mem must be a "
        .. "finite" },
      { { settings = { work_mem = HUGE } }, "route.settings.work_mem must" },
      { { settings = { work_mem = "a\0b" } }, "route.settings.work_mem must "
        .. "not contain a NUL" },
      { { settings = { work_mem = "\255" } }, "route.settings.work_mem.*UTF%-8" },
      { { settings = { work_mem = ("x"):rep(5000) } }, "work_mem.*4096 bytes" },
      { { settings = { work_mem = 1, WORK_MEM = 2 } }, "there twice" },
      { { settings = { ["a b"] = 1 } }, "route.settings.a b.*no name" },
      { { settings = { ["1a"] = 1 } }, "route.settings.1a.*no name" },
      { { settings = { ["a."] = 1 } }, "route.settings.a%..*no name" },
      { { settings = { ["a;b"] = 1 } }, "route.settings.a;b.*no name" },
      { { settings = { statement_timeout = "soon" } },
        "route.settings.statement_timeout.*must be a time" },
      { { settings = { statement_timeout = -1 } }, "must be a time" },
      { { pool = 5 }, "route.pool must be a table, got number" },
      { { pool = { maxx = 5 } }, 'route.pool.maxx.*did you mean "max"' },
      { { pool = { max = 0 } }, "route.pool.max must be from 1" },
      { { pool = { max = 1.5 } }, "route.pool.max must be an integer" },
      { { pool = { max = NAN } }, "route.pool.max must be an integer" },
      { { pool = { max = "5" } }, "route.pool.max must be an integer, got str" },
      { { pool = { max_waiting = 2 ^ 40 } }, "route.pool.max_waiting must be" },
      { { pool = { mode = "own" } }, "route.pool.mode must be" },
      { { pool = { mode = 1 } }, "route.pool.mode must be .* got number" },
      { { labels = "x" }, "route.labels must be a table" },
      { { labels = { "x" } }, "route.labels: .*got number" },
      { { labels = { a = 1 } }, "route.labels.a must be a string, got number" },
      { { labels = { a = "\0" } }, "route.labels.a must not contain" },
      { { ttl_ms = -1 }, "route.ttl_ms must be non%-negative" },
      { { ttl_ms = NAN }, "route.ttl_ms must be a finite number" },
      { { ttl_ms = "1" }, "route.ttl_ms must be a number, got string" },
      { { read = "eu1" }, "route.read must be a table, got string" },
      { { read = { 5 } }, "route.read%[1%] must be a table, got number" },
      { { read = { reader, [3] = reader } }, "holes: route.read%[2%] is nil" },
      { { read = { [0] = reader, reader } }, "holes" },
      { { read = { [1.5] = reader } }, "holes" },
      { { read = { reader, max_lag = 5 } }, 'route.read.max_lag .*"max_lag_ms"' },
      { { read = { reader, max_lag_ms = 0 } }, "route.read.max_lag_ms must" },
      { { read = { reader, max_lag_ms = NAN } }, "max_lag_ms must be a finite" },
      { { read = { reader, max_lag_ms = HUGE } }, "max_lag_ms must be a finite" },
      { { read = { reader, max_lag_ms = "1" } }, "max_lag_ms must be a number" },
      { { read = { reader, read_your_writes = 1 } }, "read_your_writes must" },
      { { read = { "eu-replica" } }, 'route.read%[1%].server: .*mean "eu1' },
      { { read = { reader, {} } }, "route.read%[2%] needs a server or a url" },
      { { read = { { sever = "x" } } }, 'route.read%[1%].sever .*"server"' },
      { { read = { { server = "eu1", url = "x" } } }, "route.read%[1%] has both" },
      { { read = { { url = "" } } }, "route.read%[1%].url must not be empty" },
      { { read = { { url = "postgresql://u:secret@h:70000/" } } },
        "route.read%[1%].url: .*port" },
      { { url = "postgresql://u:secret@h:70000/" }, "route.url.*port" },
      { { url = "postgresql://u:secret@[h/" }, "route.url.*not valid" },
    }) do
      local message = refused(case[1])
      assert.is_truthy(message:find(case[2]), message .. "\n" .. case[2])
    end
    local many, readers = {}, {}
    for i = 1, 17 do many["app.x" .. i], readers[i] = "1", "eu1" end
    assert.is_truthy(refused({ settings = many }):find("17 parameters"))
    assert.is_truthy(refused({ read = readers }):find("17 servers"))
  end)

  it("may not set what keeps tenants apart, however it is spelt", function()
    for _, name in ipairs({
      "search_path", "role", "session_authorization", "is_superuser",
      "client_encoding", "standard_conforming_strings", "backslash_quote",
      "transaction_isolation", "transaction_read_only",
      "transaction_deferrable", "default_transaction_isolation",
      "default_transaction_read_only", "default_transaction_deferrable",
      "row_security", "session_replication_role", "lo_compat_privileges",
      "allow_system_table_mods", "seed", "client_connection_check_interval",
      "in_hot_standby", "temp_tablespaces", "local_preload_libraries",
      "session_preload_libraries", "app.tenant_id",
    }) do
      for _, spelt in ipairs({ name, name:upper(),
                               name:sub(1, 1):upper() .. name:sub(2) }) do
        local message = refused({ settings = { [spelt] = "x" } })
        assert.is_truthy(message:find("route.settings." .. spelt, 1, true),
                         message)
      end
    end
  end)

  it("keeps the codes of names that are none", function()
    for _, schema in ipairs({ "", "a\0b", "pg_catalog", "public" }) do
      local _, err = resolve({ schema = schema })
      assert.equal("invalid_tenant_id", err.code)
      assert.is_truthy(err.message:find("schema"), err.message)
    end
    local _, err = resolve({ strategy = "database", database = "" })
    assert.equal("invalid_tenant_id", err.code)
  end)
end)


describe("config.servers", function()
  local function wrong(servers)
    local ok, err = pcall(mtenant.create_tenant_manager, {
      connection = { url = "postgresql://app:secret@main/app" },
      servers = servers, resolve = function() end,
    })
    assert.is_false(ok)
    assert.equal("misuse", err.code)
    assert.is_nil(err.message:find("secret", 1, true))
    return err.message
  end

  it("are checked, each by its name", function()
    for _, case in ipairs({
      { { eu1 = 5 }, "servers.eu1 must be a url or a table, got number" },
      { { eu1 = "" }, "servers.eu1 must not be empty" },
      { { eu1 = { ur = "x" } }, "servers.eu1 has no field ur" },
      { { eu1 = {} }, "servers.eu1.url must be a string, got nil" },
      { { eu1 = { url = "x", labels = { a = 1 } } }, "servers.eu1.labels.a" },
      { { "postgresql://x/" }, "the name of a server" },
      { { ["a b"] = "postgresql://x/" }, "the name of a server" },
      { { eu1 = "postgresql://u:secret@h:0/" }, "servers.eu1: .*port" },
      { { eu1 = "nonsense" }, "servers.eu1: " },
    }) do
      local message = wrong(case[1])
      assert.is_truthy(message:find(case[2]), message)
    end
  end)

  it("inherit what connection.url says, but not where that leads", function()
    local cfg = require("mtenant.config").define(config({}))
    local servers = assert(named_servers.of(cfg))
    assert.same({ "eu1", "eu1-replica" }, servers.names)
    local eu1, replica = servers.by_name.eu1, servers.by_name["eu1-replica"]
    assert.equal("eu1:6000", eu1.address)
    assert.equal("eu1-b:5432", replica.address)
    assert.same({ zone = "b" }, replica.labels)
    local function has(server, text)
      return (" " .. server.url .. " "):find(" " .. text .. " ", 1, true) ~= nil
    end
    for _, text in ipairs({ "user='app'", "password='secret'", "dbname='app'",
                            "sslmode='require'", "host='eu1'", "port='6000'" }) do
      assert.is_true(has(eu1, text), text)
    end
    assert.is_true(has(replica, "user='reader'"))
    assert.is_nil(replica.url:find("main", 1, true))
  end)

  it("show no password", function()
    for url, shown in pairs({
      ["postgresql://u:p%20w@h:1/d?sslmode=require"] =
        "postgresql://u@h:1/d?sslmode=require",
      ["postgresql://u@h/d?password=x&sslmode=require"] =
        "postgresql://u@h/d?sslmode=require",
      ["postgres://u:x@a,b:2/d?password=y"] = "postgres://u@a,b:2/d",
      ["postgresql:///d?host=/tmp"] = "postgresql:///d?host=/tmp",
      ["host=h password=x user=u"] = "host=h user=u",
      ["host=h password = 'a b' user=u"] = "host=h user=u",
      ["password='a\\'b c' host=h"] = "",
      ["host=h sslpassword=x"] = "host=h",
    }) do
      assert.equal(shown, named_servers.public_url(url))
    end
  end)
end)
