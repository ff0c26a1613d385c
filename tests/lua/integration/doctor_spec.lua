--- mtenant doctor: each check finds the trouble that is really there, and says
--- nothing where there is none.

local doctor = require "mtenant.doctor"
local env = require "tests.support.env"
local lfs = require "lfs"
local log = require "mtenant.log"


local function by_schema(id) return "t_" .. id end


-- A configuration that nothing is wrong with; `more` is laid over it.
local function config(more, server)
  local cfg = {
    connection = { url = (server or env.server()).url, max_connections = 4,
                   pool = { max = 4 }, statement_timeout_ms = 30000,
                   idle_transaction_timeout_ms = 60000 },
    isolation = { schema_name_template = by_schema },
  }
  for part, values in pairs(more or {}) do
    if type(cfg[part]) == "table" then
      for key, value in pairs(values) do cfg[part][key] = value end
    else
      cfg[part] = values
    end
  end
  return cfg
end


local function examine(given)
  given.timeout_ms = given.timeout_ms or 5000
  given.config = given.config or config()
  return doctor.run(given)
end


-- The finding of that check whose text has `what`; fails without one.
local function expect(findings, level, check, what)
  local said = {}
  for i, one in ipairs(findings) do
    if one.check == check and one.what:find(what, 1, true) then
      assert.equal(level, one.level, one.what)
      if level ~= "ok" and level ~= "info" then
        assert.is_truthy(one.fix, one.what)
      end
      return one
    end
    said[i] = ("%s %s %s"):format(one.level, one.check, one.what)
  end
  error(("no finding %q of %s in:\n%s"):format(what, check,
                                               table.concat(said, "\n")), 2)
end


-- All is well: neither warnings nor errors, and each check has looked.
local function expect_well(findings, ...)
  for _, one in ipairs(findings) do
    assert.is_true(one.level == "ok" or one.level == "info",
                   one.level .. " " .. one.check .. " " .. one.what)
  end
  for _, check in ipairs { ... } do
    local looked = false
    for _, one in ipairs(findings) do looked = looked or one.check == check end
    assert.is_true(looked, check)
  end
end


local function folder(files)
  local path = os.tmpname()
  os.remove(path)
  assert(lfs.mkdir(path))
  for name, text in pairs(files) do
    local file = assert(io.open(path .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end
  return path
end


describe("the doctor", function()
  local folders = {}

  local function new_folder(files)
    folders[#folders + 1] = folder(files)
    return folders[#folders]
  end

  setup(function()
    env.tenants({ "acme", "globex" })
    env.sql("CREATE SCHEMA IF NOT EXISTS t_role") -- of the observer's
  end)
  after_each(function()
    for _, path in ipairs(folders) do
      os.execute("rm -rf '" .. path .. "'")
    end
    folders = {}
    env.assert_nothing_left()
  end)

  it("finds nothing where all is well", env.in_task(function()
    env.server():psql("GRANT CREATE ON DATABASE mtenant TO mtenant")
    local findings = examine { migrations = {
      tenant_folder = new_folder { ["0001_a.sql"] = "SELECT 1;" },
      tenant_discovery = function() return { "acme", "globex" } end,
    } }
    expect_well(findings, "config", "versions", "folders", "pooler", "connect",
                "clock", "budget", "settings", "permissions", "discovery")
    expect(findings, "ok", "discovery", "2 tenants")
    expect(findings, "ok", "folders", "1 migrations")
  end))

  -- ---- configuration

  it("finds what the configuration cannot be", env.in_task(function()
    local one = expect(examine { config = config { isolatoin = {} } }, "error",
                       "config", "unknown option")
    assert.is_truthy(one.what:find('did you mean "isolation"', 1, true))
    expect(examine { config = config { connection = { pool = { max = 0 } } } },
           "error", "config", "connection.pool.max must be at least 1")
    expect(doctor.run {}, "error", "config", "neither a tenant.config.lua")
    expect(doctor.run { url = "" }, "error", "config", "neither a tenant.config.lua")
    expect(doctor.run { url = "no url at all =" }, "error", "connect", "")
  end))

  it("finds what is likely not meant", env.in_task(function()
    local url = env.server().url:gsub("@", ":s3cret@", 1)
    local findings = examine { config = config {
      connection = { url = url, statement_timeout_ms = 0, max_connections = 2 },
      isolation = { verify_schema = false },
      debug = { enabled = true, log_parameters = true },
    } }
    expect(findings, "warning", "config", "has a password in it")
    expect(findings, "warning", "config", "statement_timeout_ms is not set")
    expect(findings, "warning", "config", "verify_schema is false")
    expect(findings, "warning", "config", "log_parameters is on")
    expect(findings, "info", "config", "connection.pool.max (4) is more")
    expect(findings, "info", "config", "same role")
    for _, one in ipairs(findings) do
      assert.is_nil((one.what .. (one.fix or "")):find("s3cret", 1, true))
    end
    findings = examine { timeout_ms = 200, config = config {
      connection = { url = "postgresql://u@192.0.2.1/x" } } }
    expect(findings, "warning", "config", "sslmode is not set")
  end))

  it("knows which hosts are this machine", function()
    local hosts = require("mtenant.doctor.config").hosts
    for url, here in pairs {
      ["postgresql://u@/x?host=%2Ftmp%2fa"] = true,
      ["postgres://localhost:5432/x"] = true, ["postgres://[::1]:5432/x"] = true,
      ["postgres:///x"] = true, ["host=/tmp dbname=x"] = true,
      ["postgres://u:p@127.0.0.1,db2/x"] = false, ["postgres://db/x"] = false,
      ["host=db.internal dbname=x"] = false,
    } do
      assert.equal(here, select(2, hosts(url)), url)
    end
  end)

  -- ---- reaching a server

  it("finds why a server does not answer", env.in_task(function()
    local function connect(url, timeout_ms)
      return examine { timeout_ms = timeout_ms, config = config {
        connection = { url = url } } }
    end
    expect(connect("postgresql://127.0.0.1:1/x"), "error", "connect", "refused")
    expect(connect("postgresql://no-such-host.invalid/x"), "error", "connect",
           "dns")
    expect(connect((env.server().url:gsub("/mtenant%?", "/nosuch?"))), "error",
           "connect", "nosuch")
    expect(connect((env.server().url:gsub("//mtenant@", "//nobody@"))), "error",
           "connect", "nobody")
    local silent = env.silent_server()
    expect(connect(silent.url, 300), "error", "connect", "timeout")
    env.close(silent)
  end))

  it("finds a wrong password, missing TLS, and shows what there is",
     env.in_task(function()
    local server = env.start { tcp = true, hba = [[
      local all all trust
      host all asks 127.0.0.1/32 scram-sha-256
      host all all 127.0.0.1/32 trust]] }
    server:psql("CREATE ROLE asks LOGIN PASSWORD 's3cret'")
    local asking = server.url:gsub("//mtenant@", "//asks@")
    local function connect(url, password)
      return examine { config = config {
        connection = { url = url, password = password } } }
    end
    local one = expect(connect(asking, "wrong"), "error", "connect", "auth")
    assert.is_truthy(one.fix:find("pg_hba.conf", 1, true))
    expect(connect(server.url .. "?sslmode=require"), "error", "connect", "tls")
    server:use_tls()
    env.eventually("TLS", function()
      for _, found in ipairs(connect(server.url .. "?sslmode=require")) do
        if found.check == "connect" and found.what:find("TLSv1", 1, true) then
          return true
        end
      end
    end)
    env.close(server)
  end))

  it("goes to each server that the configuration names", env.in_task(function()
    local findings = examine { config = config { servers = {
      eu1 = env.server().url,
      us1 = { url = "postgresql://127.0.0.1:1/x" },
      -- login and database are those of connection.url
      eu2 = (env.server().url:gsub("//[^@]*@/[^?]*", "///", 1)),
    } } }
    assert.equal("us1", expect(findings, "error", "connect", "refused").server)
    local connected = {}
    for _, one in ipairs(findings) do
      if one.check == "connect" and one.level == "ok" then
        connected[#connected + 1] = one.server or "own"
      end
    end
    assert.same({ "own", "eu1", "eu2" }, connected)
    expect(examine { config = config { servers = { eu1 = "no url" } } }, "error",
           "config", "config.servers.eu1: ")
  end))

  it("finds that a server is a standby", env.in_task(function()
    local server = env.start()
    local standby = env.standby(server)
    expect(examine { config = config({}, standby) }, "warning", "connect",
           "standby")
    env.close(standby)
    env.close(server)
  end))

  it("finds clocks that differ", env.in_task(function()
    local core = require "mtenant.core"
    local function skewed(ms)
      return examine { clock = function() return core.clock() + ms end }
    end
    local one = expect(skewed(-5000), "warning", "clock", "ahead of")
    assert.is_truthy(one.what:find("5.0 s", 1, true) or one.what:find("4.9 s"))
    expect(skewed(120000), "error", "clock", "behind")
    expect(skewed(0), "ok", "clock", "differs by")
  end))

  -- ---- budget and settings

  it("finds a budget that the server has not", env.in_task(function()
    expect(examine { config = config { connection = { max_connections = 500 } } },
           "error", "budget", "a budget of 500 connections")
    expect(examine { config = config {
      connection = { max_connections = 20, processes = 4 } } }, "error", "budget",
      "a budget (4 processes) of 80 connections")
    env.server():psql("ALTER ROLE mtenant CONNECTION LIMIT 6")
    local findings = examine {
      config = config { connection = { max_connections = 9 } } }
    env.server():psql("ALTER ROLE mtenant CONNECTION LIMIT -1")
    expect(findings, "error", "budget", "the login's CONNECTION LIMIT leaves 6")
    env.server():psql("ALTER DATABASE mtenant CONNECTION LIMIT 8")
    findings = examine { config = config { connection = { max_connections = 9 } } }
    env.server():psql("ALTER DATABASE mtenant CONNECTION LIMIT -1")
    expect(findings, "error", "budget", "the database's CONNECTION LIMIT leaves 8")
  end))

  it("finds that others have the connections", env.in_task(function()
    local server = env.start { conf = { max_connections = 12,
                                        superuser_reserved_connections = 2 } }
    local others = env.manager({ connection = { max_connections = 6,
      pool = { max = 6 } } }, server)
    local db = others:get_shared_db()
    for _ = 1, 6 do
      require("mtenant").spawn(function()
        return db:session(function(s) return s:query("SELECT pg_sleep(2)") end)
      end)
    end
    env.eventually("six others", function()
      return env.count("true", server) == 6
    end)
    expect(examine { config = config({ connection = { max_connections = 8 } },
                                     server) },
           "warning", "budget", "other clients leave")
    expect(examine { config = config({ connection = { max_connections = "auto" } },
                                     server) },
           "warning", "budget", "max_connections (12, 2 reserved) leaves 10")
    others:dispose(100)
    env.close(server)
  end))

  it("finds settings that hurt", env.in_task(function()
    local server = env.start { conf = {
      max_connections = 10, max_locks_per_transaction = 10,
      log_min_duration_statement = 0, statement_timeout = 0,
      superuser_reserved_connections = 2,
    } }
    server:psql([[CREATE SCHEMA big; DO $$ BEGIN FOR i IN 1..80 LOOP
      EXECUTE format('CREATE VIEW big.v%s AS SELECT 1', i);
    END LOOP; END $$]])
    local findings = examine { config = config({ connection = {
      statement_timeout_ms = 0, idle_transaction_timeout_ms = 0 } }, server) }
    expect(findings, "warning", "settings", "statement_timeout is 0")
    expect(findings, "warning", "settings",
           "idle_in_transaction_session_timeout is 0")
    expect(findings, "warning", "settings", "log_min_duration_statement = 0")
    expect(findings, "warning", "settings", "schema big has 80 relations")
    server:psql("ALTER SYSTEM SET log_parameter_max_length = 0")
    server:psql("SELECT pg_reload_conf()")
    env.eventually("the setting", function()
      for _, one in ipairs(examine { config = config({}, server) }) do
        if one.what:find("with their parameters", 1, true) then return false end
      end
      return true
    end)
    env.close(server)
  end))

  -- ---- rights

  it("finds a login that may too much or too little", env.in_task(function()
    local server = env.server()
    expect(examine { config = config { connection = { url = server.admin_url } } },
           "warning", "permissions", "is a superuser")
    expect(examine { config = config {
      connection = { url = server.admin_url },
      isolation = { strategy = "row" },
    } }, "error", "permissions", "is a superuser")
    server:psql("ALTER ROLE mtenant BYPASSRLS")
    local findings = examine {}
    server:psql("ALTER ROLE mtenant NOBYPASSRLS")
    expect(findings, "warning", "permissions", "BYPASSRLS")
    server:psql([[REVOKE CREATE ON DATABASE mtenant FROM mtenant;
      ALTER DATABASE mtenant OWNER TO postgres]])
    findings = examine {}
    server:psql([[GRANT CREATE ON DATABASE mtenant TO mtenant]])
    local one = expect(findings, "warning", "permissions",
                       "may not create schemas")
    assert.equal('GRANT CREATE ON DATABASE "mtenant" TO "mtenant"', one.fix)
  end))

  it("finds roles of tenants that can't be used", env.in_task(function()
    local server = env.server()
    server:psql([[
      CREATE ROLE r_acme; CREATE ROLE r_globex; GRANT r_globex TO mtenant;
      CREATE ROLE r_shut; GRANT r_shut TO mtenant;
      CREATE SCHEMA IF NOT EXISTS t_shut;
      GRANT USAGE ON SCHEMA t_acme TO r_acme;
      GRANT USAGE ON SCHEMA t_globex TO r_globex]])
    local function roles(...)
      local ids = { ... }
      return examine {
        config = config { isolation = { role_template = function(id)
          return "r_" .. id end } },
        migrations = { tenant_discovery = function() return ids end },
      }
    end
    local refused = expect(roles("acme"), "error", "permissions",
                           "the login may not take: r_acme")
    assert.equal('GRANT "r_acme" TO "mtenant"', refused.fix)
    expect(roles("shut"), "error", "permissions",
           "without USAGE on their schema: r_shut")
    expect(roles("role"), "error", "permissions", "does not exist: r_role")
    local well = roles("globex")
    expect(well, "ok", "permissions", "may take each tenant's role")
    expect(well, "warning", "permissions", "inherits")
    server:psql([[DROP OWNED BY r_acme, r_globex, r_shut;
      DROP ROLE r_acme, r_globex, r_shut; DROP SCHEMA t_shut]])
  end))

  -- ---- tenants and folders

  it("finds what is wrong with the tenants", env.in_task(function()
    local function discovery(fn)
      return examine { migrations = { tenant_discovery = fn } }
    end
    local findings = discovery(function()
      return { "acme", "acme", "no such id", "gone", "lost" }
    end)
    expect(findings, "warning", "discovery", "1 ids come more than once: acme")
    expect(findings, "error", "discovery", "1 ids of tenants are refused")
    local one = expect(findings, "error", "discovery",
                       "2 of 3 tenants have no schema: gone, lost")
    assert.is_truthy(one.fix:find("mtenant create gone", 1, true))
    expect(discovery(function() error("no list today") end), "error", "discovery",
           "no list today")
    expect(discovery(function() return 5 end), "error", "discovery",
           "returns a number")
    expect(discovery(function(shared) return shared:query("SELECT nosuch") end),
           "error", "discovery", "nosuch")
    expect(discovery(function() return {} end), "warning", "discovery",
           "there are no tenants")
    expect(examine {}, "info", "discovery", "is not set")
    local many = {}
    for i = 1, 5000 do many[i] = "x" .. i end
    expect(discovery(function() return many end), "error", "discovery",
           "and 4995 more")
  end))

  it("finds what is wrong with the folders", env.in_task(function()
    local function migrations(files)
      return examine { migrations = {
        tenant_folder = type(files) == "table" and new_folder(files) or files } }
    end
    expect(migrations "/no/such/folder", "error", "folders", "no such folder")
    expect(migrations { ["0001_a.sql"] = "SELECT 1;", ["1_b.sql"] = "SELECT 2;" },
           "error", "folders", "the same number")
    expect(migrations { ["0001_a.sql"] = "SELECT 'open;" }, "error", "folders",
           "0001_a")
    expect(migrations { ["0001_a.lua"] = "return {" }, "error", "folders",
           "0001_a")
    expect(migrations {}, "warning", "folders", "has no migrations")
    expect(examine { migrations = {} }, "warning", "folders", "names no folder")
    expect(examine {}, "info", "folders", "no migrations are configured")
  end))

  it("leaves nothing behind on the server, and says nothing of its own",
     env.in_task(function()
    local lines = {}
    local before = log.default()
    log.set_default { sink = function(_, line) lines[#lines + 1] = line end }
    examine { config = config { connection = { url = "postgresql://127.0.0.1:1/x" } } }
    log.set_default(before)
    assert.same({}, lines)
    env.eventually("no backend of its", function()
      return env.sql("SELECT count(*) FROM pg_stat_activity WHERE "
        .. "application_name = 'mtenant doctor'") == "0"
    end)
  end))
end)
