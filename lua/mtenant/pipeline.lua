--- Pipelines: several queries on their way at once.
-- Each query is its own unit, with its own outcome, unless the pipeline is
-- atomic: then all run in one transaction on one connection. Used by db.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local schema = require "mtenant.schema"
local statement = require "mtenant.statement"
local task = require "mtenant.task"
local transaction = require "mtenant.transaction"


local check, when_done = task.check, task.when_done
local pack, unpack = task.pack, task.unpack


local options = schema.new({
  name = "pipeline",
  { "atomic", kind = "boolean", default = false },
})


---@class mtenant.Future
local future_methods = {}
local future_mt = { __name = "mtenant.future", __index = future_methods }


local function settle(future, value, err)
  future.done, future.value, future.err = true, value, err
  if future.observe then future.observe(err) end
  local waiters = future.waiters
  future.waiters = nil
  for i = 1, waiters and #waiters or 0 do waiters[i]() end
end


-- ends what still runs: its answer, an error now, comes soon
local function stop_future(future, reason)
  if future.stopped then return end
  future.stopped = true
  if future.slot then
    core.cancel(future.slot, reason.code == "timeout" and "timeout"
      or "cancelled")
  elseif future.task then
    future.task:cancel(reason)
  end
end


-- waits even when the caller is to stop: then the query is stopped as well
local function join(future)
  local now = task.current()
  while not future.done do
    local reason = now.cancelled or now.expired
    if reason then stop_future(future, reason) end
    task.suspend_always(function(resume)
      future.waiters = future.waiters or {}
      future.waiters[#future.waiters + 1] = resume
    end)
  end
end


-- Who stops waiting does not learn what becomes of a query that is on its way,
-- unless it ends with its transaction.
local function unknown(future, stop)
  if future.atomic then return stop end
  return errors.new(stop.code, stop.message, {
    ambiguous = true, retryable = false, cause = stop,
  })
end


--- Waits for the query. When the waiting is cut off, by a deadline or because
-- the task is cancelled, the query's outcome is unknown.
---@return table|nil rows
---@return table|nil err
function future_methods:await()
  if not self.done then
    local stop = check("future:await")
    if stop then return nil, unknown(self, stop) end
    local _, err = task.suspend(function(resume)
      self.waiters = self.waiters or {}
      self.waiters[#self.waiters + 1] = resume
    end)
    if not self.done then return nil, unknown(self, err) end
  end
  if self.err then return nil, self.err end
  return self.value
end


local pipe_methods = {}
local pipe_mt = { __name = "mtenant.pipeline", __index = pipe_methods }


--- Starts a query.
---@param sql string|table  as for db:query
---@param ... any  parameters
---@return mtenant.Future
function pipe_methods:query(sql, ...)
  if self.over then
    errors.misuse(2, "this pipeline has ended: use it only inside its function")
  end
  local stop = check("pipeline:query")
  local future = setmetatable({ done = false, atomic = self.atomic }, future_mt)
  if stop then
    self.futures[#self.futures + 1] = future
    settle(future, nil, stop)
    return future
  end
  local as, json, params = statement.ROWS, false
  local timeout_ms = self.on._timeout_ms
  local n
  if type(sql) == "table" then
    as, json = statement.check_options(sql, 3)
    params = sql.params or {}
    n = params.n or #params
    timeout_ms, sql = sql.timeout_ms or timeout_ms, sql.sql
  else
    params = pack(...)
    n = params.n
  end
  if self.on._on_query then
    local started = core.now_ms()
    future.observe = function(why)
      statement.observe(self.on, sql, started, why, statement.spread(params, n))
    end
  end
  local slot, err, keyword = self.on:_start(sql, as + statement.PIPELINED,
                                            timeout_ms, json,
                                            statement.spread(params, n))
  if slot == false then statement.refuse(err, keyword, 2) end
  -- what raises has no future that anybody could wait for
  self.futures[#self.futures + 1] = future
  if slot then
    future.slot = slot
    when_done(slot, function(value, why) settle(future, value, why) end)
  elseif slot == nil then
    settle(future, nil, err)
  else
    local on = self.on
    future.task = task.spawn(function()
      settle(future, on:_start_other(err, sql, as, timeout_ms, json,
                                     statement.spread(params, n)))
    end)
  end
  return future
end


local function finish(pipe)
  pipe.over = true
  local first
  for i = 1, #pipe.futures do
    join(pipe.futures[i])
    first = first or pipe.futures[i].err
  end
  return first
end


local function run_on(on, fn, atomic)
  local pipe = setmetatable({ on = on, futures = {}, atomic = atomic }, pipe_mt)
  local res = pack(pcall(fn, pipe))
  local err = finish(pipe)
  if not res[1] then error(res[2], 0) end
  return err, unpack(res, 2, res.n)
end


-- Its COMMIT was not sent: whatever was, nothing of it stays.
local function rolled_back(err)
  if not errors.is(err) or not err.ambiguous then return err end
  local copy = errors.copy(err)
  copy.ambiguous = false
  return copy
end


local M = {}


--- db:pipeline. See db.lua.
function M.run(db, opts, fn)
  if type(opts) == "function" and fn == nil then opts, fn = {}, opts end
  if type(fn) ~= "function" then
    errors.misuse(2, "pipeline: fn must be a function, got %s", type(fn))
  end
  opts = options:check(opts or {}, 2)
  local stop = check("pipeline")
  if stop then return nil, stop end
  if not opts.atomic then
    local res = pack(run_on(db, fn))
    return unpack(res, 2, res.n)
  end
  return transaction.transaction(db, {}, function(tx)
    local res = pack(run_on(tx, fn, true))
    if res[1] then return nil, rolled_back(res[1]) end
    return unpack(res, 2, res.n)
  end)
end


return M
