--- nginx with lua-nginx-module (OpenResty): requests wait without holding up
-- the worker. Nothing is to be attached: `require "mtenant"` finds itself in
-- nginx. The loop of a worker's managers is one connection of nginx; who
-- waits, waits on a semaphore.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local host = require "mtenant.host"
local task = require "mtenant.task"


local ngx = ngx -- luacheck: ignore 113
local get_phase, running = ngx.get_phase, coroutine.running
local may_wait = core.may_wait

-- the semaphore's own timer; who has waited so long waits on
local PATIENCE_S = 3600

-- where nginx lets Lua wait
local MAY_WAIT = {
  rewrite = true, access = true, content = true, timer = true,
  server_rewrite = true, ssl_cert = true, ssl_session_fetch = true,
  ssl_client_hello = true, preread = true,
}

local INSTEAD = "in the phase %s of nginx nothing can wait; use "
  .. "ngx.timer.at(0, ...), or another phase"

local KEY = {}      -- of ngx.ctx: what is known of a request's coroutines
local WEAK = { __mode = "k" }
local spare = {}    -- semaphores that nobody waits on
local module        -- mtenant.nginx, once the worker is attached
local attached      -- keeps the loop watched
local new_semaphore, this_request -- of lua-resty-core


local M = { name = "nginx" }


-- a request has ended, however it did: what its coroutines wait for is not
-- wanted any more, and what they held is given back
local function on_end(store)
  for who, guest in pairs(store) do
    if type(who) == "thread" then
      guest.gone = true
      if guest.slot then core.cancel(guest.slot, "cancelled") end
      for lease in pairs(guest.leases or {}) do lease:release() end
      for _, worker in ipairs(guest.workers or {}) do worker:cancel() end
    end
  end
end


-- Where the module for this nginx was not built, a thread tells by a socket
-- that there is something to do; and a request whose client has gone is heard
-- of where `lua_check_client_abort` is on.
local without_headers = {}


function without_headers.attach(fd)
  local pump = core.pump(fd)
  assert(ngx.timer.at(0, function()
    local socket = ngx.socket.tcp()
    socket:settimeout(1000) -- the worker's end waits for it
    assert(socket:connect("unix:" .. pump:path()))
    repeat
      local byte, err = socket:receive(1)
      if byte then
        core.step()
        pump:stepped()
      end
      local leaving = ngx.worker.exiting() and host.idle()
    until leaving or not byte and err ~= "timeout"
    socket:close()
  end))
  return pump
end


function without_headers.watch(_, _, store)
  pcall(ngx.on_abort, function()
    on_end(store)
    ngx.exit(499)
  end)
end


--- Attaches to this worker's loop; done at the first use.
function M.ready()
  if attached then return end
  if get_phase() == "init" then
    errors.misuse(3, "init_by_lua runs in nginx's master process: make "
      .. "managers in init_worker_by_lua")
  end
  new_semaphore = require("ngx.semaphore").new
  local base, ffi = require "resty.core.base", require "ffi"
  this_request = function()
    return tonumber(ffi.cast("uintptr_t", base.get_request()))
  end
  require("mtenant.config").processes = ngx.worker.count()
  local found
  found, module = pcall(require, "mtenant.nginx")
  -- built for another nginx: that is a mistake to be told
  if not found and not tostring(module):find("not found", 1, true) then
    error(module, 0)
  end
  local fd = host.attach(M)
  if not found then
    module = without_headers
    attached = module.attach(fd)
    return
  end
  local step, reactor = core.step_pointer()
  attached = module.attach(fd, step, reactor, on_end)
end


--- What is known of the request that runs now; nil where there is none.
---@return table|nil
function M.home()
  local ok, ctx = pcall(function() return ngx.ctx end)
  if not ok or not ctx then return nil end
  local store = ctx[KEY]
  if not store then
    store = setmetatable({}, WEAK)
    ctx[KEY] = store
  end
  return store
end


-- ngx.ctx does not live on over an internal redirect; the request does
local function new_store()
  local store = M.home()
  if store and not store.watched then
    store.watched = true
    module.watch(attached, this_request(), store)
  end
  return store
end


function M.here()
  local phase = get_phase()
  if not MAY_WAIT[phase] then return nil, INSTEAD:format(phase) end
  M.ready()
  local co = running()
  if not may_wait(co) then
    return nil, task.ACROSS_C
  end
  local store = ngx.ctx[KEY]
  if not (store and store.watched) then store = new_store() end
  return co, store
end


function M.waiter() return {} end


function M.wait(waiter)
  local n = #spare
  local semaphore = spare[n]
  if n > 0 then
    spare[n] = nil
  else
    semaphore = assert(new_semaphore())
  end
  waiter.semaphore = semaphore
  semaphore:wait(PATIENCE_S)
  waiter.semaphore = nil
  -- one that was posted late wakes the next one for nothing, once
  spare[#spare + 1] = semaphore
end


function M.wake(waiter)
  local semaphore = waiter.semaphore
  if semaphore then semaphore:post(1) end
end


function M.busy() M.ready() end


-- ---- for requests -----------------------------------------------------------

local function answer(status, body)
  ngx.status = status
  ngx.header["Content-Type"] = "application/json"
  if status == 503 then ngx.header["Retry-After"] = "1" end
  ngx.say(require("mtenant.markers").encode(body))
  return ngx.exit(status)
end


-- What came with the request; nginx has an id for one that brings none.
local function headers()
  local all = ngx.req.get_headers()
  return {
    traceparent = all["traceparent"], tracestate = all["tracestate"],
    ["x-request-id"] = all["x-request-id"] or ngx.var.request_id,
  }
end


-- A request as a policy's `identify` gets it. A header that comes twice is
-- ambiguous: the policy is shown none of them.
local function request_of()
  local single = {}
  for name, value in pairs(ngx.req.get_headers()) do
    if type(value) == "string" then single[name:lower()] = value end
  end
  local var = ngx.var
  return { host = var.host, path = var.uri, method = ngx.req.get_method(),
           headers = single }
end


--- Middleware for access_by_lua (or the start of content_by_lua): finds the
-- request's tenant, and enters its context to the end of the request. Answers
-- 400, 403, 500 or 503 with JSON where it can't.
---@param opts table  of mtenant.middleware; its functions get `ngx`. Without
--  `identify` the policy of the manager says which tenant it is
---@return fun()
function M.middleware(opts)
  local with = { request = request_of, headers = headers }
  for name, value in pairs(opts) do with[name] = value end
  local enter = require("mtenant.middleware").new(with)
  return function()
    local ok, status, body = enter(ngx)
    if not ok then return answer(status, body) end
  end
end


--- A content handler that answers with a manager's health as JSON: 200, or 503
-- where it is not healthy.
---@param manager mtenant.TenantManager
---@param opts? table  of manager:health_check
---@return fun()
function M.health(manager, opts)
  return function()
    local health, err = manager:health_check(opts)
    if not health then
      return answer(503, { healthy = false, error = err.code })
    end
    return answer(health.healthy and 200 or 503, health)
  end
end


return M
