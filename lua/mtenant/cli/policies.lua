--- Policies for commands: loads one, with or without a configuration, and asks it
-- where tenants live.

local errors = require "mtenant.errors"
local markers = require "mtenant.markers"
local mtenant = require "mtenant"
local policies = require "mtenant.policy"
local routing = require "mtenant.routing"
local servers = require "mtenant.testing.servers"

local NO_SERVER = "the policy asks ctx.shared, and no database is named: use "
  .. "DATABASE_URL, --url or --config"

-- of a file's sandbox: nobody else waits here
local LIMITS = { time_ms = 1000 }

local methods = {}
local mt = { __name = "mtenant.cli.policy", __index = methods }

local M = {}


local function one_line(text)
  return (text:gsub("%s*\n%s*", " "))
end


-- a shared database that says that there is none
local no_server = setmetatable({}, { __index = function()
  return function() return nil, errors.new("policy", NO_SERVER) end
end })


-- As the policy, but each answer is kept as it was given.
local function watched(policy, self)
  return {
    resolve = function(id, ctx)
      local route, reason = policy.resolve(id, self.has_server and ctx
        or setmetatable({ shared = no_server }, { __index = ctx }))
      self.answer = type(route) == "table" and route or nil
      return route, reason
    end,
  }
end


local function database_url(config)
  local connection = config.connection
  return type(connection) == "table" and connection.url
    or os.getenv("DATABASE_URL")
end


-- The configuration that the policy is asked in.
local function config_of(run, self)
  local config = {}
  for key, value in pairs(run:settings().config) do config[key] = value end
  local url = database_url(config)
  self.has_server = url ~= nil and url ~= ""
  if not self.has_server then
    local connection = {}
    for key, value in pairs(config.connection or {}) do
      connection[key] = value
    end
    connection.url = servers.url("nowhere")
    config.connection = connection
  end
  self.has_template = config.isolation ~= nil
  config.isolation = config.isolation or servers.ISOLATION
  if run.opts.servers then config.servers = servers.named(run.opts.servers) end
  return config
end


-- what is asked: a file, or what the configuration has
local function source_of(run, self, config, path)
  local source = path or config.policy or config.resolve
  if source == nil and not self.has_template then
    run:usage("name a policy by --policy FILE, or a configuration by "
      .. "--config FILE")
  end
  return source
end


--- A policy, to be asked: that of a file, or the configuration's.
---@param run table
---@param path? string
---@return table
function M.open(run, path)
  run.opts.may_lack_config = true
  local self = setmetatable({ run = run }, mt)
  local config = config_of(run, self)
  local source = source_of(run, self, config, path)
  self.name = type(source) == "string" and source or run:settings().path
  if source then
    self.policy = run:must(policies.load(source, config.routing or LIMITS))
    config.policy, config.resolve = watched(self.policy, self), nil
  end
  local ok, manager, err = pcall(mtenant.create_tenant_manager, config)
  if not ok or not manager then
    run:fail(run:settings().path .. ": "
      .. one_line(errors._bare(ok and err or manager)))
  end
  if not config.servers then servers.allow_any(manager._config) end
  self.manager = manager
  return self
end


--- The tenant that a request names; nil and an error.
function methods:identify(request)
  if not self.policy then
    return nil, errors.new("policy", "there is no policy, and so no identify")
  end
  return policies.identify(self.policy, request)
end


--- A route as one may show it; the url of the configuration is no part of it.
function methods:describe(route)
  if not route then return nil end
  local out = routing.describe(self.manager._config, route)
  out.url = route.given and not route.server and out.url or nil
  return out
end


--- Where a tenant lives: { tenant_id, route, error, notes, answer }; answer is
-- what the policy has said, route what came of it.
---@param id string
---@param request? table
function methods:ask(id, request)
  self.answer = nil
  local out = policies.explain(self.manager, id, request)
  out.answer = self.answer
  out.route = self:describe(out.route)
  if out.route and not self.has_template
     and not (out.answer and out.answer.schema) then
    out.route.schema = nil
  end
  return out
end


--- What a tenant's server is called: its name, or its address.
---@param answer table
---@return string
function methods.server_of(_, answer)
  local route = answer.route
  if route.server then return route.server end
  if not route.url then return "(the configuration's)" end
  return (route.url:gsub("^%a+://", ""):gsub("^[^@/]*@", "")
    :gsub("[/?].*$", ""))
end


--- Lets go of it.
function methods:close()
  self.manager:dispose()
  if self.policy then self.policy.close() end
end


--- Is an error about the tenant alone: there is none of this id?
function M.is_unknown(err)
  return errors.is(err, "tenant_not_found") or errors.is(err, "invalid_tenant_id")
end


--- The request of the command line, or the end of the command.
function M.request(run)
  local text = run.opts.request
  if not text then return nil end
  local ok, request = pcall(markers.decode, text)
  if not ok or type(request) ~= "table" then
    run:usage("--request takes a JSON object, not '" .. text .. "'")
  end
  return request
end


return M
