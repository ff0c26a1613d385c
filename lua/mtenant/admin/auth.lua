--- Who may ask an admin endpoint: a token, or a user with a password. Compared
-- in a time that does not depend on how much of it is right.

local core = require "mtenant.admin_core"


local equal = core.equal

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


local M = {}


--- Base 64.
---@param text string
---@return string
function M.base64(text)
  local out = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    local four = {}
    for k = 1, 4 do
      local digit = math.floor(n / 64 ^ (4 - k)) % 64 + 1
      four[k] = DIGITS:sub(digit, digit)
    end
    if not b then four[3] = "=" end
    if not c then four[4] = "=" end
    out[#out + 1] = table.concat(four)
  end
  return table.concat(out)
end


--- The first line of a file, without blanks around it.
---@return string|nil
---@return string|nil message
function M.read_secret(path)
  local file, err = io.open(path, "rb")
  if not file then return nil, err end
  local line = file:read(4096) or ""
  file:close()
  line = line:match("^[^\r\n]*"):match("^%s*(.-)%s*$")
  if line == "" then return nil, path .. ": its first line is empty" end
  return line
end


-- The credentials of an Authorization header, if it is of this scheme.
local function of_scheme(header, scheme)
  local name, rest = (header or ""):match("^(%a+) +([^%s]+)%s*$")
  return name and name:lower() == scheme and rest or nil
end


--- A function that says whether an Authorization header is good; nil: anybody
-- may ask.
---@param secrets table  token: text; basic: "user:password"
---@return fun(header: string|nil): boolean
---@return string challenge  for WWW-Authenticate
function M.new(secrets)
  local token = secrets.token
  local basic = secrets.basic and M.base64(secrets.basic)
  if not token and not basic then return nil, "" end
  local challenge = basic and 'Basic realm="mtenant", charset="UTF-8"'
    or 'Bearer realm="mtenant"'
  return function(header)
    local given = token and of_scheme(header, "bearer")
    if given and equal(given, token) then return true end
    given = basic and of_scheme(header, "basic")
    return given ~= nil and given ~= false and equal(given, basic)
  end, challenge
end


return M
