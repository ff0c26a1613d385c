--- A tenant's data stays in its region.
--
--     return regions.new {
--       region = "^(%a+)%-",                   -- eu-acme; or a table, a function
--       regions = {
--         eu = hashed.new { servers = { "eu1", "eu2" } },
--         us = "us1",
--       },
--     }
--
-- A region that has no servers is an error, not somewhere else: without `default`
-- nobody's data leaves its region by a typing mistake. A route's label `region`
-- says which one it is.

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"


local M = {}


--- region: function(id, ctx), or a table by id, or a pattern with a capture.
--- regions: region to policy, route or server name. default: the region of those
--- that have none; never of those whose region is not known here.
---@param opts table
---@return table policy
function M.new(opts)
  opts = common.check("regions", opts, {
    region = { { "function", "table", "string" }, required = true },
    regions = { "table", required = true },
    default = { "string" },
  })
  local region_of, regions, inners = common.chooser(opts.region), {}, {}
  for name, value in pairs(opts.regions) do
    regions[name] = common.policy(value)
    inners[#inners + 1] = regions[name]
  end
  if opts.default and not regions[opts.default] then
    error("[mtenant] policy.regions: default is none of the regions", 2)
  end
  return joined(opts, inners, function(id, ctx)
    local region, err = region_of(id, ctx)
    if err then return nil, err end
    if region == nil then
      if not opts.default then return nil, "regions: the tenant has no region" end
      common.note(ctx, "regions: %s has none, the default %s holds", id,
                  opts.default)
      region = opts.default
    end
    if not regions[region] then
      error(("[mtenant] policy.regions: %s is in region %s, which has no servers")
        :format(id, tostring(region)), 0)
    end
    common.note(ctx, "regions: %s is in region %s", id, region)
    local route, why = regions[region].resolve(id, ctx)
    if not route then return nil, why end
    return common.label(route, "region", region)
  end)
end


return M
