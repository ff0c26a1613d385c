--- Doctor: does each server answer, how, and who is it? Then all that is asked
-- of a server.

local core = require "mtenant.core"
local mtenant = require "mtenant"
local named_servers = require "mtenant.named_servers"

local SERVER_MIN = 150000
local SKEW_WARNING_MS, SKEW_ERROR_MS = 2000, 60000

local ADVICE = {
  dns = "see that the host's name is right: getent hosts NAME",
  refused = "see that PostgreSQL runs there and listens: listen_addresses, "
    .. "port, pg_isready",
  unreachable = "see that nothing stands in between: route, firewall, security "
    .. "group",
  timeout = "see that nothing swallows packets in between, and "
    .. "connection.pool.connect_timeout_ms",
  auth = "see user, password and pg_hba.conf",
  tls = "see sslmode and the certificates, and ssl in postgresql.conf",
  starting_up = "wait until it has started; its log says how far it is",
  too_many_connections = "ALTER SYSTEM SET max_connections = ..., or fewer "
    .. "connections of others",
}

local BY_SQLSTATE = {
  ["3D000"] = "CREATE DATABASE, or the database's name in the url",
  ["28000"] = "CREATE ROLE ... LOGIN, or the user's name in the url",
}

local M = {}


--- Is it why a server can't be had, whatever is asked of it?
---@param err mtenant.error|nil
---@return boolean
function M.is_unreachable(err)
  return err ~= nil and ADVICE[err.code] ~= nil
end


-- ---- managers ----------------------------------------------------------------

--- A manager for questions: the configuration's way to connect, and nothing
--- else of it. The caller disposes of it.
---@param case mtenant.doctor.case
---@param url string
---@param pooled? boolean
---@return mtenant.TenantManager|nil
---@return mtenant.error|nil err
function M.manager(case, url, pooled)
  local ok, manager, err = pcall(mtenant.create_tenant_manager, {
    connection = {
      url = url, password = case.cfg.connection.password,
      application_name = "mtenant doctor", max_connections = 2,
      pooler = pooled and "transaction" or nil, retry = { max_attempts = 1 },
      pool = { connect_timeout_ms = case.timeout_ms,
               acquire_timeout_ms = case.timeout_ms },
    },
    isolation = { schema_name_template = function(id) return id end },
    log = { level = "off" },
  })
  if not ok then return nil, manager end
  return manager, err
end


-- The servers that the configuration names, by name.
local function servers_of(case)
  local out, named = { { url = case.cfg.connection.url } },
    named_servers.of(case.cfg)
  for _, name in ipairs(named.names) do out[#out + 1] = named.by_name[name] end
  return out
end


-- ---- what a server says --------------------------------------------------------

local HELLO_SQL = [[
  SELECT pg_catalog.current_setting('server_version') AS version,
    pg_catalog.current_setting('server_version_num')::int AS num,
    pg_catalog.pg_is_in_recovery() AS standby, session_user::text AS login,
    pg_catalog.current_database()::text AS database,
    (SELECT version FROM pg_catalog.pg_stat_ssl
     WHERE pid = pg_catalog.pg_backend_pid()) AS tls,
    extract(epoch FROM pg_catalog.clock_timestamp())::float8 * 1000 AS now_ms]]


local function check_clock(case, hello, asked_ms, answered_ms)
  -- it looked at its clock at some time in between
  local skew = hello.now_ms < asked_ms and hello.now_ms - asked_ms
    or hello.now_ms > answered_ms and hello.now_ms - answered_ms or 0
  local size = math.abs(skew)
  if size < SKEW_WARNING_MS then
    case:add("ok", "clock", ("differs by %.0f ms at most"):format(
      math.max(size, answered_ms - asked_ms)))
    return
  end
  case:add(size < SKEW_ERROR_MS and "warning" or "error", "clock",
    ("the server's clock is %.1f s %s this machine's"):format(size / 1000,
      skew > 0 and "ahead of" or "behind"), {
      why = "times in rows, logs and tokens contradict each other",
      fix = "timedatectl set-ntp true, on both machines",
    })
end


local function check_version(case, hello)
  if hello.num < SERVER_MIN then
    case:add("error", "versions", "the server is PostgreSQL " .. hello.version, {
      why = "mtenant is made and tested for 15 and newer",
      fix = "upgrade the server",
    })
  end
  if hello.standby then
    case:add("warning", "connect", "the server is a standby", {
      why = "it takes no writes and no migrations",
      fix = "connection.url = \"postgresql://a,b/x?"
        .. "target_session_attrs=read-write\"",
    })
  end
end


local function say_hello(case, db)
  -- the first one brings up the connection
  local began = core.now_ms()
  local ok, err = db:query { sql = "SELECT 1", timeout_ms = case.timeout_ms }
  if not ok then return nil, err end
  local took_ms = core.now_ms() - began
  local asked_ms = case.clock()
  local hello
  hello, err = db:one { sql = HELLO_SQL, timeout_ms = case.timeout_ms }
  if not hello then return nil, err end
  local answered_ms = case.clock()
  case:add("ok", "connect", ("PostgreSQL %s, database %s as %s, %s; connected "
    .. "in %.0f ms"):format(hello.version, hello.database, hello.login,
    hello.tls and hello.tls ~= core.null and hello.tls or "no TLS", took_ms))
  check_version(case, hello)
  check_clock(case, hello, asked_ms, answered_ms)
  return hello
end


local function failed(case, err)
  case:add("error", "connect", ("%s: %s"):format(err.code, err.message), {
    why = err.hint or "nothing of this server can be used",
    fix = BY_SQLSTATE[err.sqlstate] or ADVICE[err.code]
      or err.hint or "psql with the same url says the same; see the server's log",
  })
end


local ASKING = { "budget", "settings", "permissions", "discovery" }


local function check_server(case, server)
  local pooled, known = require("mtenant.doctor.pooler").run(case, server.url)
  local manager, err = M.manager(case, server.url, pooled)
  if not manager then return failed(case, err) end
  local ran, why = pcall(function()
    local db = manager:get_shared_db()
    local hello, bad = say_hello(case, db)
    if not hello then
      if not known then failed(case, bad) end
      return
    end
    case.hello, case.pooled, case.server_url = hello, pooled, server.url
    for _, name in ipairs(ASKING) do
      require("mtenant.doctor." .. name).run(case, db)
    end
  end)
  manager:dispose(1000)
  if not ran then error(why, 0) end
end


--- Goes to each server of the configuration.
function M.run(case)
  if not case.cfg then return end
  for i, server in ipairs(servers_of(case)) do
    case.server, case.first = server.name, i == 1
    check_server(case, server)
  end
  case.server = nil
end


return M
