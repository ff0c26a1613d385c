--- An active look at the servers of managers, so that an outage is known though
-- nobody uses one: a ping to each now and then, by the means of a health check.
-- It counts as no use of a tenant. Where a server does not answer, one ping
-- always waits for its breaker's next attempt: so the end of an outage is known
-- when that is. Has no timer: `tick` says when it wants to be called again.

local core = require "mtenant.core"
local health = require "mtenant.health"
local task = require "mtenant.task"


-- after a failure: the breaker has a pace of its own
local AGAIN_MS = 50
-- for a server that its breaker says is down: longer than any step of it
local PATIENCE_MS = 10000


local BROKEN = health.BROKEN


---@class mtenant.admin.Probe
local methods = {}
local mt = { __name = "mtenant.admin.probe", __index = methods }


local M = {}


-- Writes down how a ping went.
local function note(self, known, status, took_ms, err)
  local now = core.now_ms()
  known.asking = nil
  if err and (err.code == "cancelled" or err.code == "disposed") then
    known.next_ms = now + self.interval_ms
    return
  end
  if err then
    known.error, known.error_ms, took_ms = err.message, now, nil
  elseif not took_ms and known.status == "unhealthy" then
    status = "unhealthy" -- "busy" says nothing about who was down before
  end
  known.status, known.response_time_ms = status, took_ms
  known.asked_ms = now
  known.next_ms = now + (status == "unhealthy" and AGAIN_MS
                         or self.interval_ms)
end


local function ask(self, manager, name, known, timeout_ms)
  known.asking = true
  known.task = task.spawn(function()
    note(self, known, health.ping(function(within_ms)
      return manager._core:ping_server(name, within_ms)
    end, timeout_ms, self.timeout_ms / 2))
    self.on_answer()
  end)
end


local function look_at(self, manager, server, states)
  local known = states[server.name] or { next_ms = 0 }
  states[server.name] = known
  known.seen = self.round
  if known.task and known.task.done and known.asking then
    known.asking = nil -- it was cancelled before it began
  end
  if known.asking or server.paused or server.state == "isolated"
    or core.now_ms() < known.next_ms then return end
  ask(self, manager, server.name, known,
      BROKEN[server.state] and PATIENCE_MS or self.timeout_ms)
end


local function forget_gone(self, states)
  for name, known in pairs(states) do
    if known.seen ~= self.round and not known.asking then states[name] = nil end
  end
end


--- Starts the pings that are due.
---@return number ms  until it wants to be called again
function methods:tick()
  local next_ms = core.now_ms() + self.interval_ms
  self.round = self.round + 1
  for _, manager in ipairs(self.managers()) do
    local states = self.states[manager] or {}
    self.states[manager] = states
    for _, server in ipairs(manager._core:servers(self.include_shared) or {}) do
      look_at(self, manager, server, states)
    end
    forget_gone(self, states)
    for _, known in pairs(states) do
      if not known.asking then next_ms = math.min(next_ms, known.next_ms) end
    end
  end
  return math.max(0, next_ms - core.now_ms())
end


local function status_of(server, known)
  if server.state == "isolated" then return "unhealthy", "isolated" end
  if BROKEN[server.state] then
    return "unhealthy", server.cause and server.cause.message or known.error
      or "it does not answer"
  end
  if server.paused then return "degraded" end
  if known.status == "unhealthy" then return "unhealthy", known.error end
  if server.waiting > 0 and known.status == "ok" then return "degraded" end
  return known.status or "unknown"
end


--- What is known of a manager's servers, now.
---@return table[]  core's views, with status, error, last_error, last_error_ms,
--- response_time_ms, asked_ms
function methods:servers(manager)
  local states, out = self.states[manager] or {}, {}
  for i, server in ipairs(manager._core:servers(self.include_shared) or {}) do
    local known = states[server.name] or {}
    server.status, server.error = status_of(server, known)
    server.last_error, server.last_error_ms = known.error, known.error_ms
    server.response_time_ms = known.response_time_ms
    server.asked_ms = known.asked_ms
    out[i] = server
  end
  return out
end


--- Has every server been asked once?
function methods:knows_all()
  for _, manager in ipairs(self.managers()) do
    for _, server in ipairs(self:servers(manager)) do
      if server.status == "unknown" then return false end
    end
  end
  return true
end


--- Ends what it asks.
function methods:close()
  self.on_answer = function() end
  for _, states in pairs(self.states) do
    for _, known in pairs(states) do
      if known.task and not known.task.done then
        known.task.observed = true
        known.task:cancel()
      end
    end
  end
end


--- Makes one.
---@param o table  managers: function; interval_ms, timeout_ms, include_shared;
--- on_answer: called when a ping has ended
---@return mtenant.admin.Probe
function M.new(o)
  return setmetatable({
    managers = o.managers, interval_ms = o.interval_ms,
    timeout_ms = o.timeout_ms, include_shared = o.include_shared,
    on_answer = o.on_answer, round = 0,
    states = setmetatable({}, { __mode = "k" }),
  }, mt)
end


return M
