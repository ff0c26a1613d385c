--- What a session looks like to the tenant that has just got it: the first
-- statement of a checkout. Any trace of somebody else is a leak.

local world = require "leaks.world"

local M = {}

local SQL = [[
SELECT (SELECT owner FROM me) AS owner,
       current_schema() AS schema, current_user AS role, session_user AS login,
       current_setting('transaction_isolation') AS isolation,
       current_setting('transaction_read_only') AS read_only,
       pg_current_xact_id_if_assigned()::text AS xact,
       (SELECT string_agg(name || '=' || setting, E'\n' ORDER BY name)
        FROM pg_settings WHERE source = 'session') AS settings,
       (SELECT string_agg(concat_ws('/', classid, objid, mode), ' ')
        FROM pg_locks
        WHERE pid = pg_backend_pid() AND locktype = 'advisory') AS locks,
       (SELECT string_agg(relname, ' ') FROM pg_class
        WHERE relnamespace = pg_my_temp_schema()) AS temp,
       (SELECT string_agg(name, ' ') FROM pg_prepared_statements
        WHERE name !~ '^mt_') AS prepared,
       (SELECT string_agg(name, ' ') FROM pg_cursors
        WHERE name <> '') AS cursors,
       (SELECT string_agg(c, ' ') FROM pg_listening_channels() AS c)
         AS channels,
       'ä€' AS text]]

local NOTHING = { "xact", "locks", "temp", "prepared", "cursors", "channels" }
local KINDS = {
  xact = "open transaction", locks = "advisory lock", temp = "temporary table",
  prepared = "prepared statement", cursors = "cursor", channels = "LISTEN",
}


local function bare(path)
  return (path:gsub('[" ]', ""))
end


local function is_expected(c, name, value)
  local own = c.t.settings and c.t.settings[name]
  if own then return value == ("%d"):format(own) end
  if name == "client_connection_check_interval" then return value == "2000" end
  if name == "search_path" then
    local t = c.t
    local want = t.shared and "public,pg_temp"
      or t.schema .. ",public,pg_temp"
    return bare(value) == bare(want)
  end
  if name == "statement_timeout" then -- what is left of the call's own
    local ms = tonumber(value)
    return ms and ms > 0 and ms <= (c.timeout_ms or world.TIMEOUT_MS)
  end
  -- BEGIN's own options are settings, too; what they should be is compared
  -- by itself
  return c.in_transaction and name:find("^transaction_") ~= nil
end


local function check_settings(c, text, how)
  local seen = {}
  for line in (text or ""):gmatch("[^\n]+") do
    local name, value = line:match("^([^=]*)=(.*)$")
    seen[name] = true
    if not is_expected(c, name, value) then
      c.world:leak("setting", c, ("%s finds %s = %s by %s"):format(
        c.t.mark, name, value, how))
    end
  end
  local there = { "search_path", "client_connection_check_interval" }
  for name in pairs(c.t.settings or {}) do there[#there + 1] = name end
  for _, name in ipairs(there) do
    if not seen[name] then
      c.world:leak("setting", c, ("%s finds %s lost by %s"):format(
        c.t.mark, name, how))
    end
  end
end


local function check_equal(c, kind, value, want, how)
  if value ~= want then
    c.world:leak(kind, c, ("%s finds %s = %s instead of %s by %s"):format(
      c.t.mark, kind, tostring(value), tostring(want), how))
  end
end


--- Runs the probe as the first statement on a handle, transaction or session.
-- `expected` may have: isolation, read_only. False when it could
-- not run.
function M.run(c, h, how, expected, allowed)
  expected = expected or {}
  local row, err = h:one(c.timeout_ms and { sql = SQL, timeout_ms = c.timeout_ms }
    or SQL)
  if not row then
    c:fail(err, allowed)
    return false, err
  end
  c.world.probes = (c.world.probes or 0) + 1
  c:check_rows({ { owner = row.owner, schema = row.schema, role = row.role } },
               how)
  check_equal(c, "session_user", row.login, "mtenant", how)
  check_equal(c, "transaction_isolation", row.isolation,
              expected.isolation or "read committed", how)
  check_equal(c, "transaction_read_only", row.read_only,
              expected.read_only and "on" or "off", how)
  check_equal(c, "client_encoding", row.text, "ä€", how)
  check_settings(c, row.settings, how)
  for _, name in ipairs(NOTHING) do
    if row[name] then
      c.world:leak(KINDS[name], c, ("%s finds %s by %s"):format(
        c.t.mark, row[name], how))
    end
  end
  return true
end


return M
