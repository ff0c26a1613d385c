--- What a manager's core calls: events, and the user's functions for retries
-- and passwords. They run by protected call, and cannot wait. Used by manager.lua
-- and router.lua.

local errors = require "mtenant.errors"
local listen = require "mtenant.listen"
local routes = require "mtenant.routes"


local pcall, type = pcall, type

local M = {}


local function warn(self, what, err)
  self._log:warn("error in " .. what .. ": " .. errors.text_of(err),
                 { event = "callback_failed " .. what })
end


--- Calls a function, if there is one; what it raises is logged.
function M.call(self, what, fn, ...)
  if not fn then return end
  local ok, err = pcall(fn, ...)
  if not ok then warn(self, what, err) end
end


--- Calls a hook of the configuration, if there is one.
function M.hook(self, name, ...)
  local fn = self._config.hooks[name]
  if fn then M.call(self, "hooks." .. name, fn, ...) end
end


--- Something has happened.
function M.event(self, ev)
  if ev.kind == "route_stale" then return self._router:stale(ev.tenant_id) end
  if ev.kind == "pool_evicted" then routes.forget(self, ev.tenant_id) end
  self._debug:event(ev)
  if ev.kind == "pool_created" then
    M.hook(self, "on_pool_created", ev.tenant_id)
  elseif ev.kind == "pool_evicted" then
    if ev.reason == "schema_changed" then
      if self._router then self._router:outdate(ev.tenant_id) end
      if self._migrator then self._migrator:forget_tenant(ev.tenant_id) end
    end
    listen.evicted(self, ev.tenant_id, ev.reason)
    M.hook(self, "on_pool_evicted", ev.tenant_id, ev.reason)
  elseif ev.kind == "pool_error" then
    M.hook(self, "on_error", ev.tenant_id, ev.error)
  elseif ev.kind == "queue_full" then
    M.hook(self, "on_queue_full", ev.tenant_id)
  elseif ev.kind == "queue_timeout" then
    M.hook(self, "on_queue_timeout", ev.tenant_id, ev.total_time_ms)
  end
end


--- An attempt has failed: the delay, if it is to be another one, or false.
function M.retry(self, tenant_id, attempt, err, elapsed_ms, delay_ms)
  local retry = self._config.connection.retry
  local ok, answer = pcall(retry.on_retry, attempt, err, delay_ms, {
    tenant_id = tenant_id, server = err.server, elapsed_ms = elapsed_ms,
    max_attempts = retry.max_attempts,
  })
  if not ok then
    warn(self, "on_retry", answer)
    return nil
  end
  if type(answer) == "number" and not (answer >= 0 and answer < math.huge) then
    warn(self, "on_retry", "it returned a delay that is none: " .. answer)
    return nil
  end
  return answer
end


--- Is this error worth another try?
function M.is_retryable(self, err)
  local ok, answer = pcall(self._config.connection.retry.is_retryable, err)
  if ok then return answer and true or false end
  warn(self, "is_retryable", answer)
  return err.retryable
end


--- The password now.
function M.password(self)
  local value = self._config.connection.password
  if type(value) ~= "function" then return value end
  local ok, text = pcall(value)
  if ok and type(text) == "string" then return text end
  warn(self, "connection.password",
       ok and "it returned a " .. type(text) .. ", not a string" or text)
  return nil
end


return M
