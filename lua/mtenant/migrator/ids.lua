--- The ids that a run is about: lists that callers give, and what
-- `tenant_discovery` finds. Part of the migrator.

local errors = require "mtenant.errors"


local format, ipairs = string.format, ipairs


local M = {}


-- What is wrong where that is no list of ids; `got`: how what is there came.
local function not_a_list(ids, got)
  if type(ids) ~= "table" then
    return format("a list of ids, %s a %s", got, type(ids))
  end
  for i, id in ipairs(ids) do
    if type(id) ~= "string" then
      return format("a list of strings, item %d is a %s", i, type(id))
    end
  end
end


--- A list of ids, each once; raises misuse where it is none.
---@param what string  whose argument it is
function M.check(ids, what)
  local problem = not_a_list(ids, "got")
  if problem then errors.misuse(3, "%s: ids must be %s", what, problem) end
  local out, seen = {}, {}
  for _, id in ipairs(ids) do
    if not seen[id] then out[#out + 1] = id end
    seen[id] = true
  end
  return out
end


--- The list of one id.
function M.one(id, what)
  if type(id) ~= "string" then
    errors.misuse(3, "%s: the id must be a string, got %s", what, type(id))
  end
  return { id }
end


--- Asks a migrator's `tenant_discovery`.
---@param self mtenant.Migrator
---@return string[]|nil ids
---@return mtenant.error|nil err
function M.discover(self)
  local fn = self.opts.tenant_discovery
  if not fn then
    return nil, errors.new("policy",
                           "tenant_discovery is not configured: who are all?")
  end
  local target, err = self.targets:shared()
  if not target then return nil, err end
  local ok, ids, why = pcall(fn, target.db)
  if not ok then ids, why = nil, ids end
  if ids == nil and errors.is(why) and why.code ~= "misuse" then
    return nil, why
  end
  if ids == nil and why ~= nil then
    return nil, errors.new("policy",
                           "tenant_discovery failed: " .. errors.text_of(why))
  end
  local problem = not_a_list(ids, "it returned")
  if problem then
    return nil, errors.new("policy", "tenant_discovery must return " .. problem)
  end
  return M.check(ids, "tenant_discovery")
end


return M
