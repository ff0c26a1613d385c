--- Routing policies: loading one from a file, checking what it is, running its
-- own tests, and saying why it answers what it does. What a manager does with
-- them is in router.lua and reload.lua.
--
-- A policy is a table { resolve =, identify =, ... } or the function `resolve`
-- alone; a file returns one of them.

local core = require "mtenant.core"
local crypto = require "mtenant.crypto"
local errors = require "mtenant.errors"
local named_servers = require "mtenant.named_servers"
local sandbox = require "mtenant.policy.sandbox"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local format = string.format
local ipairs, pairs, pcall, setmetatable, tostring, type =
  ipairs, pairs, pcall, setmetatable, tostring, type

local FILE_BYTES_MAX = 1024 * 1024
local SELFTEST_MS = 5000


local M = {}


local fields = schema.new({
  name = "policy",
  { "resolve", kind = "function", required = true },
  { "identify", kind = "function" },
  { "ttl_ms", kind = "number", min = 0 },
  { "negative_ttl_ms", kind = "number", min = 0 },
  { "on_event", kind = "function" },
  { "selftest", kind = "table" },
  { "invalidations", kind = "function" },
  { "version", kind = "string" },
})

local case_fields = schema.new({
  name = "case",
  { "name", kind = "string" },
  { "tenant_id", kind = "string" },
  { "request", kind = "table" },
  { "route", kind = "table" },
  { "error", kind = { "string", "boolean" } },
  { "shared", kind = { "table", "function" } },
})


local function policy_error(fmt, ...)
  return errors.new("policy", format(fmt, ...))
end


-- what a checker says, without the place in the code that has nothing to do
-- with it
local function checked(checker, value)
  local ok, result = pcall(checker.check, checker, value)
  if ok then return result end
  local text = errors.text_of(result):gsub("^.-%[mtenant%] ", "")
  return nil, policy_error("%s", text)
end


-- ---- loading ------------------------------------------------------------

-- names that begin with _ are the policy's own
local function public_part(object)
  local out = {}
  for key, value in pairs(object) do
    if not (type(key) == "string" and key:find("^_")) then out[key] = value end
  end
  out.close, out.stats = nil, nil
  return out
end


-- A method of a loaded file's: what its sandbox has used, and its end.
local function optional_method(object, name)
  local fn = object[name]
  if not schema.is_callable(fn) then return function() end end
  return function() return fn(object) end
end


local function check(object, name)
  if schema.is_callable(object) then object = { resolve = object } end
  if type(object) ~= "table" then
    return nil, policy_error("%s must be a function or a table with resolve, "
      .. "got %s", name, type(object))
  end
  local policy, err = checked(fields, public_part(object))
  if not policy then return nil, err end
  for i, case in ipairs(policy.selftest or {}) do
    local ok
    ok, err = checked(case_fields, case)
    if not ok then
      return nil, policy_error("selftest[%d]: %s", i, err.message)
    end
  end
  policy.name = name
  policy.close = optional_method(object, "close")
  policy.stats = optional_method(object, "stats")
  return policy
end


--- The text of a policy file.
---@param path string
---@return string|nil source
---@return mtenant.error|nil err
function M.read(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, policy_error("no policy file: %s", why) end
  local source = file:read(FILE_BYTES_MAX + 1)
  file:close()
  -- a directory can be opened, and not be read
  if not source or source == "" then
    return nil, policy_error("the policy file %s is empty", path)
  elseif #source > FILE_BYTES_MAX then
    return nil, policy_error("the policy file %s is longer than %d bytes", path,
                             FILE_BYTES_MAX)
  end
  return source
end


--- Tells one content of a file from another.
---@param source string
---@return string
function M.hash(source)
  return crypto.sha256(source)
end


--- Loads a policy: from the text of a file (a path), or as it is. What comes
-- from a file is to be closed in the end.
---@param what string|table|function  a path, a policy, or its `resolve`
---@param limits? table  of a file's sandbox: memory_bytes, time_ms
---@return table|nil policy  resolve, identify, ttl_ms, negative_ttl_ms,
--  on_event, selftest, invalidations, version; name, hash (of a file), close(),
--  stats()
---@return mtenant.error|nil err
function M.load(what, limits)
  if type(what) ~= "string" then return check(what, "policy") end
  local source, object, policy, err
  source, err = M.read(what)
  if not source then return nil, err end
  object, err = sandbox.load(source, {
    name = what,
    memory_bytes = limits and limits.memory_bytes,
    time_ms = limits and limits.time_ms,
  })
  if not object then return nil, err end
  policy, err = check(object, what)
  if not policy then
    optional_method(object, "close")()
    return nil, err
  end
  policy.hash = M.hash(source)
  return policy
end


-- ---- calling ------------------------------------------------------------

--- What a policy gets as `ctx`, but for what is one call's.
---@param cfg table  the configuration, for the names of its servers
---@param shared fun(): table  gives the shared handle when it is asked for
---@param log fun(message: string)
---@return table  to be the __index of each call's own
function M.context(cfg, shared, log)
  return setmetatable({
    sleep = task.sleep, now_ms = core.now_ms, note = sandbox.no_note,
    hash = crypto.unit, servers = named_servers.names(cfg), log = log,
  }, { __index = function(_, key)
    if key == "shared" then return shared() end
  end })
end


--- The tenant of a request; nil and why not.
---@param policy table
---@param request table
---@return string|nil id
---@return mtenant.error|nil err
function M.identify(policy, request)
  if not policy.identify then
    return nil, policy_error("%s has no identify", policy.name)
  end
  local ok, id, reason = pcall(policy.identify, request)
  if not ok then
    if errors.is(id) and id.code ~= "misuse" then return nil, id end
    return nil, policy_error("identify raised: %s", errors.text_of(id))
  end
  if id == nil then
    if errors.is(reason) then return nil, reason end
    return nil, errors.new("invalid_tenant_id", reason and tostring(reason)
      or "the request names no tenant")
  elseif type(id) ~= "string" then
    return nil, policy_error("identify must return a string or nil, it "
      .. "returned %s", type(id))
  end
  return id
end


-- ---- its own tests ---------------------------------------------------------

-- why a route is not what the case says; nil: it is
local function difference(wanted, got, path)
  for key, value in pairs(wanted) do
    local have = got[key]
    local name = path .. tostring(key)
    if type(value) == "table" and type(have) == "table" then
      local why = difference(value, have, name .. ".")
      if why then return why end
    elseif value ~= have then
      return format("%s is %s, not %s", name, tostring(have), tostring(value))
    end
  end
end


-- a case says error = true, a code, or a part of the message
local function is_wanted_error(wanted, err)
  return wanted == true or err.code == wanted
    or tostring(err.message):find(wanted, 1, true) ~= nil
end


local function outcome(case, route, err)
  if case.error then
    if route then return "an error was expected, and there is a route" end
    if is_wanted_error(case.error, err) then return nil end
    return format("the error is %s: %s", err.code, err.message)
  end
  if not route then return format("%s: %s", err.code, err.message) end
  return case.route and difference(case.route, route, "route.")
end


-- the case's tenant: of its request, where it has one
local function tenant_of(policy, case)
  if not case.request or not policy.identify then return case.tenant_id end
  local id, err = M.identify(policy, case.request)
  if not id then return nil, err end
  if case.tenant_id and id ~= case.tenant_id then
    return nil, policy_error('identify says "%s", not "%s"', id, case.tenant_id)
  end
  return id
end


-- As routing.resolve, but the route is the policy's own: what it leaves out is
-- not to be compared.
local function ask(policy, cfg, id, ctx)
  local routing = require "mtenant.routing"
  local answer
  local view = setmetatable({ policy = false, resolve = function(...)
    local reason
    answer, reason = policy.resolve(...)
    return answer, reason
  end }, { __index = cfg })
  local route, err = routing.resolve(view, id, ctx)
  if route then return answer end
  return nil, err
end


local function run_case(policy, cfg, case)
  local id, err = tenant_of(policy, case)
  local route
  if id and (case.route or case.error) then
    local ctx = require("mtenant.testing.routes").context(
      { shared = case.shared, request = case.request }, id, cfg)
    route, err = ask(policy, cfg, id, ctx)
  elseif id then
    return nil -- only identify was to be tested
  end
  return outcome(case, route, err or policy_error("the case names no tenant"))
end


-- a configuration for a policy that is tested alone: any server's name will do
local function stand_alone(policy)
  local cfg = require("mtenant.testing.routes").define(policy.resolve, 1)
  require("mtenant.testing.servers").allow_any(cfg)
  return cfg
end


--- Runs the cases of a policy's `selftest`, within five seconds. Waits.
---@param policy table  what load has returned
---@param cfg? table  a defined configuration, whose servers routes then name
---@return table|nil results  per case { name =, ok =, message = }, and `failed`
---@return mtenant.error|nil err  it could not be run to its end
function M.run_selftest(policy, cfg)
  cfg = cfg or stand_alone(policy)
  local results = { failed = 0 }
  local ok, err = require("mtenant.deadline")(SELFTEST_MS, function()
    for i, case in ipairs(policy.selftest or {}) do
      local ran, why = pcall(run_case, policy, cfg, case)
      if not ran then why = errors.text_of(why) end
      results[i] = { name = case.name or case.tenant_id or "case " .. i,
                     ok = why == nil, message = why }
      if why then results.failed = results.failed + 1 end
      local now = task.current()
      if now.expired or now.cancelled then
        return nil, now.cancelled or now.expired
      end
    end
    return true
  end)
  if not ok then return nil, err end
  return results
end


-- ---- why ------------------------------------------------------------

local function collector(notes)
  return function(fmt, ...)
    local ok, text = pcall(format, fmt, ...)
    notes[#notes + 1] = ok and text or tostring(fmt)
  end
end


local function explain(manager, id, request)
  local out = { notes = {} }
  if id == nil then
    id, out.error = manager:identify(request)
    if not id then return out end
  end
  out.tenant_id = id
  local ok, err = require("mtenant.config").valid_id(
    id, manager._config.id_pattern)
  if not ok then
    out.error = err
    return out
  end
  out.from, out.policy = manager:_route_source(id)
  out.route, out.error = manager:_ask_route(id, {
    request = request, note = collector(out.notes),
  })
  return out
end


--- Asks a policy for a tenant's route, now, and says how it came by it. Waits.
---@param manager table  a manager, or a configuration, of which one is made
---@param id? string  nil: that of the request
---@param request? table  what `identify` and ctx.request get
---@return table  tenant_id, route or error, notes (what ctx.note was told),
--  from (fresh, stale, negative: a manager has that in its cache; policy: it
--  would ask), policy (its name)
function M.explain(manager, id, request)
  if manager.get_db then return explain(manager, id, request) end
  local made, err = require("mtenant.manager").create(manager)
  if not made then return { error = err, notes = {} } end
  local ok, out = pcall(explain, made, id, request)
  made:dispose()
  if not ok then error(out, 0) end
  return out
end


return M
