--- The tenant manager: configuration, routing, handles, hooks, disposal.
-- The registry, the pools and the retry live in the core; this is where the
-- user's functions are called and where handles are kept. Never holds a
-- connection.

local apart = require "mtenant.apart"
local config = require "mtenant.config"
local control = require "mtenant.control"
local core = require "mtenant.core"
local database = require "mtenant.db"
local databases = require "mtenant.databases"
local debug_log = require "mtenant.debug"
local errors = require "mtenant.errors"
local health = require "mtenant.health"
local routing = require "mtenant.routing"
local servers = require "mtenant.servers"
local task = require "mtenant.task"
local warmup = require "mtenant.warmup"


local await, check = task.await, task.check
local pcall, type = pcall, type


local DISPOSED = "[mtenant] TenantManager has been disposed"

-- managers that were not disposed of yet, for dispose_all
local live = setmetatable({}, { __mode = "k" })


---@class mtenant.TenantManager
local methods = {}
local mt = { __name = "mtenant.manager", __index = methods }


-- ---- hooks and events ------------------------------------------------------------

local function warn(what, err)
  io.stderr:write("[mtenant] error in ", what, ": ", errors.text_of(err), "\n")
end


local function call_hook(self, name, ...)
  local fn = self._config.hooks[name]
  if not fn then return end
  local ok, err = pcall(fn, ...)
  if not ok then warn("hooks." .. name, err) end
end


local function on_event(self, ev)
  self._debug:event(ev)
  if ev.kind == "pool_created" then
    call_hook(self, "on_pool_created", ev.tenant_id)
  elseif ev.kind == "pool_evicted" then
    if self._migrator and ev.reason == "schema_changed" then
      self._migrator:forget_tenant(ev.tenant_id)
    end
    call_hook(self, "on_pool_evicted", ev.tenant_id, ev.reason)
  elseif ev.kind == "pool_error" then
    call_hook(self, "on_error", ev.tenant_id, ev.error)
  elseif ev.kind == "queue_full" then
    call_hook(self, "on_queue_full", ev.tenant_id)
  elseif ev.kind == "queue_timeout" then
    call_hook(self, "on_queue_timeout", ev.tenant_id, ev.total_time_ms)
  end
end


local function on_retry(self, tenant_id, attempt, err, elapsed_ms, delay_ms)
  local retry = self._config.connection.retry
  local ok, answer = pcall(retry.on_retry, attempt, err, delay_ms, {
    tenant_id = tenant_id, server = err.server, elapsed_ms = elapsed_ms,
    max_attempts = retry.max_attempts,
  })
  if not ok then
    warn("on_retry", answer)
    return nil
  end
  if type(answer) == "number" and not (answer >= 0 and answer < math.huge) then
    warn("on_retry", "it returned a delay that is none: " .. answer)
    return nil
  end
  return answer
end


local function is_retryable(self, err)
  local ok, answer = pcall(self._config.connection.retry.is_retryable, err)
  if ok then return answer and true or false end
  warn("is_retryable", answer)
  return err.retryable
end


local function password(self)
  local value = self._config.connection.password
  if type(value) ~= "function" then return value end
  local ok, text = pcall(value)
  if ok and type(text) == "string" then return text end
  warn("connection.password",
       ok and "it returned a " .. type(text) .. ", not a string" or text)
  return nil
end


-- ---- routing ------------------------------------------------------------------

-- Tells when a tenant's strategy is another than it was; remembers it only for
-- somebody who wants to know.
local function note_strategy(self, id, strategy)
  if not self._config.hooks.on_promotion then return end
  local before = self._strategies[id]
  self._strategies[id] = strategy
  if before and before ~= strategy then
    call_hook(self, "on_promotion", id, before, strategy)
  end
end


-- Brings the tenant up to date before anybody gets to it.
local function migrated(self, id, route)
  if not self._migrator or route.strategy == "row" then return route end
  local ran, ok, err = pcall(self._migrator.ensure_tenant, self._migrator, id,
                             route)
  if not ran then return nil, errors.wrap(ok, "policy") end
  if not ok then return nil, err end
  return route
end


local function on_resolve(self, id, token)
  if not self._migrator and not routing.may_wait(self._config) then
    self._core:resolved(token, routing.resolve(self._config, id, self._ctx))
    return
  end
  task.spawn(function()
    local route, err = routing.resolve(self._config, id, self._ctx)
    if route then
      note_strategy(self, id, route.strategy)
      route, err = migrated(self, id, route)
    end
    self._core:resolved(token, route, err)
  end)
end


local CALLBACKS = {
  event = on_event, resolve = on_resolve, retry = on_retry,
  is_retryable = is_retryable, password = password,
}


-- ---- handles ------------------------------------------------------------

local function query_observer(self, tenant_id)
  if not self._debug:wants("query") then return nil end
  return function(sql, duration_ms, err)
    self._debug:event({ kind = "query", tenant_id = tenant_id, query = sql,
                        duration_ms = duration_ms, error = err })
  end
end


-- what the handles of a manager share
local function handle_class(self)
  local connection = self._config.connection
  return {
    _m = self,
    _pooled = connection.pooler == "transaction",
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
  return self:evict_pool(id)
end


databases.install(methods)
servers.install(methods)
control.install(methods, disposed)
health.install(methods, disposed)
warmup.install(methods, disposed)


--- What the pools have done so far. For now for people and tests; the shape
-- will grow into get_metrics.
---@return table  open, peak, opened, lost, connect_failures, leases, requests
function methods:get_stats()
  return self._core:stats()
end


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
  return true
end


-- Only for who migrates tenants as they come: others need not have the parser.
local function new_migrator(cfg)
  local opts = cfg.migrations
  if not opts or opts.migrate ~= "on_connect" then return nil end
  return require("mtenant.migrator").create(cfg, opts)
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
  self._debug = debug_log.new(self._config.debug)
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
  live[self] = true
  return self
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


--- Disposes of every manager that still lives.
---@param timeout_ms? number
function M.dispose_all(timeout_ms)
  local all = {}
  for manager in pairs(live) do all[#all + 1] = manager end
  for i = 1, #all do all[i]:dispose(timeout_ms) end
end


return M
