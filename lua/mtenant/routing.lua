--- Routes: checking what a resolver or a template answers.
-- A route says where a tenant lives, and how (route_fields.lua), by one of the
-- strategies "schema", "database" and "row". Pure but for the user's functions
-- that it calls; used by manager.lua.

local errors = require "mtenant.errors"
local log = require "mtenant.log"
local named_servers = require "mtenant.named_servers"
local route_fields = require "mtenant.route_fields"
local tracing = require "mtenant.tracing"


local copy, errors_is = route_fields.copy, errors.is
local ipairs, pcall, setmetatable, tostring, type =
  ipairs, pcall, setmetatable, tostring, type


local M = {}


local function policy_error(id, fmt, ...)
  return errors.new("policy", string.format(fmt, ...), { tenant_id = id })
end


-- a name from one of the config's templates: string, or nil and an error
local function from_template(id, isolation, key)
  local template = isolation[key]
  if not template then
    return nil, policy_error(id, "the route names no %s, and there is no "
      .. "isolation.%s", key:match("^%a+"), key)
  end
  local ok, name = pcall(template, id)
  if not ok then
    return nil, policy_error(id, "isolation.%s raised: %s", key,
                             errors.text_of(name))
  end
  if type(name) ~= "string" then
    return nil, policy_error(id, "isolation.%s must return a string, it "
      .. "returned %s", key, type(name))
  end
  return name
end


-- C strings end at a NUL byte: what is behind it must not get lost.
local function nul_error(id, route)
  for _, key in ipairs({ "schema", "role", "database" }) do
    if route[key] and route[key]:find("\0", 1, true) then
      return errors.new("invalid_tenant_id", string.format(
        'the %s of tenant "%s" contains a NUL byte', key, id),
        { tenant_id = id })
    end
  end
end


-- Each fills in what the strategy knows of a route; an error or nil.
local FILL = {}


function FILL.schema(isolation, id, out)
  if out.schema then return nil end
  local err
  out.schema, err = from_template(id, isolation, "schema_name_template")
  return err
end


function FILL.database(isolation, id, out)
  local err
  if not out.database then
    out.database, err = from_template(id, isolation, "database_template")
  end
  out.schema = out.schema or "public"
  return err
end


function FILL.row(isolation, id, out)
  out.schema = out.schema or isolation.schema
  out.setting, out.setting_value = isolation.tenant_setting, id
  return nil
end


-- fills in what the config knows; route, or nil and an error
local function complete(isolation, id, route, strategy)
  local out = copy(route)
  out.strategy = strategy
  local err = FILL[strategy](isolation, id, out)
  if err then return nil, err end
  if not out.role and isolation.role_template then
    out.role, err = from_template(id, isolation, "role_template")
    if err then return nil, err end
  end
  err = nul_error(id, out)
  if err then return nil, err end
  return out
end


-- Under strategy hybrid the user's rule says which; it may wait.
local function choose(isolation, id, ctx)
  if isolation.strategy ~= "hybrid" then return isolation.strategy end
  if not isolation.choose then
    return nil, policy_error(id, "under strategy hybrid a route needs a "
      .. "strategy, or isolation.choose")
  end
  local ok, strategy = pcall(isolation.choose, id, ctx)
  if not ok then
    if errors_is(strategy) and strategy.code ~= "misuse" then
      return nil, strategy
    end
    return nil, policy_error(id, "isolation.choose raised: %s",
                             errors.text_of(strategy))
  end
  if not route_fields.STRATEGIES[strategy] then
    return nil, policy_error(id, 'isolation.choose must return "schema", '
      .. '"database" or "row", it returned %s',
      type(strategy) == "string" and '"' .. strategy .. '"' or type(strategy))
  end
  return strategy
end


local function no_route(id, reason)
  if errors_is(reason) then return reason end
  local text = reason == nil and "no route for this tenant"
    or errors.text_of(reason)
  return errors.new("tenant_not_found", text, { tenant_id = id })
end


-- the code of what a resolver raised is kept, unless it is a bug of its own
local function raised(id, err)
  if errors_is(err) and err.code ~= "misuse" then return err end
  return policy_error(id, "resolve raised: %s", errors.text_of(err))
end


local function nothing() end


-- A policy's resolve, with a ctx that has what a manager gives beside what it
-- is given here.
local function resolver(policy, base)
  return function(id, ctx)
    return policy.resolve(id, setmetatable({ tenant_id = id }, {
      __index = function(_, key)
        local value = ctx and ctx[key]
        if value == nil then return base[key] end
        return value
      end,
    }))
  end
end


-- the resolvers of configurations that name a policy and have no manager
local resolvers = setmetatable({}, { __mode = "k" })


local function resolver_of(cfg)
  if cfg.resolve or not cfg.policy then return cfg.resolve end
  if not resolvers[cfg] then
    local policies = require "mtenant.policy"
    local policy, err = policies.load(cfg.policy, cfg.routing)
    if not policy then return function() return nil, err end end
    resolvers[cfg] = resolver(policy, policies.context(cfg, nothing,
      function(message)
        log.default():info("policy " .. policy.name .. ": " .. tostring(message))
      end))
  end
  return resolvers[cfg]
end


-- what the user's resolver answers, checked
local function ask(cfg, id, ctx)
  local ok, route, reason = pcall(resolver_of(cfg), id, ctx)
  if not ok then return nil, raised(id, route) end
  if route == nil then return nil, no_route(id, reason) end
  if type(route) ~= "table" then
    return nil, policy_error(id, "resolve must return a table or nil, it "
      .. "returned %s", type(route))
  end
  local out, problem = route_fields.read(cfg, route)
  if out then return out end
  return nil, errors.new("policy", problem, { tenant_id = id })
end


-- A url without its password.
local function public(given, cfg)
  return named_servers.public_url(given or cfg.connection.url)
end


--- A route as a user may see it: a copy, its urls as they were written and
--- without their passwords.
---@param cfg mtenant.config
---@param route table  what `resolve` has returned
---@return table
function M.describe(cfg, route)
  local out = {
    server = route.server, url = public(route.given, cfg),
    database = route.database, schema = route.schema, role = route.role,
    strategy = route.strategy, settings = copy(route.settings),
    pool = copy(route.pool), labels = copy(route.labels),
    ttl_ms = route.ttl_ms,
  }
  if route.read then
    out.read = { max_lag_ms = route.read.max_lag_ms,
                 read_your_writes = route.read.read_your_writes }
    for i = 1, #route.read do
      local one = route.read[i]
      out.read[i] = { server = one.server, url = public(one.given, cfg) }
    end
  end
  return out
end


--- Does finding a route call a function of the user's that may wait?
---@param cfg mtenant.config
---@return boolean
function M.may_wait(cfg)
  return cfg.resolve ~= nil or cfg.policy ~= nil
    or cfg.isolation.strategy == "hybrid"
end


--- Finds a tenant's route: asks the user's resolver and rule, where there are
--- any, and fills in the templates. It may wait.
---@param cfg mtenant.config
---@param id string
---@param ctx table
---@return table|nil route  url, server, database, schema, role, strategy,
---  setting, settings, pool, read, labels, ttl_ms
---@return mtenant.error|nil err
function M.resolve(cfg, id, ctx)
  local route, strategy, err = {}
  if cfg.resolve or cfg.policy then
    route, err = ask(cfg, id, ctx)
    if not route then return nil, err end
  end
  strategy = route.strategy
  if not strategy then
    strategy, err = choose(cfg.isolation, id, ctx)
    if not strategy then return nil, err end
  end
  route, err = complete(cfg.isolation, id, route, strategy)
  if not route then return nil, err end
  return tracing.name_route(cfg, id, route)
end


--- The schema by the configuration alone, without a route.
---@param cfg mtenant.config
---@param id string
---@return string|nil schema
---@return mtenant.error|nil err
function M.schema_name(cfg, id)
  local isolation = cfg.isolation
  if isolation.strategy == "schema" and isolation.schema_name_template then
    return from_template(id, isolation, "schema_name_template")
  end
  if cfg.resolve or cfg.policy or isolation.strategy == "hybrid" or
     isolation.strategy == "schema" then
    return nil, policy_error(id, 'the route of "%s" is not known yet', id)
  end
  return isolation.strategy == "row" and isolation.schema or "public"
end


return M
