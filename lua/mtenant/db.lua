--- The database handle: one tenant's database (or the shared schema).
-- Plain statements go straight to the core and share connections; everything
-- else runs on a lease, see transaction.lua. A handle stays valid across
-- eviction and reconnects on next use. Made by manager.lua.

local errors = require "mtenant.errors"
local listen = require "mtenant.listen"
local pipeline = require "mtenant.pipeline"
local reader = require "mtenant.reader"
local statement = require "mtenant.statement"
local task = require "mtenant.task"
local transaction = require "mtenant.transaction"


local await, check = task.await, task.check
local unpack = task.unpack
local misuse = errors.misuse


---@class mtenant.Db : mtenant.Statements
---@field tenant_id string
local methods = {}

local WEAK = { __mode = "k" }


-- a plain statement: the core takes it as it is
local function start(self, sql, as, timeout_ms, json, ...)
  return self._h:query(sql, as, timeout_ms, json, ...)
end


-- the same with a comment that says whom it is for
local function start_tagged(self, sql, as, timeout_ms, json, ...)
  self._h:comment(self._tag(self.tenant_id))
  return self._h:query(sql, as, timeout_ms, json, ...)
end


function methods:_start_other(class, sql, as, timeout_ms, json, ...)
  return transaction.single(self, class, sql, as, timeout_ms, json, ...)
end


function methods:_acquire()
  local slot, err = self._h:acquire()
  if not slot then return nil, err end
  local lease
  lease, err = await(slot)
  if lease and self._tag then lease:comment(self._tag(self.tenant_id)) end
  local now = lease and task.current()
  if now and now.guest then -- it may go without an end: see host/nginx.lua
    now.leases = now.leases or setmetatable({}, WEAK)
    now.leases[lease] = true
  end
  return lease, err
end


--- Runs several statements at once (simple protocol), without parameters.
-- Returns the last statement's rows.
---@param sql string
---@param opts? table  { timeout_ms =, copy = { data... } }: what the COPY ...
--  FROM STDIN statements in sql get, in their order
---@return table|nil rows
---@return table|nil err  statement_number: which one of sql failed, from 1
function methods:exec(sql, opts)
  if type(sql) ~= "string" then
    misuse(2, "exec: sql must be a string, got %s", type(sql))
  end
  if sql:find("\0", 1, true) then misuse(2, "sql: it has a NUL byte") end
  opts = statement.exec_options(opts, 2)
  local stop = check("exec")
  if stop then return nil, stop end
  local class, keyword, lasting, count = self._h:classify(sql)
  if class == "copy" and #opts.copy == 0 then
    statement.refuse(class, keyword, 2)
  end
  -- with BEGIN and COMMIT of its own, too: the scope would end with that
  if self._pooled and (class == "session" or class == "control") then
    statement.refuse(class == "control" and class or "pooled", keyword, 2)
  end
  if count == 0 then statement.refuse("empty", nil, 2) end
  return statement.observed(self, sql, transaction.exec, self, sql, class,
                            lasting, opts)
end


--- Runs fn(tx) in a transaction: COMMIT when it returns, ROLLBACK when it
-- returns `nil, err` or raises. Other errors than mtenant's are raised again.
---@param opts? table  { isolation = "read committed"|"repeatable read"|
--  "serializable", read_only =, deferrable =, retry = n }: with retry, fn runs
--  again up to n times on a serialization failure or deadlock
---@param fn fun(tx: table): ...
---@return any ...  fn's values, or `nil, err`
function methods:transaction(opts, fn)
  return transaction.transaction(self, opts, fn)
end


--- Runs fn(session) on one pinned connection, which is closed afterwards:
-- session settings, LISTEN, temporary tables and the like never reach others.
---@param fn fun(session: table): ...
---@return any ...  fn's values, or `nil, err`
function methods:session(fn)
  return transaction.session(self, fn)
end


--- Iterates over a result that is fetched bit by bit, in bounded memory.
-- Pins a connection until the loop ends; leaving it early cancels the query.
-- Raises an error object when the query fails.
---@param sql string|table  as for query
---@param ... any  parameters
---@return fun(): table|nil
function methods:rows(sql, ...)
  local stop = check("rows")
  if stop then error(stop, 0) end
  -- before a connection is taken for it
  local stream = statement.check_stream(self, sql, ...)
  local lease, err = statement.wait_until(stream.until_ms, self._acquire, self)
  if not lease then error(err, 0) end
  lease:begin("BEGIN")
  local ran, ok, why = pcall(lease.stream, lease, stream.sql,
                             unpack(stream.params, 1, stream.params.n))
  if not ran or not ok then
    lease:release()
    error(ran and why or ok, 0)
  end
  return statement.iterate(self, lease, stream, function(failure, early)
    local bad
    if not early and not failure then
      lease:stop_stream()
      bad = transaction.commit(lease)
    end
    lease:release()
    return bad
  end)
end


--- Starts several queries without waiting in between: fn(p), where p:query
-- returns a future with :await(). All are done when this returns.
---@param opts? table  { atomic = true }: one transaction, all or nothing;
--  otherwise each query stands for itself
---@param fn fun(p: table): ...
---@return any ...  fn's values, or `nil, err`
function methods:pipeline(opts, fn)
  return pipeline.run(self, opts, fn)
end


--- The schema of the cached route, or nil.
---@return string|nil
function methods:schema()
  return self._h:schema()
end


methods._start = start
reader.install(methods)
statement.extend(methods)
listen.install(methods)


local function to_string(self)
  return "mtenant.db (" .. tostring(self.tenant_id) .. ")"
end


local M = {}


--- What the handles of one manager have in common, so that a handle is small:
-- a request may well make one of its own.
---@param shared table  _m (manager), _pooled, _timeout_ms, _delay, _tag (nil:
--- no comments)
---@return fun(h: userdata, tenant_id: string, on_query: function?): mtenant.Db
function M.class(shared)
  for name, method in pairs(methods) do shared[name] = method end
  if shared._tag then shared._start = start_tagged end
  local mt = { __name = "mtenant.db", __index = shared,
               __tostring = to_string }
  return function(h, tenant_id, on_query)
    local db = { _h = h, tenant_id = tenant_id } -- of the size of two fields
    if on_query then db._on_query = on_query end
    return setmetatable(db, mt)
  end
end


return M
