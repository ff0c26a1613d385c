--- Where an admin endpoint is: how its address is written. Pure.

local core = require "mtenant.admin_core"


local DEFAULT_PORT = 9187


local M = { DEFAULT = "127.0.0.1:" .. DEFAULT_PORT }


-- "[::1]:9187", "127.0.0.1:9187", "127.0.0.1", ":9187", "9187"
local function split(text)
  local host, port = text:match("^%[([%x:.]+)%]:?(%d*)$")
  if host then return host, port end
  if text:find("^%d+$") then return "", text end
  return text:match("^([^:]*):?(%d*)$")
end


--- Takes an address apart.
---@param text string  a numeric address with a port ("127.0.0.1:9187",
--- "[::1]:9187"; without a port 9187, port 0 is any), "localhost", a port
--- alone, or a path ("unix:/run/app.sock", "/run/app.sock")
---@return table|nil place  { host, port, local_only } or { path, local_only }
---@return string|nil message
function M.parse(text)
  local path = text:match("^unix:(.+)$") or text:match("^/.+$")
  if path and path:find("%z") then return nil, "its path has a NUL byte" end
  if path then return { path = path, local_only = true } end
  local host, port = split(text)
  if not host then
    return nil, ('"%s" is no address such as 127.0.0.1:9187, [::1]:9187 or '
      .. "unix:/path"):format(text)
  end
  if host == "" or host == "localhost" then host = "127.0.0.1" end
  port = port == "" and DEFAULT_PORT or tonumber(port)
  if port > 65535 then return nil, port .. " is no port" end
  local loopback = core.is_loopback(host)
  if loopback == nil then
    return nil, ('"%s" is no numeric address'):format(host)
  end
  return { host = host, port = port, local_only = loopback }
end


--- How people write it.
---@return string  "http://127.0.0.1:9187" or "unix:/path"
function M.text(place)
  if place.path then return "unix:" .. place.path end
  local host = place.host:find(":", 1, true) and "[" .. place.host .. "]"
    or place.host
  return ("http://%s:%d"):format(host, place.port)
end


return M
