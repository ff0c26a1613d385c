--- Doctor: is there a pooler before the server, in which mode, and does the
-- configuration know?
--
-- A pooler gives a client a key of its own making for cancels; the number in it
-- is not that of the backend. That is how one is recognized, whatever it is.

local connect = require "mtenant.doctor.connect"
local task = require "mtenant.task"

local TRIES = 4
local SEE = "docs/pgbouncer.md"

local M = {}


-- Runs fn(a, b) with two connections at once; nil and an error where they can't
-- be had.
local function with_two(db, fn)
  local a, err = db:_acquire()
  if not a then return nil, err end
  local b
  b, err = db:_acquire()
  if not b then
    a:release()
    return nil, err
  end
  local ok, answer, why = pcall(fn, a, b)
  a:release()
  b:release()
  if not ok then error(answer, 0) end
  return answer, why
end


-- The backend that a transaction of this connection ran on.
local function backend_of(lease, timeout_ms)
  lease:begin("BEGIN")
  local rows, err = task.await(lease:query("SELECT pg_catalog.pg_backend_pid()",
                                           1, timeout_ms, false))
  if not rows then return nil, err end
  local _
  _, err = task.await(lease:control("COMMIT", true))
  lease:ended()
  if err then return nil, err end
  return rows[1][1]
end


-- Two clients that never wait for each other share a backend only where it is
-- given to whoever has a transaction.
local function mode_of(db, timeout_ms)
  return with_two(db, function(a, b)
    local first
    for _ = 1, TRIES do
      local p, err = backend_of(a, timeout_ms)
      if not p then return nil, err end
      local q
      q, err = backend_of(b, timeout_ms)
      -- b waits in vain while a keeps the only one
      if not q then return err.code == "timeout" and "session" or nil, err end
      if p == q or first and p ~= first then return "transaction" end
      first = first or p
    end
    return "session"
  end)
end


local function is_statement_mode(err)
  return err and err.message:find("statement pooling", 1, true) ~= nil
end


-- true: one stands there; false: none; nil: who knows
local function look_once(case, url)
  local manager, err = connect.manager(case, url, false)
  if not manager then return nil, err end
  local db = manager:get_shared_db()
  local there
  local lease
  lease, err = db:_acquire()
  if lease then
    local rows
    rows, err = task.await(lease:query("SELECT pg_catalog.pg_backend_pid()", 1,
                                       case.timeout_ms, false))
    if rows then there = rows[1][1] ~= lease:pid() end
    lease:release()
  end
  manager:dispose(1000)
  local text = err and (err.message .. " " .. (err.hint or "")) or ""
  if err and err.code == "policy" and text:find("pooler", 1, true) then
    return true
  end
  return there, err
end


-- What one client's connection has left behind may meet the next one's.
local function look(case, url)
  local there, err
  for _ = 1, TRIES do
    there, err = look_once(case, url)
    if there ~= nil or connect.is_unreachable(err) then break end
  end
  return there
end


local function tell_mode(case, mode)
  if mode == "transaction" then
    case:add("ok", "pooler", "a pooler in transaction mode, as configured")
  elseif mode == "statement" then
    case:add("error", "pooler", "the pooler is in statement mode", {
      why = "there are no transactions, so no tenant's scope holds",
      fix = "pool_mode = transaction, see " .. SEE,
    })
  elseif mode == "session" then
    case:add("warning", "pooler", "the pooler is in session mode", {
      why = "each connection keeps one of the server's, so it saves none; and "
        .. "connection.pooler gives up what sessions can do",
      fix = "pool_mode = transaction, see " .. SEE,
    })
  end
end


-- The pooler as the configuration says: mode, and whether it is set up.
local function check_pooled(case, url)
  local manager = connect.manager(case, url, true)
  if not manager then return end
  local db = manager:get_shared_db()
  local mode, err = mode_of(db, case.timeout_ms / 4)
  manager:dispose(1000)
  if is_statement_mode(err) then mode = "statement" end
  if mode then
    tell_mode(case, mode)
    return
  end
  case:add("error", "pooler", err.message, {
    why = "mtenant does not use it like this",
    fix = err.hint or SEE,
  })
end


--- Looks; returns how to connect from now on (pooled or not), and whether what
--- is wrong has been said.
---@return boolean pooled
---@return boolean known
function M.run(case, url)
  local wanted = case.cfg.connection.pooler == "transaction"
  local before = #case.findings
  local there = look(case, url)
  if there == nil then return wanted, false end -- it is told who connects
  if there and not wanted then
    case:add("error", "pooler", "there is a pooler, and connection.pooler is not "
      .. "set", {
        why = "what one tenant's session is told stays for the next client's",
        fix = 'connection = { pooler = "transaction" }, and ALTER ROLE login IN '
          .. "DATABASE name SET search_path = ''; see " .. SEE,
      })
  elseif wanted and not there then
    case:add("warning", "pooler", "connection.pooler is set, and there is no "
      .. "pooler", {
        why = "sessions, prepared statements and pipelining are given up for "
          .. "nothing",
        fix = "connection = { pooler = nil }",
      })
    return false, false
  end
  if there then check_pooled(case, url) else
    case:add("ok", "pooler", "none: a direct connection")
  end
  return there, #case.findings > before and there
end


return M
