--- The first policy that knows the tenant.
--
--     return fallback.new {
--       policies = {
--         directory.new { table = "moved" },   -- who has been moved by hand
--         hashed.new { servers = { "eu1", "eu2" } },
--       },
--     }
--
-- Not to be found is one thing, to fail another: the next one is asked when a
-- policy does not know the tenant. When it could not find out (the directory does
-- not answer), the next one might send the tenant to a database where it is not,
-- so the failure is the answer, unless on_error = "next" says that any answer
-- will do.

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"

local pcall, type = pcall, type


local M = {}


-- an error object or a plain reason
local function is_failure(reason)
  return type(reason) == "table" and reason.code ~= nil
    and reason.code ~= "tenant_not_found"
end


-- route | nil, reason, failed; what a policy raises is a failure
local function ask(policy, id, ctx)
  local ok, route, reason = pcall(policy.resolve, id, ctx)
  if not ok then
    return nil, route, type(route) ~= "table" or is_failure(route)
  end
  if route ~= nil then return route end
  return nil, reason, is_failure(reason)
end


-- The end of all: a failure is told first, since who failed might know it.
local function give_up(failure, raised, reason)
  if raised then error(failure, 0) end
  return nil, failure or reason or "fallback: no policy knows this tenant"
end


--- policies: a list of policies, routes and server names. on_error: "stop" (the
--- failure is the answer) or "next".
---@param opts table
---@return table policy
function M.new(opts)
  opts = common.check("fallback", opts, {
    policies = { "table", required = true },
    on_error = { "string", default = "stop" },
  })
  if opts.on_error ~= "stop" and opts.on_error ~= "next" then
    error('[mtenant] policy.fallback: on_error must be "stop" or "next", got "'
      .. opts.on_error .. '"', 2)
  end
  local inners = {}
  for i, policy in ipairs(opts.policies) do inners[i] = common.policy(policy) end
  if #inners == 0 then
    error("[mtenant] policy.fallback: policies names none", 2)
  end
  return joined(opts, inners, function(id, ctx)
    local failure, raised, last
    for i, policy in ipairs(inners) do
      local route, reason, failed = ask(policy, id, ctx)
      if route ~= nil then
        common.note(ctx, "fallback: policy %d of %d knows it", i, #inners)
        return route
      end
      local what = type(reason) == "table" and reason.message or reason
      common.note(ctx, "fallback: policy %d %s: %s", i,
        failed and "failed" or "does not know it", tostring(what or "no reason"))
      if failed and failure == nil then
        failure, raised = reason, not is_failure(reason)
      end
      if failed and opts.on_error == "stop" then break end
      last = reason
    end
    return give_up(failure, raised, last)
  end)
end


return M
