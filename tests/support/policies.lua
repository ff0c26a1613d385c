--- What specs ask the shipped policies with.

local crypto = require "mtenant.crypto"


local M = {}


--- A ctx that keeps what is noted, in `notes`.
---@param more? table  more fields of it
---@return table
function M.context(more)
  local ctx = { hash = crypto.unit, notes = {} }
  function ctx.note(fmt, ...)
    ctx.notes[#ctx.notes + 1] = fmt:format(...)
  end
  for key, value in pairs(more or {}) do ctx[key] = value end
  return ctx
end


--- Asks a policy for a tenant's route.
---@param more? table  as for context
---@return table|nil route
---@return any reason
function M.resolve(policy, id, more)
  return policy.resolve(id, M.context(more))
end


return M
