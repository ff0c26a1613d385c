--- Tenants over servers by weighted rendezvous hashing: no table, no state.
--
--     return hashed.new {
--       servers = { eu1 = 2, eu2 = 1 },        -- or { "eu1", "eu2" }
--       route = { schema = "tenant_{id}" },
--     }
--
-- Each tenant asks every server for its score and takes the highest. So a server
-- that comes takes its part from all others and moves nobody between them, and
-- one that goes leaves its tenants to all. The scores are the same in every
-- process, version and machine.

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"

local huge, log = math.huge, math.log


local M = {}


local function is_weight(w)
  return type(w) == "number" and w >= 0 and w < huge -- and no NaN
end


-- names, sorted, and their weights; those of no weight get nobody
local function weigh(servers)
  local names, weights = {}, {}
  for key, value in pairs(servers) do
    local name, weight = key, value
    if type(key) == "number" then name, weight = value, 1 end
    if type(name) ~= "string" or not is_weight(weight) then
      error("[mtenant] policy.hashed: servers must be names, or names with "
        .. "weights from 0 on", 3)
    end
    if weight > 0 then names[#names + 1] = name end
    weights[name] = weight
  end
  table.sort(names)
  return names, weights
end


-- -w / ln u: the highest of several is w's share of the time the one of w
local function choose(names, weights, id, salt, hash)
  local best, highest
  for i = 1, #names do
    local name = names[i]
    local score = -weights[name] / log(hash(salt .. name .. "\0" .. id))
    if not highest or score > highest then best, highest = name, score end
  end
  return best
end


--- servers: names, or weights by name; those of the configuration unless given.
--- route: the rest of the route. salt: another one deals the tenants anew. key:
--- function(id) to what is hashed in the id's place, to keep tenants together.
---@param opts? table
---@return table policy
function M.new(opts)
  opts = common.check("hashed", opts or {}, {
    servers = { "table" },
    route = { "table", default = {} },
    salt = { "string", default = "" },
    key = { "function" },
  })
  local route, salt, key = opts.route, opts.salt .. "\0", opts.key
  local names, weights = weigh(opts.servers or {})
  if opts.servers and #names == 0 then
    error("[mtenant] policy.hashed: servers names none", 2)
  end
  return joined(opts, {}, function(id, ctx)
    local list, by = names, weights
    if not opts.servers then list, by = weigh(ctx.servers or {}) end
    if #list == 0 then
      error("[mtenant] policy.hashed: the configuration has no servers", 0)
    end
    local out = common.expand(route, id)
    out.server = choose(list, by, key and key(id) or id, salt, ctx.hash)
    common.note(ctx, "hashed: %s, the highest score of %d servers", out.server,
                #list)
    return out
  end)
end


return M
