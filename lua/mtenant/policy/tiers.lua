--- Who pays more has a place of his own; the rest shares.
--
--     return tiers.new {
--       pinned = { acme = "eu-acme" },         -- these, whatever their tier
--       tier = function(id, ctx)
--         return ctx.shared:value("SELECT plan FROM customers WHERE id = $1", id)
--       end,
--       tiers = { enterprise = { server = "eu-large", schema = "t_{id}" } },
--       rest = hashed.new { servers = { "eu1", "eu2" } },
--     }
--
-- A route's label `tier` says which one it is by.

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"


local M = {}


local function policies(given, inners)
  local out = {}
  for name, value in pairs(given) do
    out[name] = common.policy(value)
    inners[#inners + 1] = out[name]
  end
  return out
end


-- its policy, and what its tier is called; nil, nil and an error
local function find(self, id, ctx)
  if self.pinned[id] then
    common.note(ctx, "tiers: %s is pinned", id)
    return self.pinned[id], "pinned"
  end
  local tier, err
  if self.tier then tier, err = self.tier(id, ctx) end
  if err then return nil, nil, err end
  if tier ~= nil and self.tiers[tier] then
    common.note(ctx, "tiers: %s is of tier %s", id, tier)
    return self.tiers[tier], tier
  end
  common.note(ctx, "tiers: %s is of tier %s, with the rest", id,
              tostring(tier or "none"))
  return self.rest, tier or "rest"
end


--- pinned: id to policy, route or server name. tier: function(id, ctx), or a
--- table by id, or a pattern with a capture. tiers: tier to policy, route or
--- server name. rest: for whoever is left; without it he is not found.
---@param opts table
---@return table policy
function M.new(opts)
  opts = common.check("tiers", opts, {
    pinned = { "table", default = {} },
    tier = { { "function", "table", "string" } },
    tiers = { "table", default = {} },
    rest = { "policy" },
  })
  local inners = {}
  local self = {
    pinned = policies(opts.pinned, inners),
    tiers = policies(opts.tiers, inners),
    tier = opts.tier and common.chooser(opts.tier),
    rest = opts.rest and common.policy(opts.rest),
  }
  inners[#inners + 1] = self.rest
  return joined(opts, inners, function(id, ctx)
    local policy, tier, err = find(self, id, ctx)
    if err then return nil, err end
    if not policy then return nil, "tiers: no tier for this tenant" end
    local route, why = policy.resolve(id, ctx)
    if not route then return nil, why end
    return common.label(route, "tier", tostring(tier))
  end)
end


return M
