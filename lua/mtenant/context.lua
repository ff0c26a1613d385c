--- The tenant context: which tenant the code that runs now works for, without
-- an argument that is handed through every call.
-- It belongs to the coroutine that set it, and to the tasks that this one
-- spawns; other coroutines never see it. In nginx it belongs to the request.

local errors = require "mtenant.errors"
local log = require "mtenant.log"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local pack, unpack = task.pack, task.unpack


---@class mtenant.TenantContext
local methods = {}
local mt = { __name = "mtenant.context", __index = methods }


-- the context of the caller, of this manager; or nil
local function current(self)
  local all = task.bearer().context
  return all and all[self]
end


local function needed(self, name)
  return current(self) or errors.misuse(3, "%s: no tenant context found. Make "
    .. "sure that you are calling this within run_with_tenant", name)
end


-- Contexts are never changed, so that those who inherit one keep theirs. The
-- one set last is what log lines and SQL comments tell of.
local function set(bearer, self, context)
  local all = {}
  for key, value in pairs(bearer.context or {}) do all[key] = value end
  all[self] = context
  all.latest = context
  bearer.context = all
end


local function restore(bearer, before, ok, ...)
  bearer.context = before
  if not ok then error((...), 0) end
  return ...
end


-- what may be given for a context: an id, or a table with tenant_id
local function checked(given, name)
  local id = given
  if type(given) == "table" then id = given.tenant_id end
  if id == nil or id == "" then
    errors.misuse(3, "%s: tenant_id is required in the context", name)
  elseif type(id) ~= "string" then
    errors.misuse(3, "%s: tenant_id must be a string, got %s", name, type(id))
  end
  local out = { tenant_id = id }
  if type(given) == "table" then
    for key, value in pairs(given) do out[key] = value end
  end
  return out
end


--- Runs fn(...) for a tenant. Within it, and in the tasks that it spawns, the
-- context is this one; afterwards it is the one before, also when fn raises.
---@param given string|table  the tenant's id; or a table with `tenant_id` and
--  what else the code within is to know
---@param fn function
---@return any ...  fn's values; raises its error
function methods:run_with_tenant(given, fn, ...)
  local context = checked(given, "run_with_tenant")
  if not schema.is_callable(fn) then
    errors.misuse(2, "run_with_tenant: fn must be a function, got %s", type(fn))
  end
  local bearer = task.bearer()
  local before = bearer.context
  set(bearer, self, context)
  local res = pack(pcall(fn, ...))
  return restore(bearer, before, unpack(res, 1, res.n))
end


--- Sets the context of the request or task that runs now, to its end: for
-- middleware that can't wrap what comes after it.
---@param given string|table  as for run_with_tenant
function methods:enter(given)
  local context = checked(given, "enter")
  local bearer = task.bearer()
  if not (bearer.co or bearer.guest) then
    errors.misuse(2, "enter: call it in a task, or in a request of the host")
  end
  set(bearer, self, context)
  if bearer.home then bearer.home.context = bearer.context end
end


--- The whole context: `tenant_id`, and what else was given. Raises misuse
-- where there is none.
---@return table
function methods:get_tenant()
  return needed(self, "get_tenant")
end


--- As get_tenant, but nil where there is none.
---@return table|nil
function methods:get_tenant_or_null()
  return current(self)
end


--- The tenant's id. Raises misuse where there is no context.
---@return string
function methods:get_tenant_id()
  return needed(self, "get_tenant_id").tenant_id
end


--- As get_tenant_id, but nil where there is no context.
---@return string|nil
function methods:get_tenant_id_or_null()
  local context = current(self)
  return context and context.tenant_id
end


--- The tenant's database handle, without I/O. Raises misuse where there is no
-- context.
---@return mtenant.Db|nil db
---@return table|nil err  as manager:get_db
function methods:get_tenant_db()
  return self._manager:get_db(needed(self, "get_tenant_db").tenant_id)
end


--- The shared schema's handle; needs no context.
---@return mtenant.Db|nil db
---@return table|nil err
function methods:get_shared_db()
  return self._manager:get_shared_db()
end


--- Can there be such a tenant? Checks the id only, without I/O.
---@param id string
---@return boolean|nil ok
---@return table|nil err  as manager:get_db
function methods:check(id)
  local db, err = self._manager:get_db(id)
  if not db then return nil, err end
  return true
end


--- Does the caller work for a tenant?
---@return boolean
function methods:is_in_tenant_context()
  return current(self) ~= nil
end


local M = {}


--- The context that the caller's code was given last, of whichever manager.
---@return table|nil
function M.latest()
  local all = task.bearer().context
  return all and all.latest
end


log._set_ids(M.latest)


--- A tenant context over a manager; a program may have several.
---@param manager mtenant.TenantManager
---@return mtenant.TenantContext
function M.create(manager)
  if type(manager) ~= "table" or not manager.get_db then
    errors.misuse(2, "create_tenant_context: manager must be a tenant manager")
  end
  return setmetatable({ _manager = manager }, mt)
end


return M
