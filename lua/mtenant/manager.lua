--- The tenant manager: configuration, routing, handles, hooks, disposal.
-- The registry, the pools and the retry live in the core; this is where the
-- user's functions are called and where handles are kept. Never holds a
-- connection.

local apart = require "mtenant.apart"
local callbacks = require "mtenant.callbacks"
local config = require "mtenant.config"
local context = require "mtenant.context"
local control = require "mtenant.control"
local core = require "mtenant.core"
local database = require "mtenant.db"
local databases = require "mtenant.databases"
local debug_log = require "mtenant.debug"
local errors = require "mtenant.errors"
local health = require "mtenant.health"
local log = require "mtenant.log"
local metrics = require "mtenant.metrics"
local named_servers = require "mtenant.named_servers"
local policy_control = require "mtenant.policy_control"
local routes = require "mtenant.routes"
local routing = require "mtenant.routing"
local servers = require "mtenant.servers"
local task = require "mtenant.task"
local tracing = require "mtenant.tracing"
local warmup = require "mtenant.warmup"


local await, check = task.await, task.check
local pcall, type = pcall, type


local DISPOSED = "[mtenant] TenantManager has been disposed"

-- managers that were not disposed of yet, for dispose_all, and their numbers
local live = setmetatable({}, { __mode = "k" })
local made = 0
local enders = {}


---@class mtenant.TenantManager
local methods = {}
local mt = { __name = "mtenant.manager", __index = methods }


-- ---- routing ------------------------------------------------------------------

-- Tells when a tenant's strategy is another than it was; remembers it only for
-- somebody who wants to know.
function methods:_note_strategy(id, strategy)
  if not self._config.hooks.on_promotion then return end
  local before = self._strategies[id]
  self._strategies[id] = strategy
  if before and before ~= strategy then
    callbacks.hook(self, "on_promotion", id, before, strategy)
  end
end


-- Brings the tenant up to date before anybody gets to it.
function methods:_migrated(id, route)
  if not self._migrator or route.strategy == "row" then return route end
  local ran, ok, err = pcall(self._migrator.ensure_tenant, self._migrator, id,
                             route)
  if not ran then return nil, errors.wrap(ok, "policy") end
  if not ok then return nil, err end
  return route
end


local function on_resolve(self, id, token)
  if self._router then return self._router:resolve(id, token) end
  if not self._migrator and not routing.may_wait(self._config) then
    routes.answer(self, id, token,
                  routing.resolve(self._config, id, self._ctx))
    return
  end
  task.spawn(function()
    local route, err = routing.resolve(self._config, id, self._ctx)
    if route then
      self:_note_strategy(id, route.strategy)
      route, err = self:_migrated(id, route)
    end
    routes.answer(self, id, token, route, err)
  end)
end


-- what the core calls, by kind
local CALLBACKS = {
  event = callbacks.event, resolve = on_resolve, retry = callbacks.retry,
  is_retryable = callbacks.is_retryable, password = callbacks.password,
}


-- ---- handles ------------------------------------------------------------

local function query_observer(self, tenant_id)
  if not self._debug:wants("query") then return nil end
  local with_params = self._config.debug.log_parameters
  return function(sql, duration_ms, err, ...)
    self._debug:event({ kind = "query", tenant_id = tenant_id, query = sql,
                        duration_ms = duration_ms, error = err,
                        params = with_params and task.pack(...) or nil })
  end
end


-- what the handles of a manager share
local function handle_class(self)
  local connection = self._config.connection
  return {
    _m = self,
    _pooled = connection.pooler == "transaction",
    _tag = tracing.tagger(self._config.tracing, context.latest),
    _timeout_ms = connection.statement_timeout_ms,
    _delay = function(attempt, previous)
      local retry = self._config.connection.retry
      local jitter = retry.jitter == true and "true"
        or retry.jitter or "none"
      return core.backoff(retry.initial_delay_ms, retry.max_delay_ms,
                          retry.backoff_multiplier, jitter, attempt,
                          self._core:random(), previous)
    end,
  }
end


-- The newest handles are held on to: others go with the next collection when
-- nobody has them, and a busy tenant's would be made again and again.
local RECENT = 256

local function new_handle(self, core_handle, tenant_id)
  local db = self._new_handle(core_handle, tenant_id,
                              query_observer(self, tenant_id))
  self._recent_at = self._recent_at % RECENT + 1
  self._recent[self._recent_at] = db
  return db
end


local function disposed()
  return errors.new("disposed", DISPOSED)
end


local make_handle = apart(function(self, id)
  if self._over then return nil, disposed() end
  local ok, err = config.valid_id(id, self._config.id_pattern)
  if not ok then return nil, err end
  local handle
  handle, err = self._core:tenant(id)
  if not handle then return nil, err end
  local db = new_handle(self, handle, id)
  self._handles[id] = db
  return db
end)


--- A tenant's handle, without any I/O: only the id is checked. An unknown
-- tenant shows at first use.
---@param id string
---@return mtenant.Db|nil db
---@return table|nil err  invalid_tenant_id, disposed
function methods:get_db(id)
  local db = self._handles[id]
  if db and not self._over then return db end
  return make_handle(self, id)
end


local function connect(self, db)
  local stop = check("get_db_async")
  if stop then return nil, stop end
  local slot, err = db._h:connect()
  if not slot then return nil, err end
  local _
  _, err = await(slot)
  if err then
    local now = task.current()
    return nil, now.cancelled or now.expired or err
  end
  if self._over then return nil, disposed() end
  return db
end


--- A tenant's handle, routed, fenced, connected and pinged, with retry.
-- Concurrent calls for one tenant share one flight.
---@param id string
---@return mtenant.Db|nil db
---@return table|nil err  the last error, with `attempts`
function methods:get_db_async(id)
  local db, err = self:get_db(id)
  if not db then return nil, err end
  return connect(self, db)
end


--- The shared schema's handle (scope `public`), without I/O.
---@return mtenant.Db|nil db
---@return table|nil err
function methods:get_shared_db()
  if self._over then return nil, disposed() end
  if self._shared then return self._shared end
  local handle, err = self._core:shared()
  if not handle then return nil, err end
  self._shared = new_handle(self, handle, "shared")
  return self._shared
end


--- The shared schema's handle, connected and pinged, with retry.
---@return mtenant.Db|nil db
---@return table|nil err
function methods:get_shared_db_async()
  local db, err = self:get_shared_db()
  if not db then return nil, err end
  return connect(self, db)
end


-- ---- entries ------------------------------------------------------------

--- The schema of a tenant: of its cached route, else by the template.
---@param id string
---@return string|nil schema
---@return table|nil err
function methods:get_schema_name(id)
  local ok, err = config.valid_id(id, self._config.id_pattern)
  if not ok then return nil, err end
  local cached = self._core:schema(id)
  if cached then return cached end
  return routing.schema_name(self._config, id)
end


--- Is there an entry for this tenant?
---@return boolean
function methods:has_pool(id)
  return type(id) == "string" and self._core:has(id)
end


--- Number of tenant entries.
---@return integer
function methods:get_pool_count()
  return self._core:count()
end


--- Ids of all tenant entries, least recently used first.
---@return string[]
function methods:get_active_tenant_ids()
  return self._core:ids()
end


--- The retry configuration, with defaults filled in; a copy.
---@return table
function methods:get_retry_config()
  local out = {}
  for key, value in pairs(self._config.connection.retry) do
    out[key] = value
  end
  return out
end


--- Drops a tenant's entry; what is in flight finishes.
---@param id string
---@return boolean  whether there was one
function methods:evict_pool(id)
  if type(id) ~= "string" or self._over then return false end
  return self._core:evict(id)
end


--- Forgets a tenant's route: who uses it next asks the resolver, or the rule of
-- strategy hybrid, again; with migrations on_connect its schema is looked at
-- again. What is in flight finishes where it is.
---@param id string
---@return boolean  whether there was one
function methods:invalidate(id)
  if self._migrator then self._migrator:forget_tenant(id) end
  if self._router and type(id) == "string" then self._router:outdate(id) end
  return self:evict_pool(id)
end


--- What tells it from the other managers of this process: `name` of its
-- configuration, else "manager" and a number.
---@return string
function methods:get_name()
  return self._name
end


databases.install(methods)
servers.install(methods)
routes.install(methods, disposed)
control.install(methods, disposed)
health.install(methods, disposed)
metrics.install(methods, disposed)
warmup.install(methods, disposed)
policy_control.install(methods, disposed)


-- ---- end ------------------------------------------------------------

--- Ends everything: waiters get code "disposed" at once, running statements
-- are cancelled, connections closed. Returns when all are closed. Idempotent.
---@param timeout_ms? number  then what is left is cut off; 5000
---@return boolean
function methods:dispose(timeout_ms)
  if timeout_ms ~= nil and (type(timeout_ms) ~= "number"
                            or timeout_ms ~= timeout_ms) then
    errors.misuse(2, "dispose: timeout_ms must be a number")
  end
  self._over = true
  if self._router then self._router:stop() end
  self._recent = {}
  live[self] = nil
  local slot = self._core:dispose(timeout_ms)
  if task.current() then
    -- also in a task that is to stop: disposal ends by itself
    task.suspend_always(function(resume) task.when_done(slot, resume) end)
  else
    local over = false
    task.when_done(slot, function() over = true end)
    while not over do core.run_once(true) end
  end
  if self._migrator then self._migrator:dispose(timeout_ms) end
  if self._config.log then self._log:flush() end
  return true
end


-- Only for who migrates tenants as they come: others need not have the parser.
local function new_migrator(cfg)
  local opts = cfg.migrations
  if not opts or opts.migrate ~= "on_connect" then return nil end
  return require("mtenant.migrator").create(cfg, opts)
end


-- Only for who has a policy: it needs libcrypto.
local function new_router(self, handle)
  if not self._config.routing then return nil end
  return require("mtenant.router").new(self, handle)
end


local M = {}


--- Makes a manager; no I/O. Raises misuse for a wrong configuration.
---@param cfg table  see docs/configuration.md
---@return mtenant.TenantManager|nil manager
---@return table|nil err
function M.create(cfg)
  task.prepare()
  local self = setmetatable({}, mt)
  self._config = config.define(cfg, { level = 3 })
  self._given = control.copy(cfg)
  local known, wrong = named_servers.of(self._config)
  if not known then errors.misuse(2, "%s", wrong.message) end
  self._log = log._of(self._config.log)
  self._debug = debug_log.new(self._config.debug, self._log)
  self._routes = {}
  self._strategies = {} -- of tenants whose strategy may change
  self._handles = setmetatable({}, { __mode = "v" })
  self._recent, self._recent_at = {}, 0
  self._class = handle_class(self)
  self._new_handle = database.class(self._class)
  local weak = setmetatable({ manager = self }, { __mode = "v" })
  local settings = config.flatten(self._config)
  local handle, err = core.manager(settings, function(kind, ...)
    local manager = weak.manager
    if manager then return CALLBACKS[kind](manager, ...) end
  end)
  if not handle then
    if err.code == "misuse" then errors.misuse(2, "%s", err.message) end
    return nil, err
  end
  self._core = handle
  self._migrator = new_migrator(self._config)
  self._ctx = setmetatable({ sleep = task.sleep, now_ms = core.now_ms }, {
    __index = function(_, key)
      if key == "shared" then return self:get_shared_db() end
    end,
  })
  self._router, err = new_router(self, handle)
  if err then return nil, err end
  made = made + 1
  live[self], self._name = made, self._config.name or "manager" .. made
  return self
end


--- The managers that were not disposed of, in the order in which they were made.
---@return mtenant.TenantManager[]
function M.all()
  local all = {}
  for manager in pairs(live) do all[#all + 1] = manager end
  table.sort(all, function(a, b) return live[a] < live[b] end)
  return all
end


--- Puts the managers that still live aside, for those of another loop
-- (testing.lua).
---@param other? table  what the call before returned; nil: none yet
---@return table  what was put aside
function M.swap(other)
  local aside = live
  live = other or setmetatable({}, { __mode = "k" })
  return aside
end


--- Loads the policy of every manager again that has one from a file. Each goes
-- by itself, and says of itself how it went.
---@param reason string
function M.reload_all(reason)
  for manager in pairs(live) do
    if manager._router and type(manager._config.policy) == "string" then
      local reloading = manager._router.reloading
      task.spawn(reloading.reload, reloading, reason).observed = true
    end
  end
end


--- Calls fn before all managers are disposed of: what serves them ends first.
function M.before_dispose_all(fn)
  enders[#enders + 1] = fn
end


--- Disposes of every manager that still lives, and ends what serves them.
---@param timeout_ms? number
function M.dispose_all(timeout_ms)
  for i = 1, #enders do enders[i]() end
  for _, manager in ipairs(M.all()) do manager:dispose(timeout_ms) end
end


return M
