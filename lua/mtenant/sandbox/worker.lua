--- What a sandbox's coroutines run: loads the policy, and calls its functions
-- for the host. Text that the host hands to core.sandbox, as libraries.lua; the
-- chunk gets what src/lua/sandbox_lib.c offers and the policy's globals, and
-- returns the worker.
--
-- A call ends with `false` and its results; what else is yielded asks the host
-- for something.

local lib, env = ...
local charge, compile = lib.charge, lib.compile
local error, pairs, select, tostring, type = error, pairs, select, tostring, type
local setmetatable, yield = setmetatable, coroutine.yield
local format = env.string.format

-- no longer text for the functions of mtenant.crypto
local LONGEST = lib.longest


-- ---- asking the host -------------------------------------------------------------

-- what the host answers with when it failed
local error_mt = { __tostring = function(err) return err.message end }


local function answer(value, err, ...)
  if value == nil and type(err) == "table" then
    setmetatable(err, error_mt)
  end
  return value, err, ...
end


-- Waits, in the middle of whatever the policy does. What it answers is data.
local function ask(what, ...)
  return answer(yield(what, ...))
end


local loaded = {
  ["mtenant.json"] = {
    decode = function(text) return ask("json", text) end,
  },
}


function env.require(name)
  if type(name) ~= "string" then
    error("bad argument #1 to 'require' (string expected, got " .. type(name)
      .. ")", 2)
  end
  if loaded[name] ~= nil then return loaded[name] end
  local source, why = ask("require", name)
  if not source then error("require: " .. tostring(why), 2) end
  local chunk, message = compile(source, "@" .. name, env)
  if not chunk then error(message, 2) end
  local value = chunk(name)
  if loaded[name] == nil then loaded[name] = value == nil or value end
  return loaded[name]
end


local function crypto_wrapped(crypto)
  local out = {}
  for name, f in pairs(crypto) do
    out[name] = function(text, other, ...)
      charge((type(text) == "string" and #text or 0)
        + (type(other) == "string" and #other or 0) + 4096)
      if type(text) == "string" and #text > LONGEST then
        error(format("%s: at most %d bytes", name, LONGEST), 2)
      end
      return f(text, other, ...)
    end
  end
  return out
end

loaded["mtenant.crypto"] = crypto_wrapped(lib.crypto)


-- ---- the context of a call ----------------------------------------------------------

local shared = {}
for _, what in pairs { "query", "one", "value" } do
  shared[what] = function(_, sql, ...) return ask(what, sql, ...) end
end

local listeners, listener_count = {}, 0


function shared.listen(_, channel, fn)
  if type(fn) ~= "function" then
    error("listen: fn must be a function, got " .. type(fn), 2)
  end
  listener_count = listener_count + 1
  local id = listener_count
  listeners[id] = fn
  local ok, err = ask("listen", channel, id)
  if not ok then
    listeners[id] = nil
    return nil, err
  end
  return {
    close = function()
      listeners[id] = nil
      return ask("unlisten", id)
    end,
  }
end


local context = { shared = shared, hash = lib.crypto.unit, servers = {} }


function context.sleep(ms)
  return ask("sleep", ms)
end


function context.now_ms()
  return ask("now_ms")
end


function context.log(message)
  ask("log", tostring(message))
end


local function no_note()
end


local function note(fmt, ...)
  local text = tostring(fmt)
  if select("#", ...) > 0 then text = format(text, ...) end
  ask("note", text)
end


local context_mt = { __index = context }


local function context_of(id, request, noting)
  return setmetatable({
    tenant_id = id,
    request = request,
    note = noting and note or no_note,
  }, context_mt)
end


-- ---- what the host asks for ----------------------------------------------------------

local policy
local FUNCTIONS = { "resolve", "identify", "on_event", "invalidations" }
local ops = {}


-- what is no function, and which functions there are
local function describe()
  local data, has = {}, {}
  for key, value in pairs(policy) do data[key] = value end
  for _, name in pairs(FUNCTIONS) do
    if type(policy[name]) == "function" then
      has[name], data[name] = true, nil
    end
  end
  return data, has
end


function ops.load(source, name)
  local chunk, message = compile(source, name, env)
  if not chunk then return nil, message end
  policy = chunk()
  if type(policy) == "function" then policy = { resolve = policy } end
  if type(policy) ~= "table" then
    return nil, "a policy file must return a table or a function, it returned "
      .. type(policy)
  end
  return describe()
end


function ops.servers(names)
  context.servers = names
end


function ops.resolve(id, request, noting)
  return policy.resolve(id, context_of(id, request, noting))
end


function ops.identify(request)
  return policy.identify(request)
end


function ops.on_event(event)
  policy.on_event(event)
end


function ops.invalidations()
  local ok, err = policy.invalidations(context_of(nil, nil, false), function(id)
    ask("invalidate", id)
  end)
  if ok == nil and err ~= nil then return nil, err end
  return true
end


function ops.deliver(id, ...)
  local fn = listeners[id]
  if fn then fn(...) end
end


local function worker(op, ...)
  return worker(yield(false, ops[op](...)))
end


-- nothing of the libraries is left to be found
local globals, names = _G, {}
for name in pairs(globals) do names[#names + 1] = name end
for i = 1, #names do globals[names[i]] = nil end


return worker
