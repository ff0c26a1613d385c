--- mtenant route: where a tenant lives, and why.

local cli = require "mtenant.cli"
local policies = require "mtenant.cli.policies"
local routes = require "mtenant.cli.routes"


-- the tenant of the command line or of the request, and the request
local function tenant_of(run, policy)
  local id, request = run.opts.id, policies.request(run)
  if id then return id, request end
  if not request then run:usage("name a tenant, or a request by --request") end
  local err
  id, err = policy:identify(request)
  if id then return id, request end
  return nil, request, err
end


return cli.run("route", function(run)
  local policy = policies.open(run, run.opts.policy)
  local id, request, err = tenant_of(run, policy)
  local found = id and policy:ask(id, request) or { error = err, notes = {} }
  local status = routes.show(policy, run.console, found, run.opts.explain)
  policy:close()
  return status
end)
