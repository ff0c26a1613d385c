--- Names by a pattern: the tenant's id makes its schema, database, role or url.
--
--     return template.new {
--       server = "eu1",
--       schema = "tenant_{id}",
--       settings = { ["app.tenant"] = "{id}" },
--       match = "^%l[%l%d-]*$",              -- what an id must look like
--     }

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"


local M = {}

-- The route's own fields, which are options here.
local TEXTS = { "server", "url", "database", "schema", "role", "strategy" }
local TABLES = { "settings", "pool", "read", "labels" }


local function fields()
  local out = { match = { "string" }, route_ttl_ms = { "number", min = 0 } }
  for _, key in ipairs(TEXTS) do out[key] = { "string" } end
  for _, key in ipairs(TABLES) do out[key] = { "table" } end
  return out
end


local function route_of(opts)
  local route = { ttl_ms = opts.route_ttl_ms }
  for _, key in ipairs(TEXTS) do route[key] = opts[key] end
  for _, key in ipairs(TABLES) do route[key] = opts[key] end
  return route
end


-- {1}, {2}: what the pattern's brackets caught
local function fill(route, id, caught)
  if type(route) == "string" then
    return (route:gsub("{(%d)}", function(n) return caught[tonumber(n)] end))
  elseif type(route) ~= "table" then
    return route
  end
  local out = {}
  for key, value in pairs(route) do out[key] = fill(value, id, caught) end
  return out
end


--- The fields of a route, with {id} in their texts; in a url it is encoded.
--- match: a Lua pattern that ids must match, else they are not found; what its
--- brackets catch is {1}, {2}, ...
---@param opts table
---@return table policy
function M.new(opts)
  opts = common.check("template", opts, fields())
  local route, match = route_of(opts), opts.match
  if next(route) == nil then
    error("[mtenant] policy.template: a field of a route is required", 2)
  end
  return joined(opts, {}, function(id, ctx)
    local caught = match and { id:match(match) }
    if caught and caught[1] == nil then
      return nil, ("template: the id does not match %s"):format(match)
    end
    common.note(ctx, "template: by the pattern, with id %s", id)
    return common.expand(caught and fill(route, id, caught) or route, id)
  end)
end


return M
