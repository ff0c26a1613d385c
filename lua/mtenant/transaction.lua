--- Transactions and sessions: handles over one pinned connection.
-- BEGIN, the scope and the first statement travel together. Leaving the
-- function ends the transaction; what is left open is rolled back by the
-- lease's release, which the core does without anybody waiting. Used by db.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"
local statement = require "mtenant.statement"
local task = require "mtenant.task"


local await, check = task.await, task.check
local pack, unpack = task.pack, task.unpack
local misuse = errors.misuse
local pcall, setmetatable, type = pcall, setmetatable, type


local ISOLATION = {
  ["read committed"] = "READ COMMITTED",
  ["repeatable read"] = "REPEATABLE READ",
  ["serializable"] = "SERIALIZABLE",
}

local RETRYABLE_STATES = { ["40001"] = true, ["40P01"] = true }

local options = schema.new({
  name = "transaction",
  { "isolation", kind = "string",
    enum = { "read committed", "repeatable read", "serializable" } },
  { "read_only", kind = "boolean" },
  { "deferrable", kind = "boolean" },
  { "retry", kind = "integer", min = 0, max = 1000, default = 0 },
})


---@class mtenant.Transaction : mtenant.Statements
---@field tenant_id string
---@field exec fun(self, sql: string, opts?: table): table|nil, table|nil
---@field rows fun(self, sql: string|table, ...): fun(): table|nil
---@field transaction fun(self, fn: fun(tx: mtenant.Transaction): ...): ...

---@class mtenant.Session : mtenant.Transaction
---@field backend_pid fun(self): integer


local M = {}


--- BEGIN with its options as text.
function M.begin_text(opts)
  local text = "BEGIN"
  if opts.isolation then
    text = text .. " ISOLATION LEVEL " .. ISOLATION[opts.isolation]
  end
  if opts.read_only ~= nil then
    text = text .. (opts.read_only and " READ ONLY" or " READ WRITE")
  end
  if opts.deferrable then text = text .. " DEFERRABLE" end
  return text
end


-- ---- statements on the lease ----------------------------------------------------

local function usable(self)
  if self._over then
    misuse(4, "this %s has ended: use it only inside its function", self._kind)
  end
  if self._streams then
    misuse(4, "this %s is in the middle of rows(): finish that loop "
           .. "first, or close() what it iterates over", self._kind)
  end
  if self._inner then
    misuse(4, "a nested transaction is open: use its own handle")
  end
end


-- What has to be alone in its (implicit) transaction of a session goes behind a
-- look at the schema, which may have been dropped or renamed since.
local function start(self, sql, as, timeout_ms, json, ...)
  usable(self)
  local lease = self._lease
  local slot, why, word = lease:query(sql, as, timeout_ms, json, ...)
  if why ~= "look" then return slot, why, word end
  local _, err = await(lease:ready(sql))
  if err then return nil, err end
  return lease:query(sql, as, timeout_ms, json, ...)
end


local function run_exec(self, sql, opts, class)
  local lease = self._lease
  if class ~= "control" then -- which a look would not go with, see prelude
    local _, bad = await(lease:ready(sql))
    if bad then return nil, bad end
  end
  local slot, why, keyword = lease:exec(sql, opts.timeout_ms or self._timeout_ms,
                                        unpack(opts.copy))
  if slot == nil then return nil, why end
  if slot == false then statement.refuse(why, keyword, 2) end
  local rows, err = await(slot)
  if err then return nil, err end
  return rows
end


local function exec(self, sql, opts)
  usable(self)
  if type(sql) ~= "string" then
    misuse(2, "exec: sql must be a string, got %s", type(sql))
  end
  opts = statement.exec_options(opts, 2)
  local class, word, lasting = self._db._h:classify(sql)
  if class == "control" and self._kind == "transaction" then
    statement.refuse(class, word, 2)
  end
  if lasting and self._db._pooled then statement.refuse("pooled", word, 2) end
  local stop = check("exec")
  if stop then return nil, stop end
  return statement.observed(self, sql, run_exec, self, sql, opts, class)
end


local function rows(self, sql, ...)
  usable(self)
  local stop = check("rows")
  if stop then error(stop, 0) end
  local stream = statement.check_stream(self, sql, ...)
  local lease = self._lease
  local ok, why = lease:stream(stream.sql,
                               unpack(stream.params, 1, stream.params.n))
  if not ok then error(why, 0) end
  local iterator = statement.iterate(self, lease, stream, function(err)
    self._streams = nil
    -- a loop that was left is drained; one that has to stop is cancelled,
    -- and the transaction with it
    if err then lease:cancel() end
    lease:stop_stream()
  end)
  self._streams = iterator
  return iterator, nil, nil, iterator
end


-- The handle's function has returned.
local function retire(handle)
  handle._over = true
  if handle._streams then handle._streams:close() end
end


-- ---- one transaction on a lease ---------------------------------------------------

-- fn returned `nil, err`: that is a failure; anything else is a success
local function failed(res)
  return res.n >= 3 and res[2] == nil and res[3] ~= nil
end


-- An error object that fn raised is an expected failure; misuse is a bug.
local function expected(err)
  return errors.is(err) and err.code ~= "misuse"
end


-- after fn: whether it failed, the error (any value), and whether to raise it
local function verdict(res)
  if not res[1] then return true, res[2], not expected(res[2]) end
  if failed(res) then return true, res[3], false end
  local now = task.current()
  local stop = now and (now.cancelled or now.expired)
  return stop and true, stop, false
end


local tx_mt, session_mt


local function new_handle(mt, kind, parent, lease)
  return setmetatable({
    _kind = kind, _lease = lease, _db = parent._db or parent,
    _timeout_ms = parent._timeout_ms, _on_query = parent._on_query,
    _start = start, tenant_id = parent.tenant_id,
  }, mt)
end


local function commit(lease)
  if lease:pending() then -- nothing was ever sent
    lease:ended()
    return nil
  end
  local _, err = await(lease:control("COMMIT", true))
  lease:ended()
  return err
end


local function roll_back(lease)
  if lease:pending() then
    lease:ended()
    return
  end
  local now = task.current()
  if now and (now.cancelled or now.expired) then return end -- release does it
  await(lease:control("ROLLBACK"))
  lease:ended()
end


-- runs fn in the transaction that was begun; true and its values, or false,
-- the error, and whether to raise it
local function run(lease, tx, fn)
  local res = pack(pcall(fn, tx))
  retire(tx)
  local bad, err, raise = verdict(res)
  if bad then
    if lease:held() then roll_back(lease) end
    return false, err, raise
  end
  err = commit(lease)
  if err then return false, err, false end
  return true, unpack(res, 2, res.n)
end


local function once(db, begin, fn)
  local lease, err = db:_acquire()
  if not lease then return false, err, false end
  lease:begin(begin)
  local res = pack(pcall(run, lease, new_handle(tx_mt, "transaction", db, lease),
                         fn))
  lease:release()
  if not res[1] then error(res[2], 0) end
  return unpack(res, 2, res.n)
end


-- ---- the public forms ------------------------------------------------------------

function M.arguments(opts, fn, level)
  if type(opts) == "function" and fn == nil then opts, fn = {}, opts end
  if type(fn) ~= "function" then
    misuse(level + 1, "transaction: fn must be a function, got %s", type(fn))
  end
  return options:check(opts or {}, level + 1), fn
end


local function may_retry(err)
  return errors.is(err) and not err.ambiguous
    and RETRYABLE_STATES[err.sqlstate or ""]
end


--- db:transaction. See db.lua.
function M.transaction(db, opts, fn)
  opts, fn = M.arguments(opts, fn, 2)
  local begin = M.begin_text(opts)
  local attempt, previous = 0, 0
  while true do
    local stop = check("transaction")
    if stop then return nil, stop end
    local res = pack(once(db, begin, fn))
    if res[1] then return unpack(res, 2, res.n) end
    local err, raise = res[2], res[3]
    if raise then error(err, 0) end
    if attempt >= opts.retry or not may_retry(err)
      or not db._h:take_retry(err.code) then
      return nil, err
    end
    previous = db._delay(attempt, previous)
    attempt = attempt + 1
    local _, stopped = task.sleep(previous)
    if stopped then return nil, stopped end
  end
end


-- A transaction within one: a savepoint. The name is unique per nesting level.
local function nested(self, opts, fn)
  usable(self)
  opts, fn = M.arguments(opts, fn, 2)
  if opts.isolation or opts.read_only ~= nil or opts.deferrable
    or opts.retry > 0 then
    misuse(2, "a nested transaction is a savepoint: it takes no options")
  end
  local stop = check("transaction")
  if stop then return nil, stop end
  local lease, depth = self._lease, (self._depth or 0) + 1
  local name = "mt_" .. depth
  local _, err = await(lease:control("SAVEPOINT " .. name))
  if err then return nil, err end
  local tx = new_handle(tx_mt, "transaction", self._db, lease)
  tx._depth = depth
  self._inner = true
  local res = pack(pcall(fn, tx))
  self._inner = nil
  retire(tx)
  local bad, raise
  bad, err, raise = verdict(res)
  if bad then
    local now = task.current()
    if not (now.cancelled or now.expired) then
      await(lease:control("ROLLBACK TO SAVEPOINT " .. name))
    end
    if raise then error(err, 0) end
    return nil, err
  end
  _, err = await(lease:control("RELEASE SAVEPOINT " .. name))
  if err then -- a statement had failed, and fn did not say so
    await(lease:control("ROLLBACK TO SAVEPOINT " .. name))
    return nil, err
  end
  return unpack(res, 2, res.n)
end


-- A transaction in a session: the session's own scope holds, and the user may
-- have changed it.
local function in_session(self, opts, fn)
  usable(self)
  opts, fn = M.arguments(opts, fn, 2)
  local stop = check("transaction")
  if stop then return nil, stop end
  local lease = self._lease
  local _, err = await(lease:control(M.begin_text(opts)))
  if err then return nil, err end
  local tx = new_handle(tx_mt, "transaction", self._db, lease)
  self._inner = true
  local res = pack(pcall(run, lease, tx, fn))
  self._inner = nil
  if not res[1] then error(res[2], 0) end
  if res[2] then return unpack(res, 3, res.n) end
  if res[4] then error(res[3], 0) end
  return nil, res[3]
end


local function no_other(_, class, _, _, _, _, _)
  -- on a lease the core runs every class that it does not refuse
  return nil, errors.new("misuse", "a " .. class .. " statement can't run here")
end


tx_mt = {
  __name = "mtenant.transaction",
  __index = statement.extend({
    exec = exec, rows = rows, transaction = nested, _start_other = no_other,
  }),
}


session_mt = {
  __name = "mtenant.session",
  __index = statement.extend({
    exec = exec, rows = rows, transaction = in_session,
    _start_other = no_other,
    --- Process id of the server's backend.
    backend_pid = function(self) return self._lease:pid() end,
  }),
}


-- The scope refused the connection before anything ran on it: another tenant's
-- statement had changed the session behind our back.
local DIRTY = { ["42602"] = true, ["26000"] = true }
local CONNECTIONS_TRIED = 4


-- a lease in the tenant's session scope, for a statement or (nil) several; or
-- nil and an error
local function open_session(db, sql)
  local lease, ok, err
  for _ = 1, CONNECTIONS_TRIED do
    lease, err = db:_acquire()
    if not lease then return nil, err end
    lease:session()
    ok, err = await(lease:ready(sql))
    if ok then return lease end
    lease:release() -- a dirty connection is closed by that
    if not DIRTY[err.sqlstate or ""] then break end
  end
  return nil, err
end


-- a lease on which BEGIN and the scope go ahead of the first statement
local function open_transaction(db)
  local lease, err = db:_acquire()
  if lease then lease:begin("BEGIN") end
  return lease, err
end


--- db:session. See db.lua.
function M.session(db, fn)
  if type(fn) ~= "function" then
    misuse(2, "session: fn must be a function, got %s", type(fn))
  end
  if db._pooled then
    misuse(2, statement.POOLED, "db:session pins a session")
  end
  local stop = check("session")
  if stop then return nil, stop end
  local lease, err = open_session(db)
  if not lease then return nil, err end
  local handle = new_handle(session_mt, "session", db, lease)
  local res = pack(pcall(fn, handle))
  retire(handle)
  lease:release()
  if not res[1] then
    if expected(res[2]) then return nil, res[2] end
    error(res[2], 0)
  end
  return unpack(res, 2, res.n)
end


--- One statement that needs a transaction of its own (DDL, DO, CALL), or a
-- session; `as` and the rest as for a plain one.
function M.single(db, class, sql, as, timeout_ms, json, ...)
  local in_transaction = class == "ddl" or class == "block"
  local open = in_transaction and open_transaction or open_session
  local lease, err = open(db, sql)
  if not lease then return nil, err end
  local result
  result, err = await(lease:query(sql, as, timeout_ms, json, ...))
  if not err and in_transaction then err = commit(lease) end
  lease:release()
  if err then return nil, err end
  return result
end


--- Several statements by the simple protocol. What can't touch the session
-- runs in a transaction, like the server would do; the rest on a session.
function M.exec(db, sql, class, lasting, opts)
  local in_transaction = not lasting and (class == "plain" or class == "ddl"
                                          or db._pooled)
  local open = in_transaction and open_transaction or open_session
  local lease, err = open(db)
  if not lease then return nil, err end
  local result, slot, keyword, _
  if in_transaction then _, err = await(lease:ready()) end
  if not err then
    slot, err, keyword = lease:exec(sql, opts.timeout_ms or db._timeout_ms,
                                    unpack(opts.copy))
    if slot == false then
      lease:release()
      statement.refuse(err, keyword, 3)
    end
    if slot then result, err = await(slot) end
  end
  if not err and in_transaction then err = commit(lease) end
  lease:release()
  if err then return nil, err end
  return result
end


M.rows = rows
M.new_tx = function(db, lease) return new_handle(tx_mt, "transaction", db, lease) end
M.commit = commit


return M
