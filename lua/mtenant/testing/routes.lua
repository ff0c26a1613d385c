--- Routes without a server: runs a resolver or a strategy as a manager would,
--- with a shared database whose answers are scripted. Used by testing.lua.

local clock = require "mtenant.testing.clock"
local config = require "mtenant.config"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local policies = require "mtenant.policy"
local routing = require "mtenant.routing"
local schema = require "mtenant.schema"
local servers = require "mtenant.testing.servers"
local task = require "mtenant.task"


local misuse = errors.misuse


local M = {}


-- ---- the scripted shared database ------------------------------------------------

local function folded(sql)
  return (sql:gsub("%s+", " "):gsub("^ ", ""):gsub(";? ?$", ""))
end


---@class mtenant.testing.Shared
---@field calls table[]  { sql =, params =, at_ms = }
local methods = {}
local mt = { __name = "mtenant.testing.shared", __index = methods }


local function statement_of(sql, ...)
  if type(sql) ~= "table" then return sql, task.pack(...) end
  local params = sql.params or {}
  return sql.sql, task.pack(task.unpack(params, 1, params.n or #params))
end


local function answer_of(self, sql, params)
  local script = self._script
  if schema.is_callable(script) then
    return script(sql, task.unpack(params, 1, params.n))
  end
  local answer = script[folded(sql)]
  if answer == nil then
    misuse(3, "the script of ctx.shared has no answer for: %s", sql)
  end
  if schema.is_callable(answer) then
    return answer(task.unpack(params, 1, params.n))
  end
  return answer
end


-- rows, or nil and an error; a value alone is a row of one column
local function run(self, what, ...)
  local stop = task.check(what)
  if stop then return nil, stop end
  local sql, params = statement_of(...)
  if type(sql) ~= "string" then
    misuse(3, "%s: sql must be a string, got %s", what, type(sql))
  end
  self.calls[#self.calls + 1] = { sql = sql, params = params,
                                  at_ms = clock.now() }
  local answer, err = answer_of(self, sql, params)
  if errors.is(answer) then return nil, answer end
  if answer == nil and err ~= nil then return nil, err end
  if answer == nil then return {} end
  if type(answer) ~= "table" then return { { answer } } end
  return answer
end


--- As db:query.
function methods:query(sql, ...)
  return run(self, "query", sql, ...)
end


--- As db:one.
function methods:one(sql, ...)
  local rows, err = run(self, "one", sql, ...)
  if not rows then return nil, err end
  return rows[1]
end


--- As db:value. Which column is the first one is known only of a row with one
-- column, or of a list.
function methods:value(sql, ...)
  local rows, err = run(self, "value", sql, ...)
  if not rows then return nil, err end
  local row = rows[1]
  if row == nil then return nil end
  if row[1] ~= nil then return row[1] end
  local key, value = next(row)
  if key ~= nil and next(row, key) ~= nil then
    misuse(2, "value: a scripted row of several columns must be a list")
  end
  return value
end


-- ---- what is listened to ----------------------------------------------------------

-- called when a handle is closed, which may be in the midst of a call to others
local function without(list, handle)
  local out = {}
  for _, other in ipairs(list) do
    if other ~= handle then out[#out + 1] = other end
  end
  return out
end


--- As db:listen; what is told comes from notify and lose.
function methods:listen(channel, fn)
  local handle = { channel = channel, closed = false, fn = fn }
  local handles = self._handles
  handles.list[#handles.list + 1] = handle
  function handle.close()
    handle.closed = true
    handles.list = without(handles.list, handle)
  end
  return handle
end


local function tell(self, channel, ...)
  for _, handle in ipairs(without(self._handles.list)) do
    if not handle.closed and (not channel or handle.channel == channel) then
      handle.fn(...)
    end
  end
end


--- Tells who listens to a channel, before it returns.
---@param channel string
---@param payload? string
---@return boolean
function methods:notify(channel, payload)
  tell(self, channel, payload or "")
  return true
end


--- Tells all who listen that some notifications may have been lost.
function methods:lose()
  tell(self, nil, nil, "reconnected")
end


--- How many listen.
---@return integer
function methods:listeners()
  return #self._handles.list
end


local function new_shared(script)
  return setmetatable({ calls = {}, _script = script,
                        _handles = { list = {} } }, mt)
end


--- A stand-in for ctx.shared, with query, one, value, listen and notify.
---@param script table|function  statement to answer: rows, one value, an error
--  object, or function(...) of the parameters; or function(sql, ...) for all
---@return mtenant.testing.Shared
function M.shared(script)
  if getmetatable(script) == mt then return script end
  if schema.is_callable(script) then
    return new_shared(script)
  end
  if type(script) ~= "table" then
    misuse(2, "testing.shared: the script must be a table or a function, "
      .. "got %s", type(script))
  end
  local by_text = {}
  for sql, answer in pairs(script) do
    if type(sql) ~= "string" then
      misuse(2, "testing.shared: a statement must be a string, got %s",
             type(sql))
    end
    by_text[folded(sql)] = answer
  end
  return new_shared(by_text)
end


-- ---- resolving ------------------------------------------------------------

local function nowhere()
  return servers.url("scripted")
end


local function nothing() end


--- As a manager's, with what was given in the place of its own.
---@param given? table  `shared` may be a script
---@param id string
---@param cfg table
---@return table
function M.context(given, id, cfg)
  local ctx = { tenant_id = id }
  for key, value in pairs(given or {}) do ctx[key] = value end
  if ctx.shared == nil then
    ctx.shared = M.shared({})
  elseif type(ctx.shared) ~= "table" or not ctx.shared.query then
    ctx.shared = M.shared(ctx.shared)
  end
  return setmetatable(ctx, { __index = policies.context(cfg, nothing, nothing) })
end


-- A manager asks its resolver in a task of its own, and calls what can't wait
-- from the loop.
local function ask(cfg, id, ctx)
  if routing.may_wait(cfg) then
    return task.spawn(routing.resolve, cfg, id, ctx):await()
  end
  return coroutine.wrap(routing.resolve)(cfg, id, ctx)
end


local function resolve(cfg, id, ctx)
  local ok, err = config.valid_id(id, cfg.id_pattern)
  if not ok then return nil, err end
  local route
  route, err = ask(cfg, id, ctx)
  if not route then return nil, err end
  local address
  address, err = core.check_route(id, route, cfg.connection.url)
  if not address then return nil, err end
  local out = routing.describe(cfg, route)
  out.server = out.server or address
  out.url = route.given and out.url
  out.setting, out.setting_value = route.setting, route.setting_value
  return out
end


--- A configuration, or a resolver alone as one, to be asked by `ask`.
---@param policy table|function
---@param level integer  who is to blame
---@return table
function M.define(policy, level)
  if schema.is_callable(policy) then policy = { resolve = policy } end
  local cfg = config.define(policy, { level = level + 1, getenv = nowhere })
  return cfg -- no tail call: the levels are counted
end


--- As resolve, of a defined configuration.
function M.ask(cfg, id, ctx)
  ctx = M.context(ctx, id, cfg)
  if task.current() then return resolve(cfg, id, ctx) end
  return task.run(resolve, cfg, id, ctx)
end


--- The route of a tenant as a manager would find it, or the error that its
-- callers would get. Connects to nothing.
---@param policy table|function  a configuration, or a `resolve` function
---@param id string
---@param ctx? table  what the resolver gets; `shared` may be a script for
--  testing.shared
---@return table|nil route  strategy, url, database, schema, role, setting,
--  setting_value, server
---@return mtenant.error|nil err
function M.resolve(policy, id, ctx)
  local cfg = M.define(policy, 3)
  if ctx ~= nil and type(ctx) ~= "table" then
    misuse(2, "testing.resolve: ctx must be a table, got %s", type(ctx))
  end
  return M.ask(cfg, id, ctx)
end


return M
