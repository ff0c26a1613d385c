--- Who may ask an admin endpoint: a token, or a user with a password. Compared
-- in a time that does not depend on how much of it is right.

local crypto = require "mtenant.crypto"


local M = {}


--- Base 64.
---@param text string
---@return string
function M.base64(text)
  local out = crypto.base64url_encode(text):gsub("[-_]", { ["-"] = "+", _ = "/" })
  return out .. ("="):rep(-#text % 3)
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


-- Does a text equal the one of this sum? Takes as long for every text of one
-- length.
local function is_of(sum, text)
  return crypto.equal(crypto.sha256(text), sum)
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
  local token = secrets.token and crypto.sha256(secrets.token)
  local basic = secrets.basic and crypto.sha256(M.base64(secrets.basic))
  if not token and not basic then return nil, "" end
  local challenge = basic and 'Basic realm="mtenant", charset="UTF-8"'
    or 'Bearer realm="mtenant"'
  return function(header)
    local given = token and of_scheme(header, "bearer")
    if given and is_of(token, given) then return true end
    given = basic and of_scheme(header, "basic")
    return given and is_of(basic, given) or false
  end, challenge
end


return M
