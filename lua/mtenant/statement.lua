--- Statements: what db, transaction and session handles have in common.
-- A handle gives `start(self, sql, as, timeout_ms, json, ...)`, which returns
-- a slot, or nil and an error, or false and the statement's class; the methods
-- here make query, one and value of it. Pure glue: never picks a connection.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local markers = require "mtenant.markers"
local schema = require "mtenant.schema"
local task = require "mtenant.task"
local with_deadline = require "mtenant.deadline"


local await, check = task.await, task.check
local pack, unpack = task.pack, task.unpack
local now_ms, type = core.now_ms, type


local ROWS, ARRAYS, LAZY = 0, 1, 2
local AS = { rows = ROWS, arrays = ARRAYS, lazy = LAZY }


local options = schema.new({
  name = "query",
  { "sql", kind = "string", required = true },
  { "params", kind = "table" },
  { "timeout_ms", kind = "number", min = 0 },
  { "as", kind = "string", enum = { "rows", "arrays", "lazy" } },
  { "json", kind = "string", enum = { "decode", "string" } },
  { "idempotent", kind = "boolean" },
})


local KNOWN = { sql = true, params = true, timeout_ms = true, as = true,
                json = true, idempotent = true }


-- PIPELINED is added to one of the others.
local M = { ROWS = ROWS, ARRAYS = ARRAYS, LAZY = LAZY, PIPELINED = 16 }


--- A message of what a pooler in transaction mode can't do.
M.POOLED = '%s, which connection.pooler = "transaction" does not have: what '
  .. "it sets would stay for other clients. SET LOCAL and the like work in "
  .. "db:transaction"


--- Checks an option table of a query; raises misuse.
---@return integer as
---@return boolean json
function M.check_options(opts, level)
  -- the parameters are not copied: null and markers must stay what they are
  options:check({ sql = opts.sql, timeout_ms = opts.timeout_ms,
                  as = opts.as, json = opts.json,
                  idempotent = opts.idempotent }, level)
  for key in pairs(opts) do
    if not KNOWN[key] then options:check(opts, level) end
  end
  if opts.params ~= nil and type(opts.params) ~= "table" then
    errors.misuse(level, "query.params must be a table")
  end
  local decode = opts.json == "decode"
  if decode then markers.enable_decode() end
  return AS[opts.as or "rows"], decode
end


-- More than LuaJIT can pass as arguments go as a list, which the core reads.
local MANY = 1000


local exec_options = schema.new({
  name = "exec",
  { "timeout_ms", kind = "number", min = 0 },
  { "copy", kind = "strings", default = function() return {} end },
})


--- Checks the options of exec; raises misuse.
---@return table opts  timeout_ms (or nil), copy
function M.exec_options(opts, level)
  opts = exec_options:check(opts or {}, level + 1)
  for i, data in ipairs(opts.copy) do
    if data:find("\0", 1, true) then
      errors.misuse(level + 1, "exec.copy[%d]: it has a NUL byte", i)
    end
  end
  return opts
end


--- The parameters of an option table as a starting call takes them.
function M.spread(params, n)
  if n <= MANY then return unpack(params, 1, n) end
  return core.list, params, n
end


-- What can't run here, by class; raises.
function M.refuse(class, keyword, level)
  if class == "control" then
    errors.misuse(level + 1, "%s is transaction control: use "
      .. "db:transaction, which keeps the tenant's scope", keyword)
  elseif class == "copy" then
    errors.misuse(level + 1,
      "COPY FROM STDIN needs its data: use exec with copy = { data }; and "
      .. "COPY TO STDOUT can't run here")
  elseif class == "pooled" then
    errors.misuse(level + 1, M.POOLED, "this statement needs a session")
  elseif class == "empty" then
    errors.misuse(level + 1, "sql: there is no statement in it")
  elseif class == "plain" then
    errors.misuse(level + 1, "sql: one statement expected, use exec for more")
  end
end


local function check_stream(h, sql, level)
  if type(sql) ~= "string" then
    errors.misuse(level + 1, "rows: sql must be a string, got %s", type(sql))
  end
  if sql:find("\0", 1, true) then
    errors.misuse(level + 1, "sql: it has a NUL byte")
  end
  local class, keyword, _, count = h:classify(sql)
  if class == "plain" and count == 1 then return end
  M.refuse(class, keyword, level + 1)
  errors.misuse(level + 1,
    "rows: only SELECT, INSERT, UPDATE, DELETE and VALUES have rows")
end


--- What rows() was called with, checked; raises misuse.
---@return table stream  sql, params, as, json, until_ms (nil: no limit)
function M.check_stream(self, sql, ...)
  local out = { sql = sql, as = ROWS, json = false, params = pack(...) }
  local timeout_ms = self._timeout_ms
  if type(sql) == "table" then
    out.as, out.json = M.check_options(sql, 2)
    local params = sql.params or {}
    out.params = pack(M.spread(params, params.n or #params))
    out.sql, timeout_ms = sql.sql, sql.timeout_ms or timeout_ms
  end
  check_stream((self._db or self)._h, out.sql, 2)
  if timeout_ms and timeout_ms > 0 then
    out.until_ms = now_ms() + timeout_ms
  end
  return out
end


--- Calls fn(...), which waits, but not longer than until that time (nil: as
-- long as it takes).
function M.wait_until(until_ms, fn, ...)
  if not until_ms then return fn(...) end
  return with_deadline(math.max(until_ms - now_ms(), 0), fn, ...)
end


-- Tells the debug log of a statement that has run.
local function observe(self, sql, started, err, ...)
  local on_query = self._on_query
  if not on_query then return end
  if (...) == core.list then
    local _, params, n = ...
    on_query(sql, now_ms() - started, err, unpack(params, 1, math.min(n, MANY)))
    return
  end
  on_query(sql, now_ms() - started, err, ...)
end


--- Calls fn(...), which runs `sql` in a way of its own (exec), and tells the
--- debug log of it.
---@return any value
---@return table|nil err
function M.observed(self, sql, fn, ...)
  if not self._on_query then return fn(...) end
  local started = now_ms()
  local value, err = fn(...)
  observe(self, sql, started, err)
  return value, err
end


-- a statement that needs a lease; its timeout covers the wait for that, too
local function run_other(self, class, sql, as, timeout_ms, json, ...)
  if not timeout_ms or timeout_ms <= 0 then
    return self:_start_other(class, sql, as, nil, json, ...)
  end
  local n, args = select("#", ...), { ... }
  return with_deadline(timeout_ms, function()
    return self:_start_other(class, sql, as, nil, json, unpack(args, 1, n))
  end)
end


local function run(self, what, sql, as, timeout_ms, json, ...)
  local stop = check(what)
  if stop then return nil, stop end
  local started = self._on_query and now_ms()
  local slot, err, keyword = self:_start(sql, as, timeout_ms, json, ...)
  local rows
  if slot then
    rows, err = await(slot)
  elseif slot == false then
    M.refuse(err, keyword, 1)
    rows, err = run_other(self, err, sql, as, timeout_ms, json, ...)
  end
  if started then observe(self, sql, started, err, ...) end
  if err then return nil, err end
  return rows
end


-- within a transaction nothing runs again by itself
local function may_run_again(self, err)
  return self._h ~= nil and self._h:take_retry(err.code)
end


local function run_options(self, what, opts, as)
  local given, json = M.check_options(opts, 2)
  local params = opts.params or {}
  local n, timeout_ms = params.n or #params, opts.timeout_ms or self._timeout_ms
  local rows, err = run(self, what, opts.sql, as or given, timeout_ms, json,
                        M.spread(params, n))
  if err and opts.idempotent and err.ambiguous
    and err.code == "connection_lost" and may_run_again(self, err) then
    rows, err = run(self, what, opts.sql, as or given, timeout_ms, json,
                    M.spread(params, n))
  end
  return rows, err
end


---@class mtenant.Statements
local methods = {}


--- Runs one statement and returns its rows.
---@param sql string|table  the text, or `{ sql =, params =, timeout_ms =,
--  as = "rows"|"arrays"|"lazy", json = "decode", idempotent = }`; timeout_ms
--  covers the whole call; idempotent: run it once more when the connection
--  was lost and nobody knows whether it ran
---@param ... any  parameters $1, $2 ...; nil and mtenant.null are NULL
---@return table|nil rows
---@return table|nil err
function methods:query(sql, ...)
  if type(sql) == "table" then return run_options(self, "query", sql) end
  if not self._on_query then -- the short way for what most queries are
    local stop = check("query")
    if stop then return nil, stop end
    local slot, err, keyword = self:_start(sql, ROWS, self._timeout_ms, false,
                                           ...)
    if slot then return await(slot) end
    if slot == nil then return nil, err end
    M.refuse(err, keyword, 2)
    return run_other(self, err, sql, ROWS, self._timeout_ms, false, ...)
  end
  return run(self, "query", sql, ROWS, self._timeout_ms, false, ...)
end


-- `as` nil: as the option table says
local function first_row(self, what, as, sql, ...)
  local rows, err
  if type(sql) == "table" then
    rows, err = run_options(self, what, sql, as)
  else
    rows, err = run(self, what, sql, as or ROWS, self._timeout_ms, false, ...)
  end
  if err then return nil, err end
  return rows[1]
end


--- The first row, or nil when there is none.
---@param sql string|table  as for query
---@return table|nil row
---@return table|nil err
function methods:one(sql, ...)
  local row, err = first_row(self, "one", nil, sql, ...)
  if err then return nil, err end
  return row
end


--- The first column of the first row; nil when it is NULL or there is no row.
---@param sql string|table  as for query
---@return any value
---@return table|nil err
function methods:value(sql, ...)
  local row, err = first_row(self, "value", ARRAYS, sql, ...)
  if err then return nil, err end
  local value = row and row[1]
  if value == core.null then return nil end
  return value
end


--- A name, quoted for SQL text. UTF-8, no NUL; no connection needed.
---@param name string
---@return string
function methods:quote_ident(name) -- luacheck: ignore 212
  return core.quote_ident(name)
end


--- A string, quoted for SQL text. Prefer parameters.
---@param text string
---@return string
function methods:quote_literal(text) -- luacheck: ignore 212
  return core.quote_literal(text)
end


--- Adds the common methods to a handle's own.
function M.extend(own)
  for name, fn in pairs(methods) do
    if own[name] == nil then own[name] = fn end
  end
  return own
end


local function fetch(lease, stream)
  return await(lease:fetch(stream.as, stream.json))
end


-- ---- rows that come bit by bit ----------------------------------------------------

-- What db:rows and tx:rows return: called, it gives the next row. Lua 5.4 closes
-- it when a loop is left; LuaJIT's loops can't, so that it has `close`.
---@class mtenant.Iterator
---@field close fun(self)
local iterator_methods = {}


-- What the loop's own work took is none of the query's time.
local function tell(self, err)
  local on_query, stream = self.on_query, self.stream
  if on_query then
    on_query(stream.sql, self.waited_ms, err,
             unpack(stream.params, 1, math.min(stream.params.n, MANY)))
  end
end


local function finish(self, err)
  self.ended = true
  local bad = self.over(err, false)
  err = err or bad
  tell(self, err)
  if err then error(err, 0) end
  return nil
end


local function step(self)
  if self.ended then return nil end
  local i = self.i + 1
  local row = self.batch[i]
  if row then
    self.i = i
    return row
  end
  local stop = check("rows")
  if stop then return finish(self, stop) end
  local stream, asked = self.stream, now_ms()
  local rows, err = M.wait_until(stream.until_ms, fetch, self.lease, stream)
  self.waited_ms = self.waited_ms + now_ms() - asked
  if err then return finish(self, err) end
  if not rows then return finish(self, nil) end
  self.batch, self.i = rows, 1
  return rows[1]
end


--- Ends the loop before its end: the query is cancelled, the connection free.
-- Idempotent, and nothing to do after the last row.
function iterator_methods:close()
  if self.ended then return end
  self.ended, self.batch = true, nil
  self.over(nil, true)
  tell(self, nil)
end


local iterator_mt = {
  __name = "mtenant.rows", __index = iterator_methods, __call = step,
  __close = iterator_methods.close,
}


-- The iterator of db:rows and tx:rows over a lease that streams, as the generic
-- for wants it. `over(err, early)` runs once, however the loop ends; the debug
-- log of `on`, the handle, is told then.
function M.iterate(on, lease, stream, over)
  local rows = setmetatable({
    lease = lease, stream = stream, over = over, batch = {}, i = 0, ended = false,
    on_query = on._on_query, waited_ms = 0,
  }, iterator_mt)
  return rows, nil, nil, rows
end


M.pack, M.unpack, M.observe = pack, unpack, observe


return M
