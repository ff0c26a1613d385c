--- Policies without a server: a file or an object, asked as a manager would ask
--- it. Used by testing.lua.

local errors = require "mtenant.errors"
local policies = require "mtenant.policy"
local routes = require "mtenant.testing.routes"
local schema = require "mtenant.schema"
local servers = require "mtenant.testing.servers"
local task = require "mtenant.task"

local misuse = errors.misuse


local M = {}

-- of a file's sandbox: tests run on machines that are busy
local LIMITS = { time_ms = 1000 }

local options = schema.new({
  name = "testing.policy",
  { "servers", kind = "table" },
  { "shared", kind = { "table", "function" } },
  { "config", kind = "table" },
})


---@class mtenant.testing.Policy
---@field policy table  what is under test
---@field shared mtenant.testing.Shared
local methods = {}
local mt = { __name = "mtenant.testing.policy", __index = methods }


--- A policy under test. Raises misuse when it can't be loaded.
---@param source string|table|function  a file's path, a policy or its resolve
---@param opts? table  servers (names, or urls by name; any name will do without
--- it), shared (a script, as for
--- testing.shared), config (the rest of the configuration)
---@return mtenant.testing.Policy
function M.policy(source, opts)
  opts = options:check(opts or {}, 2)
  local limits = opts.config and opts.config.routing or LIMITS
  local policy, err = policies.load(source, limits)
  if not policy then misuse(2, "testing.policy: %s", err.message) end
  local config = {}
  for key, value in pairs(opts.config or {}) do config[key] = value end
  config.resolve = policy.resolve
  config.isolation = config.isolation or servers.ISOLATION
  config.servers = config.servers or servers.named(opts.servers)
  local cfg = routes.define(config, 3)
  if not opts.servers then servers.allow_any(cfg) end
  return setmetatable({
    policy = policy, shared = routes.shared(opts.shared or {}),
    _config = cfg,
  }, mt)
end


local function ask(self, id, request, notes)
  return routes.ask(self._config, id, {
    shared = self.shared, request = request,
    note = notes and function(fmt, ...)
      notes[#notes + 1] = fmt:format(...)
    end,
  })
end


--- The tenant's route, or the error that its callers would get.
---@param id string
---@param request? table
---@return table|nil route
---@return mtenant.error|nil err
function methods:resolve(id, request)
  return ask(self, id, request)
end


--- Why: what the policy has noted on its way.
---@param id string
---@param request? table
---@return string[] notes
---@return table|nil route
---@return mtenant.error|nil err
function methods:explain(id, request)
  local notes = {}
  return notes, ask(self, id, request, notes)
end


--- The tenant of a request.
---@param request table  host, path, headers, method, claims
---@return string|nil id
---@return mtenant.error|nil err
function methods:identify(request)
  return policies.identify(self.policy, request)
end


--- How many of these tenants each server gets. Raises the error of one that has
--- no route.
---@param ids string[]
---@return table<string, integer>
function methods:distribution(ids)
  local count = {}
  for _, id in ipairs(ids) do
    local route, err = ask(self, id)
    if not route then error(err, 0) end
    local server = route.server
    count[server] = (count[server] or 0) + 1
  end
  return count
end


local function in_task(fn, ...)
  if task.current() then return fn(...) end
  return task.run(fn, ...)
end


--- Runs its self-tests; raises what the first failure is.
---@return integer  how many there are
function methods:selftest()
  local results, err = in_task(policies.run_selftest, self.policy, self._config)
  if not results then error(err, 0) end
  for _, result in ipairs(results) do
    if not result.ok then
      error(("self-test %s: %s"):format(tostring(result.name),
        tostring(result.message)), 2)
    end
  end
  return #results
end


return M
