--- The admin endpoint: what happens in this process, over HTTP, for a monitoring
-- system and for people. Serves every manager of the process. See docs/admin.md.
--
--     local admin = require "mtenant.admin"
--     local endpoint = assert(admin.start { address = "127.0.0.1:9187" })
--     ...
--     endpoint:close()
--
-- It lives on the loop that everything else lives on, in the background: it
-- keeps no program running.

local address = require "mtenant.admin.address"
local admin_core = require "mtenant.admin_core"
local auth = require "mtenant.admin.auth"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local http = require "mtenant.admin.http"
local json = require "mtenant.cli.json"
local log = require "mtenant.log"
local manager_module = require "mtenant.manager"
local markers = require "mtenant.markers"
local probe = require "mtenant.admin.probe"
local prometheus = require "mtenant.prometheus"
local schema = require "mtenant.schema"
local status = require "mtenant.admin.status"
local task = require "mtenant.task"


local JSON = "application/json; charset=utf-8"

local INDEX = [[
mtenant %s
/metrics      for Prometheus
/health       does every server answer?
/ready        can tenants be served now?
/status.json  all of it
]]

-- the first look at the servers is waited for so long, in steps
local FIRST_LOOK_MS, STEP_MS = 1500, 5


-- from when on the loop is said to have stood still
local STALL_MS = 20


local live = {} -- endpoints that are open


local fields = schema.new({
  name = "admin",
  { "address", kind = "string", default = address.DEFAULT },
  { "token", kind = "string" },
  { "token_file", kind = "string" },
  { "basic", kind = "string" },
  { "basic_file", kind = "string" },
  { "managers", kind = { "table", "function" } },
  { "ready", kind = "string", enum = { "all", "any" }, default = "all" },
  { "include_shared", kind = "boolean", default = true },
  { "probe_interval_ms", kind = "integer", min = 10, default = 500 },
  { "probe_timeout_ms", kind = "integer", min = 10, default = 1000 },
  { "connections", kind = "integer", min = 1, max = 10000, default = 64 },
  { "connections_per_address", kind = "integer", min = 1, max = 10000,
    default = 32 },
  { "header_bytes", kind = "integer", min = 2048, max = 1048576,
    default = 16384 },
  { "request_timeout_ms", kind = "integer", min = 100, default = 10000 },
  { "answer_timeout_ms", kind = "integer", min = 100, default = 30000 },
  { "top_tenants", kind = "integer", min = 0, max = 1000, default = 20 },
  { "log", kind = "function" },
})


local M = {}


---@class mtenant.Admin
local methods = {}
local mt = { __name = "mtenant.admin", __index = methods }


local function to_default_log(message)
  log.default():warn(message)
end


-- ---- answers ------------------------------------------------------------

local function answer_json(document, ok)
  return ok and 200 or 503, http.headers(JSON), json.encode(document) .. "\n"
end


-- A manager that was made just now has not been looked at.
local function first_look(self)
  local until_ms = core.now_ms() + FIRST_LOOK_MS
  while not self.closed and not self.probe:knows_all()
    and core.now_ms() < until_ms do
    self:_tick()
    if not task.sleep(STEP_MS) then return end
  end
end


local function health(self)
  first_look(self)
  return answer_json(status.health(self))
end


local function ready(self)
  first_look(self)
  return answer_json(status.ready(self))
end


local function whole_status(self)
  first_look(self)
  return answer_json(status.status(self), true)
end


-- What is known of each manager's servers without another look.
local function known_health(self)
  local out = {}
  for _, one in ipairs(status.health(self).managers) do
    if one.status ~= "unknown" then
      out[one.name] = { healthy = one.status ~= "unhealthy" }
    end
  end
  return out
end


-- The only manager, if it was given no name, needs no label.
local function by_name(managers, known)
  local first, out = managers[1], {}
  if #managers == 1 and not first._config.name then
    return first, known[first:get_name()]
  end
  for _, manager in ipairs(managers) do out[manager:get_name()] = manager end
  return out, known
end


local function metrics(self, request)
  local openmetrics = prometheus.wants_openmetrics(request.accept)
  local managers, known = by_name(self.managers(), known_health(self))
  local text, err = prometheus.render(managers, { openmetrics = openmetrics,
                                                  health = known })
  if not text then error(err, 0) end
  return 200, http.headers(prometheus.content_type(openmetrics)), text
end


local function index()
  return 200, http.headers(http.TEXT), INDEX:format(core.version)
end


local ROUTES = {
  ["/"] = index, ["/metrics"] = metrics, ["/health"] = health,
  ["/ready"] = ready, ["/status.json"] = whole_status,
}


local function respond(self, id, ok, ...)
  if self.closed then return end
  if ok and (...) then
    self.core:respond(id, ...)
    return
  end
  self.log("admin endpoint: " .. http.escape(errors.text_of((...) or "?")))
  self.core:respond(id, http.plain(500))
end


-- A request is worked on by a task of its own: its answer may wait.
local function start_answer(self)
  return function(route, request)
    task.spawn(function()
      respond(self, request.id, pcall(route, self, request))
    end)
    return nil
  end
end


-- ---- life ------------------------------------------------------------

-- Asks the servers that are due, and sees to it that the rest is, too.
function methods:_tick()
  if self.closed then return end
  local wait_ms = self.probe:tick()
  self.due_ms = core.now_ms() + wait_ms
  self.core:wake_in(wait_ms)
end


-- Its timer was due: how long has the loop been busy elsewhere since?
local function note_lateness(self)
  local late_ms, loop = core.now_ms() - self.due_ms, self.loop
  if late_ms < 0 then return end
  loop.late_ms = late_ms
  loop.late_max_ms = math.max(loop.late_max_ms, late_ms)
  if late_ms > STALL_MS then loop.stalls = loop.stalls + 1 end
end


local function on_readable(self)
  if self.closed then return end
  note_lateness(self)
  self.core:run()
  if core.now_ms() >= self.due_ms then self:_tick() end
end


--- Where it listens.
---@return string  "http://127.0.0.1:9187", "unix:/path"
function methods:url()
  local port = self.core:port()
  return address.text({ path = self.place.path, host = self.place.host,
                        port = port })
end


--- Ends it, at once: connections are cut. Idempotent.
function methods:close()
  if self.closed then return end
  self.closed = true
  live[self] = nil
  self.watcher:close()
  self.probe:close()
  self.core:close()
end


-- ---- start ------------------------------------------------------------

local function secret(value, path, what)
  if value and path then
    errors.misuse(3, "admin: give %s or %s_file, not both", what, what)
  end
  if value == "" then errors.misuse(3, "admin: %s is empty", what) end
  if not path then return value end
  local text, err = auth.read_secret(path)
  if text then return text end
  return nil, errors.new("misuse", ("admin: %s_file: %s"):format(what, err))
end


local function secrets_of(o)
  local token, err = secret(o.token, o.token_file, "token")
  if err then return nil, err end
  local basic
  basic, err = secret(o.basic, o.basic_file, "basic")
  if err then return nil, err end
  if basic and not basic:find("^[^:]+:.") then
    return nil, errors.new("misuse", "admin: basic must be user:password")
  end
  return { token = token, basic = basic }
end


local function place_of(o, secrets)
  local place, err = address.parse(o.address)
  if not place then
    return nil, errors.new("misuse", "admin: address: " .. err)
  end
  if place.local_only or secrets.token or secrets.basic then return place end
  return nil, errors.new("misuse", ("admin: %s can be reached from other "
    .. "machines: it needs a token or a user with a password"):format(o.address))
end


local function managers_of(given)
  if schema.is_callable(given) then return given end
  return function()
    local out = {}
    for _, manager in ipairs(given or manager_module.all()) do
      if not manager._over then out[#out + 1] = manager end
    end
    return out
  end
end


local function listen(self, o, handler)
  local place = self.place
  local handle, message = admin_core.start({
    host = place.host, port = place.port or 0, path = place.path,
    connections = o.connections, header_bytes = o.header_bytes,
    connections_per_address = o.connections_per_address,
    request_ms = o.request_timeout_ms, answer_ms = o.answer_timeout_ms,
  }, handler)
  if handle then return handle end
  return nil, errors.new("misuse", ("admin: cannot listen on %s: %s"):format(
    address.text(place), message))
end


--- Starts an endpoint on the loop of this Lua state.
---@param o? table  address = "127.0.0.1:9187"; token, token_file, basic
--- ("user:password"), basic_file; managers: an array, or a function that returns
--- one (all that live); ready = "all" | "any"; see docs/admin.md for the rest
---@return mtenant.Admin|nil endpoint
---@return mtenant.error|nil err  what is wrong with the address, with a file,
--- or why it cannot listen
function M.start(o)
  o = fields:check(o or {}, 2)
  markers.encode(true) -- raises where there is no library for JSON
  task.prepare()
  local secrets, err = secrets_of(o)
  if not secrets then return nil, err end
  local self = setmetatable({ ready = o.ready, top_tenants = o.top_tenants,
                              log = o.log or to_default_log,
                              loop = { late_ms = 0, late_max_ms = 0, stalls = 0 },
                              managers = managers_of(o.managers) }, mt)
  self.place, err = place_of(o, secrets)
  if not self.place then return nil, err end
  local authorized, challenge = auth.new(secrets)
  self.core, err = listen(self, o, http.new {
    routes = ROUTES, authorized = authorized, challenge = challenge,
    checks_host = not authorized and not self.place.path, log = self.log,
    start = start_answer(self),
  })
  if not self.core then return nil, err end
  self.probe = probe.new {
    managers = self.managers, include_shared = o.include_shared,
    interval_ms = o.probe_interval_ms, timeout_ms = o.probe_timeout_ms,
    on_answer = function() self:_tick() end,
  }
  self.watcher = core.watch_fd(self.core:fd(), function() on_readable(self) end,
                               true)
  live[self] = true
  self:_tick()
  return self
end


--- Closes every endpoint of this Lua state.
function M.close_all()
  local all = {}
  for endpoint in pairs(live) do all[#all + 1] = endpoint end
  for _, endpoint in ipairs(all) do endpoint:close() end
end

manager_module.before_dispose_all(M.close_all)


return M
