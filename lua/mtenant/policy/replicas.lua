--- Reads go to replicas, as long as they are not too far behind.
--
--     return replicas.new {
--       primary = { server = "eu1", schema = "tenant_{id}" },
--       replicas = { "eu1-a", "eu1-b" },       -- or { eu1 = { "eu1-a" }, ... }
--       max_lag_ms = 1000,
--       read_your_writes = true,
--     }
--
-- The policy says where reads may go; which replica a read takes, whether it is
-- close enough and whether it has the tenant's own writes is looked at when the
-- read is sent.

local common = require "mtenant.policy.common"
local joined = require "mtenant.policy.joined"


local M = {}


local function is_list(t)
  return t[1] ~= nil
end


-- replicas of a server, as a route's `read` wants them
local function read_of(list, opts)
  local read = { max_lag_ms = opts.max_lag_ms,
                 read_your_writes = opts.read_your_writes }
  for i, replica in ipairs(list) do read[i] = replica end
  return read
end


local function check_lists(replicas)
  for name, list in pairs(is_list(replicas) and { replicas } or replicas) do
    if type(list) ~= "table" then
      error(("[mtenant] policy.replicas: replicas.%s must be a list, got %s")
        :format(tostring(name), type(list)), 3)
    end
  end
end


--- primary: policy, route or server name. replicas: a list of server names, or
--- of routes' { server = } and { url = }; or such lists by the primary's name;
--- a server without a list is read itself. max_lag_ms: one that is further
--- behind is not read; without it any is. read_your_writes: what a tenant has
--- written it reads.
---@param opts table
---@return table policy
function M.new(opts)
  opts = common.check("replicas", opts, {
    primary = { "policy", required = true },
    replicas = { "table", required = true },
    max_lag_ms = { "number", min = 1 },
    read_your_writes = { "boolean", default = true },
  })
  check_lists(opts.replicas)
  local primary, lists = common.policy(opts.primary), opts.replicas
  return joined(opts, { primary }, function(id, ctx)
    local route, why = primary.resolve(id, ctx)
    if type(route) ~= "table" then return route, why end
    local list = is_list(lists) and lists or lists[route.server]
    if not list then
      common.note(ctx, "replicas: none of %s", tostring(route.server))
      return route
    end
    common.note(ctx, "replicas: %d, for reads", #list)
    local out = {}
    for key, value in pairs(route) do out[key] = value end
    out.read = read_of(list, opts)
    return out
  end)
end


return M
