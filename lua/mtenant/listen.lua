--- Notifications: db:listen, and the one connection per database behind it.
--
-- A listener belongs to a manager and a database. One task drives it: connects,
-- sends LISTEN for every channel, hands out what comes, and connects again when
-- the connection is lost. Each handle has a queue and, while there is something
-- in it, a task that calls the user's function, so that a slow one holds up
-- nobody else. Channels have the tenant's schema in their names.

local errors = require "mtenant.errors"
local schema = require "mtenant.schema"
local task = require "mtenant.task"

local await, check = task.await, task.check
local misuse = errors.misuse


local QUEUE_MAX = 10000

-- The name of a channel on the server: SCHEMA.CHANNEL, SCHEMA:TENANT.CHANNEL
-- under strategy row; of what is too long for a name the first digits of its
-- SHA-256. $1 is the channel, $2 the setting of strategy row.
local NAME = [[
case when pg_catalog.octet_length(n) <= 63 then n else 'mt_' || pg_catalog.left(
  pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(n, 'UTF8')), 'hex'),
  60) end from pg_catalog.concat(
    pg_catalog.quote_ident(pg_catalog.current_schema()::pg_catalog.text),
    ':' || pg_catalog.quote_ident(nullif(
      pg_catalog.current_setting($2, true), '')),
    '.' || $1::pg_catalog.text) as n]]
local LISTEN_NAME = "select " .. NAME
local NOTIFY = "select pg_catalog.pg_notify((select " .. NAME .. "), $3)"


local M = {}


local function warn(handle, err)
  local db = handle.db
  db._m._log:warn("error in listen (" .. handle.channel .. "): "
                  .. errors.text_of(err),
                  { event = "callback_failed listen", tenant_id = db.tenant_id })
end


-- ---- handles --------------------------------------------------------------------

---@class mtenant.ListenHandle
---@field channel string
---@field closed boolean
local handle_methods = {}
local handle_mt = { __name = "mtenant.listen", __index = handle_methods }


local function run_queue(self)
  while self.first <= self.last and not self.closed do
    local item = self.queue[self.first]
    self.queue[self.first] = nil
    self.first = self.first + 1
    local ok, err = pcall(self.fn, item.payload, item.event)
    if not ok then warn(self, err) end
  end
  self.running = false
end


local function push(self, payload, event)
  if self.closed then return end
  if self.last - self.first + 1 >= QUEUE_MAX then -- who can't follow loses some
    self.queue, self.first, self.last = {}, 1, 0
    payload, event = nil, "overflow"
  end
  self.last = self.last + 1
  self.queue[self.last] = { payload = payload, event = event }
  if self.running then return end
  self.running = true
  task.spawn(run_queue, self).context = self.context
end


-- what listen waits for: told once
local function answer(handle, err)
  local tell = handle.waiting
  handle.waiting = nil
  if tell then tell(not err, err) end
end


-- ---- listeners ------------------------------------------------------------------

local function quote(name)
  return '"' .. name:gsub('"', '""') .. '"'
end


-- An answer comes for each, in this order.
local function send(self, verb, name)
  if self.open and self.core:send(verb .. " " .. quote(name)) then
    self.sends = self.sends + 1
    self.sent[#self.sent + 1] = { name = verb == "LISTEN" and name,
                                  number = self.sends }
  end
end


-- the functions may change the set
local function for_each(self, name, fn)
  local list = {}
  for handle in pairs(self.channels[name] or {}) do list[#list + 1] = handle end
  for i = 1, #list do fn(list[i]) end
end


local function every(self, fn)
  local names = {}
  for name in pairs(self.channels) do names[#names + 1] = name end
  for i = 1, #names do for_each(self, names[i], fn) end
end


-- Nobody is left, or nobody may: the connection goes.
local function stop(self)
  if self.over then return end
  self.over, self.open = true, false
  if self.owner._listeners[self.place] == self then
    self.owner._listeners[self.place] = nil
  end
  self.core:close()
end


local function leave(handle)
  local self, name = handle.listener, handle.name
  local handles = self and self.channels[name]
  handle.listener = nil
  if not handles then return end
  handles[handle] = nil
  if next(handles) ~= nil then return end
  self.channels[name] = nil
  send(self, "UNLISTEN", name)
  if next(self.channels) == nil then stop(self) end
end


local function fail(handle, err)
  handle.closed = true
  leave(handle)
  answer(handle, err)
end


-- The server's answer to the oldest LISTEN or UNLISTEN that was sent.
local function answered(self, err)
  local sent = table.remove(self.sent, 1)
  if not sent or not sent.name then return end
  if err then
    self.refused = err
    return
  end
  for_each(self, sent.name, function(handle)
    -- an older LISTEN may have an UNLISTEN behind it
    if sent.number < handle.since then return end
    if handle.missed then push(handle, nil, "reconnected") end
    handle.missed = false
    answer(handle)
  end)
end


local function happened(self, event)
  if event == "open" then
    self.open, self.sent, self.failures = true, {}, 0
    every(self, function(handle) handle.since = 0 end)
    for name in pairs(self.channels) do send(self, "LISTEN", name) end
  elseif event == true or errors.is(event) then
    answered(self, event ~= true and event or nil)
  else
    for_each(self, event[1], function(handle) push(handle, event[2]) end)
  end
end


-- A LISTEN that is refused (by a standby, say) is as good as no connection.
local function serve(self)
  local ok, err = self.core:open()
  if not ok then return err end
  while true do
    local events
    events, err = await(self.core:take())
    if self.over then return nil end
    if not events then return self.refused or err end
    for i = 1, #events do happened(self, events[i]) end
    if self.refused then self.core:disconnect() end
  end
end


local function drive(self)
  local delay
  while not self.over do -- who made it may have closed it already
    self.refused = nil
    local err = serve(self)
    self.open = false
    if self.over then return end
    every(self, function(handle)
      if handle.waiting then fail(handle, err) end
      handle.missed = true
    end)
    if self.over then return end
    delay = self.owner._class._delay(self.failures, delay)
    self.failures = self.failures + 1
    local ok = err.code ~= "disposed" and task.sleep(delay)
    if not ok then break end
  end
  every(self, function(handle) fail(handle, errors.new("disposed",
    "nobody listens any more")) end)
  stop(self)
end


-- The listener of a place, which the handle's tenant is at.
local function listener_of(db, place)
  local owner = db._m
  owner._listeners = owner._listeners or {}
  local self = owner._listeners[place]
  if self then return self end
  local core_listener, err = db._h:listener()
  if not core_listener then return nil, err end
  self = { owner = owner, place = place, core = core_listener, channels = {},
           sent = {}, sends = 0, failures = 0 }
  owner._listeners[place] = self
  task.spawn(drive, self).context = nil
  return self
end


-- ---- listening ------------------------------------------------------------------

-- the channel's name on the server, and which one that is
local function place_of(db, channel)
  local setting = db._m._config.isolation.tenant_setting or ""
  for _ = 1, 3 do
    local name, err = db:value(LISTEN_NAME, channel, setting)
    if err then return nil, nil, err end
    local place = db._h:place()
    if place then return name, place end -- else it was evicted in between
  end
  return nil, nil, errors.new("unreachable", "the tenant's route keeps going")
end


-- Waits until the server has confirmed it.
local function join(handle, name, place)
  local self, err = listener_of(handle.db, place)
  if not self then return nil, err end
  handle.listener, handle.name, handle.since = self, name, self.sends + 1
  local handles = self.channels[name]
  self.channels[name] = handles or {}
  self.channels[name][handle] = true
  local ok
  ok, err = task.suspend(function(resume)
    handle.waiting = resume
    send(self, "LISTEN", name)
  end)
  handle.waiting = nil
  if ok then return true end
  leave(handle)
  return nil, err
end


--- Ends it: the function is not called any more. Idempotent; no I/O.
function handle_methods:close()
  self.closed = true
  leave(self)
end


function handle_mt:__tostring()
  return "mtenant.listen (" .. self.channel .. ")"
end


local function check_channel(what, channel, level)
  if type(channel) ~= "string" then
    misuse(level + 1, "%s: channel must be a string, got %s", what,
           type(channel))
  elseif channel == "" or channel:find("\0", 1, true) then
    misuse(level + 1, "%s: channel is empty or has a NUL byte", what)
  end
end


local function listen(db, channel, fn)
  local handle = setmetatable({
    db = db, channel = channel, fn = fn, closed = false, missed = false,
    context = task.bearer().context, queue = {}, first = 1, last = 0,
  }, handle_mt)
  local name, place, err = place_of(db, channel)
  if not name then return nil, err end
  local ok
  ok, err = join(handle, name, place)
  if not ok then return nil, err end
  return handle
end


-- To where the tenant is now; what was sent meanwhile is lost.
local function follow(handle)
  repeat
    local name, place, err = place_of(handle.db, handle.channel)
    if handle.closed then return end
    local self = handle.listener
    if name and self and name == handle.name and place == self.place then
      return
    end
    if name then
      leave(handle)
      local ok
      ok, err = join(handle, name, place)
      if ok then return push(handle, nil, "reconnected") end
    end
    if not err.retryable then
      warn(handle, err)
      return handle:close()
    end
  until not task.sleep(1000)
end


local STAYS = { lru_eviction = true, ttl_expired = true }


--- A tenant's entry was evicted: it may be elsewhere from now on.
---@param manager mtenant.TenantManager
---@param tenant_id string
---@param reason string
function M.evicted(manager, tenant_id, reason)
  if not manager._listeners or STAYS[reason] then return end
  for _, self in pairs(manager._listeners) do
    every(self, function(handle)
      if handle.db.tenant_id == tenant_id and handle.db ~= manager._shared then
        task.spawn(follow, handle).context = handle.context
      end
    end)
  end
end


--- Adds the methods to a database handle's.
---@param methods mtenant.Db
function M.install(methods)

  --- Calls fn for every notification on a channel of the tenant's, one after the
  --- other, in a task: fn(payload); or fn(nil, "reconnected") when some may have
  --- been lost, because the connection was or because the tenant has moved;
  --- fn(nil, "overflow") when it was too slow. One connection per database,
  --- beside the pool.
  ---@param channel string
  ---@param fn fun(payload: string|nil, event: string|nil)
  ---@return mtenant.ListenHandle|nil handle  it has close()
  ---@return table|nil err
  function methods:listen(channel, fn)
    check_channel("listen", channel, 2)
    if not schema.is_callable(fn) then
      misuse(2, "listen: fn must be a function, got %s", type(fn))
    end
    if self._pooled then
      misuse(2, 'listen: there is no session behind connection.pooler = '
        .. '"transaction"')
    end
    local stop_err = check("listen")
    if stop_err then return nil, stop_err end
    return listen(self, channel, fn)
  end


  --- Sends a notification to those who listen to the tenant's channel of this
  --- name.
  ---@param channel string
  ---@param payload? string  at most 7999 bytes
  ---@return boolean|nil ok
  ---@return table|nil err
  function methods:notify(channel, payload)
    check_channel("notify", channel, 2)
    local _, err = self:query(NOTIFY, channel,
      self._m._config.isolation.tenant_setting or "", payload or "")
    if err then return nil, err end
    return true
  end
end


return M
