--- The routes that a manager's tenants have now: kept with their entries, for
-- who wants to see one, and for readers. Part of the manager.

local config = require "mtenant.config"
local errors = require "mtenant.errors"
local routing = require "mtenant.routing"


local M = {}


--- Hands the answer of a resolver to the core, and keeps the route if that has
--- taken it.
---@param manager mtenant.TenantManager
---@param token userdata
---@param route table|nil
---@param err? mtenant.error
function M.answer(manager, id, token, route, err)
  local routes = manager._routes
  local before = routes[id]
  if route then routes[id] = route end -- hooks may ask for it at once
  if manager._core:resolved(token, route, err) or not route then return end
  routes[id] = before
end


--- A tenant's entry has gone.
function M.forget(manager, id)
  manager._routes[id] = nil
end


--- The route of the entry that is there, as routing.resolve has made it.
---@return table|nil
function M.current(manager, id)
  return manager._core:schema(id) and manager._routes[id]
end


--- Adds the method to a manager's.
---@param methods mtenant.TenantManager
---@param disposed fun(): mtenant.error
function M.install(methods, disposed)

  --- Where a tenant is now: a copy of its current route, without passwords. It
  --- asks nobody, and is no use of the tenant.
  ---@param id string
  ---@return table|nil route  server (its name in config.servers, if it has
  --- one), url, database, schema, role, strategy, settings, pool, read, labels
  ---@return mtenant.error|nil err  invalid_tenant_id; tenant_not_found: nobody
  --- has used it yet, so no route is known
  function methods:get_route(id)
    if self._over then return nil, disposed() end
    local ok, err = config.valid_id(id, self._config.id_pattern)
    if not ok then return nil, err end
    local route = M.current(self, id)
    if route then return routing.describe(self._config, route) end
    return nil, errors.new("tenant_not_found", string.format(
      'the route of tenant "%s" is not known: it has not been used yet', id),
      { tenant_id = id })
  end
end


return M
