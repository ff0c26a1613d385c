--- The texts of modules that run inside a sandbox: read by the host, since
-- nothing there can.

local format, tostring, type = string.format, tostring, type
local searchpath = package.searchpath -- luacheck: ignore 143

local texts = {}


local M = {}


--- The source of one of our modules.
---@return string|nil text
---@return string|nil err
function M.of(name)
  if texts[name] then return texts[name] end
  local path, why = searchpath(name, package.path)
  if not path then return nil, why end
  local file
  file, why = io.open(path, "rb")
  if not file then return nil, why end
  local text = file:read("*a")
  file:close()
  texts[name] = text
  return text
end


-- what a policy may require, besides what is in there already
local function requirable(name)
  if name == "mtenant.identify" then return true end
  return name ~= "mtenant.policy.sandbox"
    and name:find("^mtenant%.policy%.[%w_]+$") ~= nil
end


--- The same of one that a policy may require.
function M.module(name)
  if type(name) ~= "string" or not requirable(name) then
    return nil, format("a policy file can require mtenant.policy.*, "
      .. "mtenant.identify and mtenant.crypto, not %s", tostring(name))
  end
  local text = M.of(name)
  if not text then return nil, "there is no module " .. name end
  return text
end


return M
