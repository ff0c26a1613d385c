--- mtenant: multi-tenant PostgreSQL for Lua programs.
-- The module's public face: every name of it, nothing else.

-- Its own message would be about a symbol that the core misses.
if _VERSION == "Lua 5.1" and not jit then
  error("mtenant needs Lua 5.4 or LuaJIT 2.1: Lua 5.1 can't yield across pcall", 0)
end

local config = require "mtenant.config"
local core = require "mtenant.core"
local each = require "mtenant.each"
local errors = require "mtenant.errors"


-- before anything can fail: errors of the core are error objects
core.set_error_metatable(errors.mt)


local context = require "mtenant.context"
local deadline = require "mtenant.deadline"
local log = require "mtenant.log"
local manager = require "mtenant.manager"
local markers = require "mtenant.markers"
local retry = require "mtenant.retry"
local rls = require "mtenant.rls"
local roles = require "mtenant.roles"
local task = require "mtenant.task"


local JITTER_NAMES = { [true] = "true", [false] = "none" }


local function delay(policy, attempt, u, previous_ms)
  return core.backoff(policy.initial_delay_ms, policy.max_delay_ms,
                      policy.backoff_multiplier,
                      JITTER_NAMES[policy.jitter] or policy.jitter, attempt, u,
                      previous_ms)
end


local retrier = retry.new({
  sleep = task.sleep,
  now_ms = core.now_ms,
  random = core.random,
  delay = delay,
  log = function(message) log.default():warn(message) end,
})


---@class mtenant
local M = {
  _VERSION = core.version,

  errors = errors,
  log = log,

  run = task.run,
  spawn = task.spawn,
  sleep = task.sleep,
  now_ms = core.now_ms,
  each = each,
  with_deadline = deadline,

  create_tenant_manager = manager.create,
  create_tenant_context = context.create,
  create_migrator = function(cfg, opts)
    return require("mtenant.migrator").create(cfg, opts)
  end,
  dispose_all = manager.dispose_all,

  with_retry = retrier.with_retry,
  create_retrier = retrier.create_retrier,
  calculate_delay = retrier.calculate_delay,
  is_retryable_error = retrier.is_retryable_error,

  rls = rls,
  roles = roles,

  null = markers.null,
  json = markers.json,
  array = markers.array,
  bytea = markers.bytea,
}


--- A validated copy of a configuration, with defaults filled in; raises
-- misuse with the message of what is wrong.
---@param t table  see docs/configuration.md
---@return table
function M.define_config(t)
  return config.define(t, { level = 2 })
end


if rawget(_G, "ngx") and type(_G.ngx.get_phase) == "function" then
  task.set_host(require "mtenant.host.nginx")
end


return M
