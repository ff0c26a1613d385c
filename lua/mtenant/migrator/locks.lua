--- The locks of runs: one per schema, and one that all runs of a database hold
-- together, or one alone that changes what the others rely on. They belong to
-- the session, so that a runner that dies leaves none behind.

local core = require "mtenant.core"
local crypto = require "mtenant.crypto"
local errors = require "mtenant.errors"
local task = require "mtenant.task"
local with_deadline = require "mtenant.deadline"


local format = string.format


local M = {}


local LOOK_MS = 100
local SEAT_MS = 2000
local INT4 = 4294967296


local function signed(n)
  return n >= INT4 / 2 and n - INT4 or n
end


-- One number for each tracking table's name.
local function class_of(tracking)
  local hex = crypto.sha256("mtenant migrations of " .. tracking):sub(1, 8)
  return signed(tonumber(hex, 16))
end


--- The lock of a schema, keyed with its OID.
---@return integer[] keys
function M.of_schema(tracking, oid)
  return { class_of(tracking), signed(oid) }
end


--- The lock of all runs on a database.
function M.of_run(tracking)
  return { class_of(tracking), 0 }
end


local HOLDER_SQL = [[
  SELECT l.pid, a.application_name AS name, a.client_addr::text AS address,
    a.backend_start::text AS since
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
    AND l.database = (SELECT oid FROM pg_catalog.pg_database
                      WHERE datname = pg_catalog.current_database())
    AND l.classid = $1::pg_catalog.int8::pg_catalog.oid
    AND l.objid = $2::pg_catalog.int8::pg_catalog.oid
    AND l.pid <> pg_catalog.pg_backend_pid()]]


local function unsigned(n)
  return n < 0 and n + INT4 or n
end


--- Who holds a lock, as text.
function M.holder(db, keys)
  local row = db:one(HOLDER_SQL, unsigned(keys[1]), unsigned(keys[2]))
  if not row then return "somebody" end
  return format("process %d of the server (%s%s, since %s)", row.pid,
    row.name and row.name ~= "" and row.name or "no application_name",
    row.address and ", " .. row.address or "", row.since or "?")
end


--- The error of a schema whose lock did not come free in time.
function M.held_error(session, job)
  return errors.new("timeout", format(
    'schema "%s" is being migrated by another runner: %s', job.unit.schema,
    M.holder(session, job.unit.lock)), { tenant_id = job.unit.id })
end


local SEAT_SQL = [[
  SELECT pg_catalog.pg_backend_pid() AS pid, EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()
      AND granted AND classid = $1::pg_catalog.int8::pg_catalog.oid
      AND objid = $2::pg_catalog.int8::pg_catalog.oid) AS held]]

local PID_SQL = "SELECT pg_catalog.pg_backend_pid()"


-- Whether the session has a backend of its own, which holds its lock. A pooler
-- hands out numbers of its own instead of the backends'; if it doesn't keep
-- sessions, somebody else gets this one's backend now, or this one another.
local function has_own_backend(session, db, keys)
  local row, err = session:one(SEAT_SQL, unsigned(keys[1]), unsigned(keys[2]))
  if err then return nil, err end
  if not row.held then return false end
  if row.pid == session:backend_pid() then return true end
  local other, again
  other, err = with_deadline(SEAT_MS, function()
    return db:transaction(function(tx) return tx:value(PID_SQL) end)
  end)
  -- nobody else gets in where the backend is in this session's state
  if err and err.code == "timeout" then return false end
  if err then return nil, err end
  again, err = session:value(PID_SQL)
  if err then return nil, err end
  return other ~= row.pid and again == row.pid
end


--- Takes the run's lock on a session, together with other runs, or alone.
---@param queue table  run_lock (keys), exclusive, lock_wait_ms
---@return boolean|nil ok
---@return mtenant.error|nil err  timeout: who has it; policy: there is a pooler
function M.enter(session, queue)
  local keys = queue.run_lock
  local fn = queue.exclusive and "pg_try_advisory_lock"
    or "pg_try_advisory_lock_shared"
  local until_ms = core.now_ms() + queue.lock_wait_ms
  while true do
    local got, err = session:value("SELECT pg_catalog." .. fn .. "($1, $2)",
                                   keys[1], keys[2])
    if err then return nil, err end
    if got then break end
    if core.now_ms() >= until_ms then
      return nil, errors.new("timeout", "another run holds the lock of this "
        .. "database: " .. M.holder(session, keys))
    end
    local _, stop = task.sleep(LOOK_MS)
    if stop then return nil, stop end
  end
  local own, err = has_own_backend(session, queue.db, keys)
  if err then return nil, err end
  if own then return true end
  return nil, errors.new("policy", "this session's statements and locks are on "
    .. "backends that others use, too: there is a pooler in transaction mode in "
    .. "between; give `url`, a direct connection, in the migrator's options")
end


return M
