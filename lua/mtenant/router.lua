--- A manager's routes: asks the policy, keeps what it answers for as long as it
-- may, and tells the core. Part of the manager where its configuration has a
-- `policy` or says `routing`.
--
-- The core asks for a route when an entry is used first, and when the route it
-- has is outdated; it says when one is stale. One question at a time is asked
-- for a tenant, and only so many at all; who comes meanwhile waits for the same
-- answer. An answer is kept only if nobody has said meanwhile that things have
-- changed; else it is asked again.

local callbacks = require "mtenant.callbacks"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local policies = require "mtenant.policy"
local reload = require "mtenant.reload"
local route_cache = require "mtenant.route_cache"
local routes = require "mtenant.routes"
local routing = require "mtenant.routing"
local task = require "mtenant.task"


local next, pairs, pcall, setmetatable = next, pairs, pcall, setmetatable

-- so often the policy is asked before an answer is taken that is for one use
local TRIES = 5
-- after a failure the last good route serves for so long until it asks again
local RETRY_MS = 1000
-- how often is looked for questions that take too long
local WATCH_MS = 500
-- that a tenant has no route is an answer; all else is a failure to give one
local NEGATIVE = { tenant_not_found = true, invalid_tenant_id = true }


local methods = {}
local mt = { __name = "mtenant.router", __index = methods }


--- Why nothing is asked any more.
function methods.disposed()
  return errors.new("disposed", "the manager has been disposed")
end


-- ---- events ------------------------------------------------------------

-- what may go into a sandbox
local function plain(ev)
  local out, err = {}, ev.error
  for key, value in pairs(ev) do out[key] = value end
  out.error = err and { code = err.code, message = err.message }
  return out
end


--- Tells the debug log, the hook and the policy.
function methods:tell(kind, ev)
  local manager, policy = self._manager, self.version.policy
  ev.kind, ev.policy, ev.version = kind, policy.name, self.version.number
  manager._debug:event({ kind = "policy", tenant_id = ev.tenant_id,
                         reason = kind, error = ev.error, policy = ev.policy,
                         version = ev.version })
  callbacks.hook(manager, "on_policy_event", ev)
  callbacks.call(manager, "policy.on_event", policy.on_event, plain(ev))
end


-- Failures may come by the thousand: one a second is told of each kind.
local function tell_some(self, kind, id, err)
  local seen, now = self._seen[kind], core.now_ms()
  if seen and now - seen.at < 1000 then
    seen.suppressed = seen.suppressed + 1
    return
  end
  self._seen[kind] = { at = now, suppressed = 0 }
  self:tell(kind, { tenant_id = id, error = err,
                    suppressed = seen and seen.suppressed or 0 })
end


-- ---- asking ------------------------------------------------------------

local function context(self, id, more)
  local ctx = more or {}
  ctx.tenant_id = id
  return setmetatable(ctx, self._ctx_mt)
end


-- Asks a version of the policy: route, error, ttl_ms.
local function ask(version, id, ctx)
  local ok, route, err = version:call(routing.resolve, version.view, id, ctx)
  if not ok then return nil, errors.wrap(route, "policy") end
  return route, err, route and route.ttl_ms
end


-- The policy cannot say: the last good route, if it may be used yet.
local function failed(self, id, err)
  if self._over then return nil, err end
  self.errors = self.errors + 1
  self.last_failure = err
  local route, tag = self.cache:last_good(id)
  if not route then
    tell_some(self, "error", id, err)
    return nil, err
  end
  self.kept_stale = self.kept_stale + 1
  tell_some(self, "stale", id, err)
  return route, nil, tag, self.cache:prolong(id, RETRY_MS)
end


local function keep(self, id, route, err, ttl)
  local policy, cache = self.version.policy, self.cache
  if not route and not NEGATIVE[err.code] then return failed(self, id, err) end
  self.last_failure = nil
  if not route then
    cache:put_negative(id, err, policy.negative_ttl_ms)
    return nil, err
  end
  local tag, fresh_ms, stale_ms = cache:put(id, route, ttl or policy.ttl_ms)
  return route, nil, tag, fresh_ms, stale_ms
end


local function find(self, id, flight)
  local route, err, ttl
  for _ = 1, TRIES do
    if self._over then return nil, self.disposed() end
    local version = self.version
    flight.outdated = false
    self.asked = self.asked + 1
    route, err, ttl = ask(version, id, context(self, id))
    if version == self.version and not flight.outdated then
      return keep(self, id, route, err, ttl)
    end
  end
  -- it changes faster than it answers: for one use
  return route, err, self.cache:new_tag(), 0, 0
end


-- ---- flights ------------------------------------------------------------

local fly


local function next_flight(self)
  self._running = self._running - 1
  local first = self._first
  if first > self._last then return end
  local id = self._queue[first]
  self._queue[first], self._first = nil, first + 1
  fly(self, id, self._flights[id])
end


local function land(self, id, flight)
  local ok, route, err, tag, fresh_ms, stale_ms = pcall(find, self, id, flight)
  if not ok then route, err = nil, errors.wrap(route, "policy") end
  self._flights[id] = nil
  for i = 1, #flight do
    callbacks.call(self._manager, "router", flight[i], route, err, tag,
                   fresh_ms, stale_ms)
  end
  next_flight(self)
end


-- A policy that waits for ever is one that fails: its wait ends with an error, and
-- every later one.
local function watch(self)
  while next(self._flights) and not self._over do
    if not task.sleep(WATCH_MS) then break end
    local timeout_ms, now = self._options.timeout_ms, core.now_ms()
    for id, flight in pairs(self._flights) do
      local asking = flight.task
      if asking and not asking.expired and now - flight.since >= timeout_ms then
        asking.expired = errors.new("timeout", string.format(
          "the policy has not answered within %g ms", timeout_ms),
          { tenant_id = id })
        task.interrupt(asking, "timeout", asking.expired)
      end
    end
  end
  self._watch = nil
end


function fly(self, id, flight)
  self._running = self._running + 1
  flight.since, flight.task = core.now_ms(), task.spawn(land, self, id, flight)
  if self._watch then return end
  self._watch = task.spawn(watch, self)
  self._watch.observed = true
end


-- calls done(route, err, tag, fresh_ms, stale_ms) later
local function request(self, id, done)
  local flight = self._flights[id]
  if flight then
    flight[#flight + 1] = done
    return
  end
  flight = { done }
  self._flights[id] = flight
  if self._running < self._options.max_concurrent then
    return fly(self, id, flight)
  end
  self._last = self._last + 1
  self._queue[self._last] = id
end


-- ---- what the core wants ------------------------------------------------------

local function refresh(self, id)
  self.refreshes = self.refreshes + 1
  request(self, id, function(route, _, tag, fresh_ms, stale_ms)
    if self._over then return end
    -- without a route the entry goes, and who uses it next hears why
    if self._core:renew(id, route and tag or 0, fresh_ms or 0, stale_ms or 0)
    then
      self._manager._routes[id] = route
    end
  end)
end


--- A route of the core's is stale.
function methods:stale(id)
  if not self._over then refresh(self, id) end
end


-- With migrations on_connect: brings the tenant up to date, then answers; a
-- route that has changed meanwhile is asked for once more.
local function migrate(self, id, token, route, tag, ...)
  local version, flight = self.version, {}
  self._migrating[flight] = id
  if self._tags[id] ~= tag then
    self._manager._migrator:forget_tenant(id)
    self._tags[id] = tag
  end
  local migrated, err = self._manager:_migrated(id, route)
  local outdated = version ~= self.version or flight.outdated
  self._migrating[flight] = nil
  if migrated and outdated then return self:resolve(id, token) end
  routes.answer(self._manager, id, token, migrated, err, tag, ...)
end


local function answer(self, id, token, route, err, ...)
  local manager = self._manager
  if not route then return self._core:resolved(token, nil, err) end
  manager:_note_strategy(id, route.strategy)
  if not manager._migrator then
    return routes.answer(manager, id, token, route, nil, ...)
  end
  task.spawn(migrate, self, id, token, route, ...)
end


--- The core asks for a tenant's route.
function methods:resolve(id, token)
  if not self._started then self:start() end
  local state, value, tag, fresh_ms, stale_ms = self.cache:look(id)
  if state == "negative" then
    return self._core:resolved(token, nil, value)
  elseif state then
    if state == "stale" then refresh(self, id) end
    return answer(self, id, token, value, nil, tag, fresh_ms, stale_ms)
  end
  request(self, id, function(...) answer(self, id, token, ...) end)
end


-- ---- changes ------------------------------------------------------------

--- What was said of a tenant's route holds no more. An answer that is under
-- way does not count either.
function methods:outdate(id)
  local flight = self._flights[id]
  if flight then flight.outdated = true end
  for migrating, of in pairs(self._migrating) do
    if of == id then migrating.outdated = true end
  end
  return self.cache:outdate(id)
end


--- The same for all tenants. What is open stays where the route turns out to
-- be the same.
function methods:outdate_all()
  self.cache:outdate_all()
  for _, flight in pairs(self._flights) do flight.outdated = true end
  for migrating in pairs(self._migrating) do migrating.outdated = true end
  if not self._over then self._core:outdate() end
end


--- The route as the policy gives it now; nothing is kept.
function methods:ask_now(id, more)
  return ask(self.version, id, context(self, id, more))
end


-- ---- life ------------------------------------------------------------

local function view_of(manager, policy)
  return setmetatable({ policy = false,
                        resolve = policy.resolve }, {
    __index = function(_, key) return manager._config[key] end,
  })
end


-- a policy that is not used any more goes when its last call has come back
local version_methods = {}
local version_mt = { __index = version_methods }


function version_methods:let_go()
  if not self.retired or self.users > 0 or self.closed then return end
  self.closed = true
  callbacks.call(self.manager, "policy", self.policy.close)
end


local function come_back(self, ...)
  self.users = self.users - 1
  self:let_go()
  return ...
end


--- Calls a function of the policy's, by protected call.
function version_methods:call(fn, ...)
  self.users = self.users + 1
  return come_back(self, pcall(fn, ...))
end


--- Puts a policy in the place of the one before: from now on all routes are
-- its. The core asks again for those it has, as they are used.
function methods:use(policy, reason)
  local before = self.version
  self.version = setmetatable({
    manager = self._manager, policy = policy,
    view = view_of(self._manager, policy), users = 0,
    number = before and before.number + 1 or 1,
    loaded_at = os.time(), reason = reason,
  }, version_mt)
  if not before then return end
  before.retired = true
  self:outdate_all()
  before:let_go()
end


--- At the first use in a loop that runs: what the policy does on its own.
function methods:start()
  self._started = true
  self.reloading:start()
end


--- Nothing is asked any more.
function methods:stop()
  if self._over then return end
  self._over = true
  self.reloading:stop()
  if self._watch then self._watch:cancel() end
  self.version.retired = true
  self.version:let_go()
end


local function log_of(log, policy_name)
  return function(message)
    log:info("policy " .. policy_name() .. ": " .. tostring(message))
  end
end


local function load_policy(cfg)
  if cfg.policy then return policies.load(cfg.policy, cfg.routing) end
  return { resolve = cfg.resolve, name = cfg.resolve and "resolve" or "template",
           close = function() end, stats = function() end }
end


local M = {}


--- The router of a manager that is being made.
---@return table|nil router
---@return mtenant.error|nil err
function M.new(manager, handle)
  local cfg = manager._config
  local policy, err = load_policy(cfg)
  if not policy then return nil, err end
  local options = { now_ms = core.now_ms }
  for key, value in pairs(cfg.routing) do options[key] = value end
  local self = setmetatable({
    cache = route_cache.new(options),
    errors = 0, kept_stale = 0, refreshes = 0, asked = 0,
    _manager = manager, _core = handle, _options = options,
    _flights = {}, _running = 0, _queue = {}, _first = 1, _last = 0,
    _migrating = {}, _tags = {}, _seen = {}, _over = false, _started = false,
  }, mt)
  self._ctx_mt = { __index = policies.context(cfg, function()
    return manager:get_shared_db()
  end, log_of(manager._log, function() return self.version.policy.name end)) }
  self:use(policy, "start")
  self.reloading = reload.new(self, cfg)
  return self
end


return M
