--- A part of the tenants goes first.
--
--     return canary.new {
--       percent = 5,
--       salt = "move to eu3",
--       include = { "acme" },                  -- always
--       exclude = { "globex" },                -- never, even if included
--       canary = hashed.new { servers = { "eu3" } },
--       stable = hashed.new { servers = { "eu1", "eu2" } },
--     }
--
-- Who is in the part is in it in every process and stays in it when the part
-- grows; another salt chooses others. A route's label `ring` is "canary" or
-- "stable".

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"


local M = {}


local function set_of(ids)
  local set = {}
  for _, id in ipairs(ids) do set[id] = true end
  return set
end


-- whether it goes first, and why
local function is_first(self, id, ctx)
  if self.exclude[id] then return false, "it is excluded" end
  if self.include[id] then return true, "it is included" end
  local place = ctx.hash("canary\0" .. self.salt .. "\0" .. id) * 100
  return place < self.percent,
    ("its place is %.2f of 100, the part is %g"):format(place, self.percent)
end


--- percent: 0 to 100. canary, stable: policy, route or server name. salt: tells
--- this canary from others. include, exclude: lists of ids.
---@param opts table
---@return table policy
function M.new(opts)
  opts = common.check("canary", opts, {
    percent = { "number", required = true, min = 0, max = 100 },
    canary = { "policy", required = true },
    stable = { "policy", required = true },
    salt = { "string", default = "" },
    include = { "table", default = {} },
    exclude = { "table", default = {} },
  })
  local self = { percent = opts.percent, salt = opts.salt,
                 include = set_of(opts.include), exclude = set_of(opts.exclude) }
  local canary, stable = common.policy(opts.canary), common.policy(opts.stable)
  return joined(opts, { canary, stable }, function(id, ctx)
    local first, why = is_first(self, id, ctx)
    local ring = first and "canary" or "stable"
    common.note(ctx, "canary: %s is %s: %s", id, ring, why)
    local route, reason = (first and canary or stable).resolve(id, ctx)
    if not route then return nil, reason end
    return common.label(route, "ring", ring)
  end)
end


return M
