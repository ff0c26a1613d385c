--- JSON for the modules that also run in a policy's sandbox: there the host
-- answers for it. Any of the libraries that markers.lua knows.

local errors = require "mtenant.errors"
local markers = require "mtenant.markers"

local pcall = pcall

local M = {}


--- Decodes a text. Raises misuse when no library is installed.
---@param text string
---@return any|nil value  null inside of it is `mtenant.null`
---@return string|nil err
function M.decode(text)
  local ok, value = pcall(markers.decode, text)
  if ok then return value end
  if errors.is(value) then error(value, 0) end
  return nil, "it is no JSON"
end


return M
