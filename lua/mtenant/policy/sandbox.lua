--- Policy files: each runs in a Lua state of its own, with limits.
-- A guard against mistakes, not against attackers. The state is the core's
-- (src/lua/sandbox.c), what runs in it first is lua/mtenant/sandbox/. Here is
-- the host's side: it starts a coroutine there for each call, does what the
-- policy asks for in the calling task, and hands back what came of it. Only
-- plain data crosses.

local core = require "mtenant.core"
local crypto = require "mtenant.crypto"
local errors = require "mtenant.errors"
local json = require "mtenant.json"
local log = require "mtenant.log"
local reasons = require "mtenant.sandbox.reasons"
local sources = require "mtenant.sandbox.sources"
local task = require "mtenant.task"


local cpu_s = os.clock
local format, pairs, pcall = string.format, pairs, pcall
local tonumber, tostring, type = tonumber, tostring, type
local failure, plain_error = reasons.failure, reasons.plain
local policy_error, revived = reasons.new, reasons.revive


local MEMORY_BYTES = 16 * 1024 * 1024
local TIME_MS = 10
-- what loading a file may take, beside its time: it is parsed in one go
local MAX_SOURCE = 256 * 1024
-- events of a listener that may wait for the policy
local MOST_EVENTS = 1000


local M = {}


--- A ctx.note that notes nothing: what the policy notes is not even sent.
function M.no_note()
end


-- ---- what a policy asks for -----------------------------------------------------------

-- Each gets the object, the call, and what the policy gave.
local SERVE = {}


-- rows as data, or nil and the error as data
local function outcome(value, err)
  if err ~= nil then return nil, plain_error(err) end
  return value
end


local function refusal(fmt, ...)
  return nil, plain_error(errors.new("policy", format(fmt, ...)))
end


for _, what in pairs({ "query", "one", "value" }) do
  SERVE[what] = function(_, call, sql, ...)
    local shared = call.ctx.shared
    if not shared then return refusal("there is no ctx.shared here") end
    return outcome(shared[what](shared, sql, ...))
  end
end


function SERVE.sleep(_, call, ms)
  return outcome((call.ctx.sleep or task.sleep)(ms))
end


function SERVE.now_ms(_, call)
  return (call.ctx.now_ms or core.now_ms)()
end


function SERVE.log(self, call, message)
  if call.ctx.log then return call.ctx.log(message) end
  log.default():info("policy " .. self._name .. ": " .. message)
end


function SERVE.note(_, call, text)
  if call.ctx.note then call.ctx.note("%s", text) end
end


function SERVE.require(_, _, name)
  return sources.module(name)
end


function SERVE.json(_, _, text)
  if type(text) ~= "string" then return nil, "it is no text" end
  return json.decode(text)
end


function SERVE.invalidate(_, call, id)
  call.invalidate(id)
end


-- what needs no task
local PURE = { now_ms = true, log = true, note = true, require = true,
               json = true, invalidate = true }


local run


-- An event is a call of its own; those of a listener come one by one.
local function deliver(self, call, id, events)
  local of_event = { ctx = call.ctx, waits = true, invalidate = call.invalidate,
                     listening = call.listening }
  while events.first <= events.last and call.listening[id]
        and not self._closed do
    local event = events[events.first]
    events[events.first], events.first = nil, events.first + 1
    local ok, err = run(self, of_event, "deliver", id,
                        task.unpack(event, 1, event.n))
    if ok == nil and err ~= nil and not self._closed then
      SERVE.log(self, call, errors.text_of(err))
    end
  end
  events.busy = false
end


-- More than the policy can take at a time is one event: anything may be stale.
local function enqueue(self, call, id, events, ...)
  if events.last - events.first >= MOST_EVENTS then
    for i = events.first, events.last do events[i] = nil end
    events.first, events.last = 1, 0
    call.invalidate()
    return
  end
  events.last = events.last + 1
  events[events.last] = task.pack(...)
  if events.busy then return end
  events.busy = true
  task.spawn(deliver, self, call, id, events)
end


function SERVE.listen(self, call, channel, id)
  local shared, box = call.ctx.shared, self._box
  if not call.listening or not shared or not shared.listen then
    return refusal("ctx.shared:listen can't be called here")
  end
  local events = { first = 1, last = 0, busy = false }
  local handle, err = shared:listen(channel, function(...)
    if self._box == box then enqueue(self, call, id, events, ...) end
  end)
  if not handle then return outcome(nil, err) end
  call.listening[id] = handle
  return true
end


function SERVE.unlisten(_, call, id)
  local handle = call.listening and call.listening[id]
  if not handle then return true end
  call.listening[id] = nil
  handle:close()
  return true
end


local function close_listening(call)
  local handles = call.listening
  call.listening = {}
  for _, handle in pairs(handles) do handle:close() end
end


-- ---- calls --------------------------------------------------------------------------

-- A call is { ctx = the host's, waits = may it? , listening =, invalidate = }.
-- Of one that may not wait nobody knows for how long it will run, so its time
-- is one for all that it asks for.
local NO_WAIT = { ctx = {} }


-- A state that ran out of memory is not used again. To free it takes as long
-- as its memory is large: in a turn of its own, if there is one.
local function retire(self, box)
  if self._box == box then
    self._box = nil
    self._rebuilds = self._rebuilds + 1
  end
  if task.current() then task.sleep(0) end
  box:close()
end


local function serve(self, call, waits, what, ...)
  if not waits and not PURE[what] then
    return refusal("ctx: %s can't wait here", what)
  end
  local ok, value, err = pcall(SERVE[what], self, call, ...)
  if ok then return value, err end
  return nil, plain_error(value)
end


local after


-- The coroutine waits for the host. The loop turns when a policy asks for much
-- without having to wait for any of it; what no answer takes long for is part
-- of its time.
local function answered(self, box, call, op, handle, what, ...)
  local left_ms = box:left_ms()
  local waits = call.waits and task.current() ~= nil
  local before = cpu_s()
  local value, err = serve(self, call, waits, what, ...)
  if PURE[what] then left_ms = left_ms - (cpu_s() - before) * 1000 end
  if waits and not PURE[what] and left_ms < self._time_ms / 2 then
    local ok, why = task.sleep(0)
    if not ok then
      box:drop(handle)
      return nil, why
    end
    left_ms = self._time_ms
  end
  return after(self, box, call, op, box:resume(handle, left_ms, value, err))
end


function after(self, box, call, op, state, ...)
  if state == "done" then return ... end
  if state == "wait" then return answered(self, box, call, op, ...) end
  local why = ...
  self._errors = self._errors + 1
  local err = failure(self, op, ...)
  if why == "memory" then retire(self, box) end
  return nil, err
end


-- runs the file: its data and its functions' names, or nil and an error
local function load_into(self, box)
  local data, has = after(self, box, NO_WAIT, "load",
    box:start(self._time_ms, "load", self._source, "@" .. self._name))
  if data ~= nil then return data, has end
  return nil, errors.is(has) and has or policy_error(self, "%s", tostring(has))
end


local function make_box(self)
  return core.sandbox({
    memory_bytes = self._memory_bytes,
    time_ms = self._time_ms,
    libraries = assert(sources.of("mtenant.sandbox.libraries")),
    worker = assert(sources.of("mtenant.sandbox.worker")),
    functions = crypto,
  })
end


-- makes the state: what the file returned, or nil and an error
local function build(self)
  local box, text = make_box(self)
  if not box then return nil, policy_error(self, "%s", text) end
  self._box, self._servers = box, nil
  local data, has = load_into(self, box)
  if data == nil then
    self._box = nil
    box:close()
  end
  return data, has
end


function run(self, call, op, ...)
  if not self._box then
    if self._closed then
      return nil, errors.new("disposed",
                             format("policy %s is closed", self._name))
    end
    local data, err = build(self)
    if data == nil then return nil, err end
  end
  local box = self._box
  self._calls = self._calls + 1
  return after(self, box, call, op, box:start(self._time_ms, op, ...))
end


-- ---- the object -----------------------------------------------------------------------

-- names of servers: sent when they are others
local function tell_servers(self, servers)
  if servers == self._servers and self._box then return true end
  local _, err = run(self, NO_WAIT, "servers", servers or {})
  if err ~= nil then return nil, err end
  self._servers = servers
  return true
end


-- Each makes the function of that name.
local BOUND = {}


function BOUND.resolve(self)
  return function(id, ctx)
    ctx = ctx or NO_WAIT.ctx
    local ok, err = tell_servers(self, ctx.servers)
    if not ok then return nil, err end
    local noting = ctx.note ~= nil and ctx.note ~= M.no_note
    local route, reason = run(self, { ctx = ctx, waits = true }, "resolve", id,
                              ctx.request, noting)
    if route == nil then return nil, revived(reason) end
    return route
  end
end


function BOUND.identify(self)
  return function(request)
    local id, reason = run(self, NO_WAIT, "identify", request)
    if id == nil then return nil, revived(reason) end
    return id
  end
end


function BOUND.on_event(self)
  return function(event)
    local _, err = run(self, NO_WAIT, "on_event", event)
    if err ~= nil then return nil, err end
    return true
  end
end


function BOUND.invalidations(self)
  return function(ctx, invalidate)
    local call = { ctx = ctx, waits = true, invalidate = invalidate,
                   listening = {} }
    local ok, err = tell_servers(self, ctx.servers)
    if ok then ok, err = run(self, call, "invalidations") end
    close_listening(call)
    if err ~= nil then return nil, revived(err) end
    return ok
  end
end


local methods = {}
local mt = { __name = "mtenant.policy", __index = methods }

local DATA = { ttl_ms = true, negative_ttl_ms = true, selftest = true,
               version = true }


--- Ends the policy's state. What is under way there ends with an error.
function methods:close()
  self._closed = true
  local box = self._box
  self._box = nil
  if box then box:close() end
end


--- What it costs: memory_bytes, peak_bytes, limit_bytes, calls (that run now),
-- total_calls, errors, rebuilds.
---@return table
function methods:stats()
  local out = self._box and self._box:stats()
    or { memory_bytes = 0, peak_bytes = 0, limit_bytes = self._memory_bytes,
         calls = 0 }
  out.total_calls, out.errors = self._calls, self._errors
  out.rebuilds = self._rebuilds
  return out
end


local function option(opts, name, default, least)
  local value = opts[name]
  if value == nil then return default end
  if type(value) ~= "number" or not (value >= least and value <= 2 ^ 40) then
    errors.misuse(3, "sandbox.load: %s must be a number from %d on, got %s",
                  name, least, tostring(value))
  end
  return tonumber(format("%d", value - value % 1))
end


local function check_options(opts)
  for key in pairs(opts) do
    if key ~= "name" and key ~= "memory_bytes" and key ~= "time_ms" then
      errors.misuse(3, "sandbox.load: unknown option %s", tostring(key))
    end
  end
end


-- puts what the file returned into the object
local function fill(self, data, has)
  for name in pairs(has) do self[name] = BOUND[name](self) end
  for key, value in pairs(data) do
    if BOUND[key] then
      return policy_error(self, "%s must be a function, got %s", key,
                          type(value))
    end
    if not DATA[key] then
      return policy_error(self, "%s is not a field of a policy", tostring(key))
    end
    self[key] = value
  end
  if not self.resolve then
    return policy_error(self, "it has no function resolve")
  end
end


--- Loads a policy file into a state of its own.
---@param source string  its text
---@param opts? table  name (for messages), memory_bytes (16 MiB), time_ms (10:
--  what its code may take without waiting)
---@return table|nil policy  what the file returned, as functions that run there
--  and data; and close(), stats()
---@return mtenant.error|nil err
function M.load(source, opts)
  if type(source) ~= "string" then
    errors.misuse(2, "sandbox.load: source must be a string, got %s",
                  type(source))
  end
  opts = opts or {}
  check_options(opts)
  local self = setmetatable({
    _name = tostring(opts.name or "policy"),
    _memory_bytes = option(opts, "memory_bytes", MEMORY_BYTES, 256 * 1024),
    _time_ms = option(opts, "time_ms", TIME_MS, 1),
    _source = source, _calls = 0, _errors = 0, _rebuilds = 0,
  }, mt)
  if #source > MAX_SOURCE then
    return nil, policy_error(self, "the file is longer than %d KiB",
                             MAX_SOURCE / 1024)
  end
  local data, has = build(self)
  if data == nil then return nil, has end
  local err = fill(self, data, has)
  if not err then return self end
  self:close()
  return nil, err
end


return M
