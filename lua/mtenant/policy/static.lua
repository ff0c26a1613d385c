--- A table says where each tenant lives.
--
--     return static.new {
--       routes = {
--         acme = { server = "eu1", schema = "acme" },
--         globex = "us1",                       -- a server's name will do
--       },
--       default = { server = "eu1", schema = "tenant_{id}" },
--     }

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"


local M = {}


--- routes: tenant id to route, server name or policy; default: for all others,
--- without it they are not found. {id} in a route's texts is the tenant's id.
---@param opts table
---@return table policy
function M.new(opts)
  opts = common.check("static", opts, {
    routes = { "table", required = true },
    default = { "policy" },
  })
  local routes, inners = {}, {}
  for id, route in pairs(opts.routes) do
    routes[id] = common.policy(route)
    inners[#inners + 1] = routes[id]
  end
  local default = opts.default and common.policy(opts.default)
  inners[#inners + 1] = default
  return joined(opts, inners, function(id, ctx)
    local found = routes[id]
    if found then
      common.note(ctx, "static: %s is in the table", id)
      return found.resolve(id, ctx)
    elseif default then
      common.note(ctx, "static: %s is not in the table, the default holds", id)
      return default.resolve(id, ctx)
    end
    return nil, "static: no tenant of this id"
  end)
end


return M
