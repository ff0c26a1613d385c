--- Doctor: do the connections that the configuration wants fit the server?

local config = require "mtenant.config"

local M = {}


local LIMITS_SQL = [[
  SELECT pg_catalog.current_setting('max_connections')::int AS max,
    pg_catalog.current_setting('superuser_reserved_connections')::int
      + coalesce(pg_catalog.current_setting('reserved_connections', true)::int,
                 0) AS reserved,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
     WHERE backend_type = 'client backend'
     AND application_name IS DISTINCT FROM 'mtenant doctor')::int AS others,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
     WHERE usename = session_user
     AND application_name IS DISTINCT FROM 'mtenant doctor')::int AS of_login,
    (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = session_user)
      AS login_limit,
    (SELECT datconnlimit FROM pg_catalog.pg_database
     WHERE datname = pg_catalog.current_database()) AS database_limit]]


-- The smallest of the limits, and what it is called.
local function limit_of(row)
  local limit, what = row.max - row.reserved,
    ("max_connections (%d, %d reserved)"):format(row.max, row.reserved)
  if row.login_limit >= 0 and row.login_limit < limit then
    limit, what = row.login_limit, "the login's CONNECTION LIMIT"
  end
  if row.database_limit >= 0 and row.database_limit < limit then
    limit, what = row.database_limit, "the database's CONNECTION LIMIT"
  end
  return limit, what
end


-- How much of it others leave.
local function free_of(row, limit)
  local free = math.min(limit, row.max - row.reserved - row.others)
  if row.login_limit >= 0 then
    free = math.min(free, row.login_limit - row.of_login)
  end
  return free
end


local function check(case, row, need, wanted)
  local limit, what = limit_of(row)
  local free = free_of(row, limit)
  local fix = ("connection = { max_connections = %d }, or raise the limit")
    :format(math.max(1, math.floor(limit / 2)))
  if need > limit then
    case:add("error", "budget", ("%s of %d connections, but %s leaves %d")
      :format(wanted, need, what, limit), {
        why = "under load connecting fails with 53300",
        fix = fix,
      })
  elseif need > free then
    case:add("warning", "budget", ("%s of %d connections; other clients leave %d "
      .. "of %d now"):format(wanted, need, free, limit), {
        why = "while those stay, connecting fails with 53300 under load",
        fix = fix,
      })
  else
    case:add("ok", "budget", ("%s of %d connections; %d of %d are free")
      :format(wanted, need, free, limit))
  end
end


--- Compares `connection.max_connections` of all processes with the server's
--- limits and what others use.
function M.run(case, db)
  if case.pooled then
    case:add("info", "budget", "behind a pooler its limits count, which can't be "
      .. "seen from here", {
        fix = "default_pool_size of the pooler at least as large as "
          .. "connection.max_connections of all processes",
      })
    return
  end
  local rows = case:ask("budget", db, LIMITS_SQL)
  if not rows then return end
  local c = case.cfg.connection
  local processes = c.processes or config.processes
  if type(c.max_connections) == "number" then
    check(case, rows[1], c.max_connections * processes,
          processes > 1 and ("a budget (%d processes)"):format(processes)
          or "a budget")
    return
  end
  local limit, what = limit_of(rows[1])
  local free = free_of(rows[1], limit)
  if free < 4 then
    case:add("warning", "budget", ("%s leaves %d connections, and other clients "
      .. "all but %d of them"):format(what, limit, math.max(free, 0)), {
        why = "a manager with max_connections = \"auto\" gets 1 or 2",
        fix = "end or pool other clients, or ALTER SYSTEM SET max_connections",
      })
  else
    case:add("ok", "budget", ("auto: up to %d connections; %d of %d are free")
      :format(math.max(1, math.min(20, math.floor(free / 2))), free, limit))
  end
end


return M
