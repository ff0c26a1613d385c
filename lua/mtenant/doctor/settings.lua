--- Doctor: the server's settings that a program with many tenants feels.

local config = require "mtenant.doctor.config"

local M = {}


-- The first one is set for this very statement.
local SETTINGS_SQL = [[
  SELECT (SELECT reset_val FROM pg_catalog.pg_settings
          WHERE name = 'statement_timeout') AS statement_timeout,
    pg_catalog.current_setting('idle_in_transaction_session_timeout') AS idle,
    pg_catalog.current_setting('client_connection_check_interval', true)
      AS check_interval,
    pg_catalog.current_setting('ssl') AS ssl,
    pg_catalog.current_setting('log_statement') AS log_statement,
    pg_catalog.current_setting('log_min_duration_statement') AS log_duration,
    pg_catalog.current_setting('log_parameter_max_length', true) AS log_length,
    pg_catalog.current_setting('standard_conforming_strings') AS strings,
    pg_catalog.current_setting('max_locks_per_transaction')::int8
      * (pg_catalog.current_setting('max_connections')::int8
         + pg_catalog.current_setting('max_prepared_transactions')::int8)
      AS locks]]

local LARGEST_SQL = [[
  SELECT n.nspname::text AS name, pg_catalog.count(*) AS relations
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
    ON n.oid = c.relnamespace
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  GROUP BY 1 ORDER BY 2 DESC LIMIT 1]]


local CHECKS = {}


function CHECKS.timeouts(case, s)
  local c = case.cfg.connection
  if s.statement_timeout == "0" and not (c.statement_timeout_ms
                                         and c.statement_timeout_ms > 0) then
    case:add("warning", "settings", "statement_timeout is 0", {
      why = "nothing ends a statement that hangs",
      fix = "connection = { statement_timeout_ms = 30000 }, or ALTER ROLE login "
        .. "SET statement_timeout = '30s'",
    })
  end
  if s.idle == "0" and not (c.idle_transaction_timeout_ms
                            and c.idle_transaction_timeout_ms > 0) then
    case:add("warning", "settings", "idle_in_transaction_session_timeout is 0", {
      why = "a transaction that is forgotten keeps its locks, and vacuum from "
        .. "its work",
      fix = case.pooled and "ALTER ROLE login SET "
        .. "idle_in_transaction_session_timeout = '60s'"
        or "connection = { idle_transaction_timeout_ms = 60000 }",
    })
  end
end


function CHECKS.check_interval(case, s)
  if case.pooled and s.check_interval == "0" then
    case:add("info", "settings", "client_connection_check_interval is 0", {
      why = "a statement whose client has gone runs to its end; behind a pooler "
        .. "mtenant can't set it",
      fix = "ALTER SYSTEM SET client_connection_check_interval = '2s'",
    })
  end
end


function CHECKS.ssl(case, s)
  local _, here = config.hosts(case.server_url)
  if s.ssl == "off" and not here then
    case:add("warning", "settings", "ssl is off, and the server is another "
      .. "machine", {
        why = "all that is sent can be read on its way",
        fix = "ALTER SYSTEM SET ssl = on, with a certificate",
      })
  end
end


function CHECKS.log(case, s)
  local texts = s.log_statement == "all" or s.log_statement == "mod"
    or s.log_duration ~= "-1"
  if not texts or s.log_length == "0" then return end
  case:add("warning", "settings", ("the server logs statements with their "
    .. "parameters (log_statement = %s, log_min_duration_statement = %s)")
    :format(s.log_statement, s.log_duration), {
      why = "what tenants enter is in the server's log",
      fix = "ALTER SYSTEM SET log_parameter_max_length = 0",
    })
end


function CHECKS.strings(case, s)
  if s.strings == "on" then return end
  case:add("error", "settings", "standard_conforming_strings is off", {
    why = "a backslash in a literal means something else than it says",
    fix = "ALTER ROLE login SET standard_conforming_strings = on",
  })
end


function CHECKS.locks(case, s, db)
  local rows = case:ask("settings", db, LARGEST_SQL)
  local largest = rows and rows[1]
  if not largest or tonumber(largest.relations) <= tonumber(s.locks) / 2 then
    return
  end
  case:add("warning", "settings", ("schema %s has %s relations, and the lock "
    .. "table is for %s"):format(largest.name, tostring(largest.relations),
                                 tostring(s.locks)), {
      why = "dropping or dumping it takes a lock for each (out of shared memory)",
      fix = ("ALTER SYSTEM SET max_locks_per_transaction = %d, and restart")
        :format(math.max(128, math.ceil(tonumber(largest.relations) / 10))),
    })
end


function M.run(case, db)
  local rows = case:ask("settings", db, SETTINGS_SQL)
  if not rows then return end
  local before = #case.findings
  for _, name in ipairs { "timeouts", "check_interval", "ssl", "log", "strings",
                          "locks" } do
    CHECKS[name](case, rows[1], db)
  end
  if #case.findings == before then
    case:add("ok", "settings", "the server's settings fit")
  end
end


return M
