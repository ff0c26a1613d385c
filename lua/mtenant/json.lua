--- JSON for the modules that also run in a policy's sandbox: there the host
-- answers for it. Any of the libraries that markers.lua knows.

local markers = require "mtenant.markers"

local pcall = pcall

local M = {}


--- Decodes a text.
---@param text string
---@return any|nil value  null inside of it is `mtenant.null`
---@return string|nil err
function M.decode(text)
  local ok, value = pcall(markers.decode, text)
  if ok then return value end
  return nil, "it is no JSON"
end


return M
