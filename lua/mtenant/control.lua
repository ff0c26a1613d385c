--- What an operator does while a manager serves: pause and resume a tenant or
-- a server, and change settings. Part of the manager.

local config = require "mtenant.config"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local schema = require "mtenant.schema"
local servers = require "mtenant.servers"
local task = require "mtenant.task"


local M = {}


-- ---- pause ------------------------------------------------------------

-- how often a pause looks whether what was accepted before is done
local LOOK_MS = 5


local target_fields = schema.new({
  name = "target",
  { "tenant", kind = "string" },
  { "server", kind = "string" },
})

local pause_fields = schema.new({
  name = "pause",
  { "timeout_ms", kind = "number", min = 0 },
})


local function check_target(self, target, what)
  if type(target) ~= "table" then
    errors.misuse(3, '%s: target must be { tenant = id } or { server = name }, '
      .. "got %s", what, type(target))
  end
  target = target_fields:check(target, 3)
  if target.server then target.server = servers.address(self, target.server) end
  if (target.tenant == nil) == (target.server == nil) then
    errors.misuse(3, "%s: target must have either tenant or server", what)
  end
  return target
end


-- true, or nil and why not; false: there is no such server
local function start_pause(self, target)
  if target.server then return self._core:pause_server(target.server) end
  local ok, err = config.valid_id(target.tenant, self._config.id_pattern)
  if not ok then return nil, err end
  return self._core:pause(target.tenant)
end


local function is_quiet(self, target)
  if target.server then return self._core:server_quiet(target.server) end
  return self._core:quiet(target.tenant)
end


local function wait_until_quiet(self, target, timeout_ms)
  local until_ms = core.now_ms() + timeout_ms
  while not is_quiet(self, target) do
    if core.now_ms() >= until_ms then
      return nil, errors.new("timeout", string.format(
        "paused, but what was under way is not done after %g ms", timeout_ms),
        { tenant_id = target.tenant, server = target.server })
    end
    local _, err = task.sleep(LOOK_MS)
    if err then return nil, err end
  end
  local _, err = task.sleep(0) -- who was answered just now hears of it first
  if err then return nil, err end
  return true
end


-- ---- settings ------------------------------------------------------------

-- those that hold for what is there already
local CHANGEABLE = {}
for _, name in ipairs {
  "connection.pool.max", "connection.pool.min", "connection.pool.max_waiting",
  "connection.pool.idle_timeout_ms", "connection.pool.connect_timeout_ms",
  "connection.pool.acquire_timeout_ms", "connection.pool.max_lifetime_ms",
  "connection.pool.queue_policy", "connection.max_connections",
  "connection.statement_timeout_ms", "connection.cancel_timeout_ms",
  "connection.retry.max_attempts", "connection.retry.initial_delay_ms",
  "connection.retry.max_delay_ms", "connection.retry.backoff_multiplier",
  "connection.retry.jitter", "connection.retry.deadline_ms",
  "rate_limit.max_queries_per_second", "rate_limit.burst",
  "rate_limit.on_exceeded", "breaker.failure_threshold",
  "breaker.initial_delay_ms", "breaker.max_delay_ms",
  "breaker.break_duration_ms", "breaker.fail_fast", "breaker.failure_ratio",
  "breaker.minimum_throughput", "breaker.sampling_duration_ms",
  "retry_budget.enabled", "retry_budget.per_second", "retry_budget.ratio",
  "retry_budget.burst", "retry_budget.tenant_share", "isolation.max_pools",
  "isolation.pool_ttl_ms",
  "rate_limit", "breaker", "retry_budget", -- as a whole, back to their defaults
} do CHANGEABLE[name] = true end


-- `base` with the changes; mtenant.null takes a field back to its default
local function merge(base, changes, path)
  local out = {}
  for key, value in pairs(base or {}) do out[key] = value end
  for key, value in pairs(changes) do
    local name = path .. tostring(key)
    if value == core.null then
      out[key] = nil
    elseif type(value) == "table" then
      out[key] = merge(out[key], value, name .. ".")
    else
      out[key] = value
    end
  end
  return out
end


--- A copy of what a manager is made of, which later changes build upon.
---@param cfg table
---@return table
function M.copy(cfg)
  return merge(nil, cfg, "")
end


local function check_changeable(changes, path)
  for key, value in pairs(changes) do
    local name = path .. tostring(key)
    if type(value) == "table" then
      check_changeable(value, name .. ".")
    elseif not CHANGEABLE[name] then
      errors.misuse(4, "reconfigure: %s cannot be changed while the manager "
        .. "lives", name)
    end
  end
end


--- Adds the methods to a manager's.
---@param methods mtenant.TenantManager
---@param disposed fun(): mtenant.error
function M.install(methods, disposed)

  --- Lets nothing more through to a tenant or a server: what was accepted
  --- before is done, what comes waits until `resume`. Returns when all of the
  --- former is done: then the tenant's data can be moved, or the server be
  --- switched over. An open transaction or session is waited for. A
  --- statement's own `timeout_ms`, `with_deadline` and
  --- `connection.pool.max_waiting` hold while it waits; acquire_timeout_ms
  --- does not run. What waits for a paused tenant follows its new route after
  --- `invalidate`.
  ---@param target table  `{ tenant = id }` or `{ server = name }`, named as
  --- errors name it
  ---@param opts? table  { timeout_ms = 30000 }: so long at most; it stays
  --- paused when that is over
  ---@return boolean|nil  false: this manager has not used such a server
  ---@return mtenant.error|nil err  timeout, cancelled, invalid_tenant_id,
  --- disposed
  function methods:pause(target, opts)
    target = check_target(self, target, "pause")
    opts = pause_fields:check(opts or {}, 2)
    if self._over then return nil, disposed() end
    local ok, err = start_pause(self, target)
    if not ok then return ok, err end
    return wait_until_quiet(self, target, opts.timeout_ms or 30000)
  end


  --- Ends a pause: what has waited goes on, in its order.
  ---@param target table  as for `pause`
  ---@return boolean  false: it was not paused
  function methods:resume(target)
    target = check_target(self, target, "resume")
    if self._over then return false end
    if target.server then return self._core:resume_server(target.server) end
    return self._core:resume(target.tenant)
  end


  --- Changes settings while the manager serves; see docs/configuration.md for
  --- which. They hold from now on, for what waits, too; open connections stay.
  --- Raises misuse for what is wrong, and nothing is changed then.
  ---@param changes table  the part of the configuration that changes;
  --- mtenant.null for a field that is to have its default again
  ---@return boolean|nil ok
  ---@return mtenant.error|nil err  disposed
  function methods:reconfigure(changes)
    if type(changes) ~= "table" then
      errors.misuse(2, "reconfigure: changes must be a table, got %s",
                    type(changes))
    end
    if self._over then return nil, disposed() end
    local given = merge(self._given, changes, "")
    local new = config.define(given, { level = 3 })
    check_changeable(changes, "")
    self._core:reconfigure(config.flatten(new))
    self._given, self._config = given, new
    self._class._timeout_ms = new.connection.statement_timeout_ms
    return true
  end
end


return M
