--- What a manager offers for its routing policy: the tenant of a request,
-- reloading, invalidation, and how things stand. Part of the manager.

local config = require "mtenant.config"
local errors = require "mtenant.errors"
local routing = require "mtenant.routing"
local task = require "mtenant.task"


local M = {}


local function no_policy(what)
  return nil, errors.new("policy", what .. ": the configuration names no policy")
end


local function cache_status(router)
  local cache, counters = router.cache, router.cache.counters
  return {
    entries = cache:count(), max_entries = router._options.max_entries,
    hits = counters.hits, stale = counters.stale, negative = counters.negative,
    misses = counters.misses, evictions = counters.evictions,
    asked = router.asked, refreshes = router.refreshes, errors = router.errors,
    kept_stale = router.kept_stale,
  }
end


--- Adds the methods to a manager's.
---@param methods mtenant.TenantManager
---@param disposed fun(): mtenant.error
function M.install(methods, disposed)

  --- The tenant of a request, by the policy's `identify`. Does not wait.
  ---@param request table  { host =, path =, method =, headers =, claims = }
  ---@return string|nil id
  ---@return mtenant.error|nil err  invalid_tenant_id: it names none, or one that
  --- can't be; policy, disposed
  function methods:identify(request)
    if type(request) ~= "table" then
      errors.misuse(2, "identify: request must be a table, got %s",
                    type(request))
    end
    if self._over then return nil, disposed() end
    if not self._router then return no_policy("identify") end
    local policies = require "mtenant.policy"
    local id, err = policies.identify(self._router.version.policy, request)
    if not id then return nil, err end
    local ok
    ok, err = config.valid_id(id, self._config.id_pattern)
    if not ok then return nil, err end
    return id
  end


  -- for the middleware
  function methods:_can_identify()
    return self._router ~= nil and self._router.version.policy.identify ~= nil
  end


  --- Loads the policy's file again, tests it by its own `selftest`, and puts it
  --- in the place of the one before. Waits. On any error that one stays.
  ---@param policy? string|table|function  another policy, from now on
  ---@return boolean|nil ok
  ---@return mtenant.error|nil err  policy, disposed, cancelled, timeout
  function methods:reload_policy(policy)
    if policy ~= nil and type(policy) ~= "string" and type(policy) ~= "table"
       and type(policy) ~= "function" then
      errors.misuse(2, "reload_policy: policy must be a path, a table or a "
        .. "function, got %s", type(policy))
    end
    local stop = task.check("reload_policy")
    if stop then return nil, stop end
    if self._over then return nil, disposed() end
    if not self._router or not self._config.policy then
      return no_policy("reload_policy")
    end
    return self._router.reloading:reload("manual", policy)
  end


  --- What was said of any tenant's route holds no more: who uses one next asks
  --- again. Where the answer is the same nothing is closed.
  function methods:invalidate_all()
    if self._over then return end
    if self._router then return self._router:outdate_all() end
    for _, id in ipairs(self:get_active_tenant_ids()) do
      self:invalidate(id)
    end
  end


  --- How the policy stands: which one it is, since when and why, what went
  --- wrong, and what its cache has done.
  ---@return table|nil  nil: there is no policy, and no `routing`
  function methods:get_policy_status()
    local router = self._router
    if not router then return nil end
    local version = router.version
    local status = router.reloading:status()
    status.policy, status.hash = version.policy.name, version.policy.hash
    status.version, status.label = version.number, version.policy.version
    status.loaded_at, status.reason = version.loaded_at, version.reason
    status.failing = router.last_failure and router.last_failure.message
    status.cache = cache_status(router)
    status.sandbox = version.policy.stats()
    return status
  end


  -- for policy.explain: the state of what is in the cache, else "policy"
  function methods:_route_source(id)
    local router = self._router
    if not router then return "policy", "resolve" end
    return router.cache:peek(id) or "policy", router.version.policy.name
  end


  -- what the policy, the resolver or the templates say now; nothing is kept
  function methods:_ask_route(id, more)
    if self._router then return self._router:ask_now(id, more) end
    local ctx = setmetatable(more, { __index = self._ctx })
    return routing.resolve(self._config, id, ctx)
  end
end


return M
