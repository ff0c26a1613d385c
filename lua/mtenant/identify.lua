--- Which tenant a request is of: helpers for the `identify` of a policy.
-- Each makes a function(request) that returns an id, or nil and a reason. A
-- third value, true, says that something was there and is refused: `first`
-- stops at it, so that a forged token does not fall through to a header.
--
-- A request is { host =, path =, method =, headers = {}, claims = {} }, names of
-- headers in lower case. What is in it comes from outside and is believed to be
-- nothing but text. Pure; also runs in a policy's sandbox.

local crypto = require "mtenant.crypto"
local json = require "mtenant.json"

-- in a sandbox there is none
local has_errors, errors = pcall(require, "mtenant.errors")

local char, format, ipairs, pairs = string.char, string.format, ipairs, pairs
local tonumber, tostring, type = tonumber, tostring, type


local LONGEST_ID = 255
local LONGEST_TOKEN = 16384
local LONGEST_HOST = 253
local SHORTEST_SECRET = 32 -- RFC 7518, 3.2
local LEEWAY_MS = 60000


local M = {}


local function misuse(fmt, ...)
  local text = "identify." .. format(fmt, ...)
  if has_errors then errors.misuse(4, "%s", text) end
  error(text, 4)
end


local function need(value, wanted, name)
  if type(value) ~= wanted then
    misuse("%s must be a %s, got %s", name, wanted, type(value))
  end
  return value
end


local function check_options(opts, known, name)
  need(opts, "table", name .. ": its argument")
  for key in pairs(opts) do
    if not known[key] then misuse("%s: unknown option %s", name, tostring(key)) end
  end
end


local function refuse(fmt, ...)
  return nil, format(fmt, ...), true
end


-- What may be an id: text of one word. Which ids are valid says the config's
-- id_pattern, later.
local function word(value, what)
  if value == nil or value == "" then return nil, what .. " is missing" end
  if type(value) ~= "string" then
    return refuse("%s is a %s", what, type(value))
  end
  if #value > LONGEST_ID then
    return refuse("%s is longer than %d bytes", what, LONGEST_ID)
  end
  if value:find("[%c%s,;\"\\\127-\255]") then
    return refuse("%s has characters that no id has", what)
  end
  return value
end


-- a header that may have been sent once
local function header_of(request, name)
  local value = type(request.headers) == "table" and request.headers[name]
  if type(value) == "table" then
    if value[2] ~= nil then
      return refuse("the header %s was sent more than once", name)
    end
    value = value[1]
  end
  if not value then return nil, format("the header %s is missing", name) end
  if type(value) ~= "string" then
    return refuse("the header %s is a %s", name, type(value))
  end
  return (value:gsub("^[ \t]+", ""):gsub("[ \t]+$", ""))
end


-- ---- host ------------------------------------------------------------------------

-- Lower case, without the port and the root's dot. IDN comes as ASCII (xn--).
local function host_name(host)
  if type(host) ~= "string" or host == "" then
    return nil, "the host is missing"
  end
  if #host > LONGEST_HOST + 7 or host:find("[^%w.:_-]") then
    return refuse("the host is no name")
  end
  local name, port = host:match("^([^:]+):?(%d*)$")
  if not name or #port > 5 then return refuse("the host is no name") end
  name = name:lower():gsub("%.$", "")
  if #name > LONGEST_HOST or name == "" then
    return refuse("the host is no name")
  end
  return name
end


local function is_label(label)
  return #label <= 63 and label:find("^[%l%d][%l%d-]*$") ~= nil
    and label:sub(-1) ~= "-"
end


local function bases(base)
  local out = {}
  for i, name in ipairs(type(base) == "table" and base or { base }) do
    local host = host_name(need(name, "string", "subdomain: base"))
    if not host then misuse("subdomain: base %q is no host name", name) end
    out[i] = "." .. host
  end
  if #out == 0 then misuse("subdomain: base is missing") end
  return out
end


local function set_of(list, name)
  local out = {}
  for _, item in ipairs(need(list, "table", name)) do
    out[need(item, "string", name .. "[]"):lower()] = true
  end
  return out
end


--- The label in front of a domain: "acme" of acme.example.com.
---@param opts table  base = "example.com", or a list of such; ignore = labels
--  that are no tenants ("www" is none)
---@return fun(request: table): string|nil, string|nil, boolean|nil
function M.subdomain(opts)
  check_options(opts, { base = true, ignore = true }, "subdomain")
  local suffixes = bases(opts.base)
  local ignored = set_of(opts.ignore or { "www" }, "subdomain: ignore")
  return function(request)
    local host, why, refused = host_name(request.host)
    if not host then return nil, why, refused end
    for i = 1, #suffixes do
      local suffix = suffixes[i]
      if host == suffix:sub(2) then
        return nil, "the host has no subdomain"
      elseif host:sub(-#suffix) == suffix then
        local label = host:sub(1, -#suffix - 1)
        if ignored[label] then return nil, label .. " is no tenant" end
        if is_label(label) then return label end
        return refuse("the subdomain is no single label")
      end
    end
    return nil, "the host is in another domain"
  end
end


-- ---- headers, cookies, claims ----------------------------------------------------

--- The value of a header.
---@param name string  in any case
function M.header(name)
  name = need(name, "string", "header: name"):lower()
  return function(request)
    local value, why, refused = header_of(request, name)
    if not value then return nil, why, refused end
    return word(value, "the header " .. name)
  end
end


-- one line, also of those that HTTP/2 has taken apart
local function cookie_line(request)
  local value = type(request.headers) == "table" and request.headers.cookie
  if type(value) == "table" then
    local parts = {}
    for i, part in ipairs(value) do parts[i] = tostring(part) end
    value = table.concat(parts, "; ")
  end
  return type(value) == "string" and value or nil
end


-- Two of one name and different values: the other one may be a neighbour's, who
-- has set it for the whole domain.
local function cookie_of(request, name)
  local line, found = cookie_line(request), nil
  for pair in (line or ""):gmatch("[^;]+") do
    local key, value = pair:match("^%s*([^=%s]+)%s*=%s*(.-)%s*$")
    if key == name then
      value = value:match('^"(.*)"$') or value
      if found and found ~= value then
        return refuse("the cookie %s was sent twice", name)
      end
      found = value
    end
  end
  if not found then return nil, format("the cookie %s is missing", name) end
  return found
end


--- The value of a cookie.
---@param name string
function M.cookie(name)
  need(name, "string", "cookie: name")
  return function(request)
    local value, why, refused = cookie_of(request, name)
    if not value then return nil, why, refused end
    return word(value, "the cookie " .. name)
  end
end


--- A claim of request.claims, which who calls has verified.
---@param name string
function M.claim(name)
  need(name, "string", "claim: name")
  return function(request)
    local claims = request.claims
    return word(type(claims) == "table" and claims[name] or nil,
                "the claim " .. name)
  end
end


-- ---- path ------------------------------------------------------------------------

local function decoded(segment)
  if segment:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
  return (segment:gsub("%%(%x%x)", function(hex)
    return char(tonumber(hex, 16))
  end))
end


--- A segment of the path, from 1: "acme" of /acme/users.
---@param n number
function M.path_segment(n)
  need(n, "number", "path_segment: n")
  if n < 1 or n % 1 ~= 0 then
    misuse("path_segment: n must be a whole number from 1 on")
  end
  return function(request)
    local path, i = request.path, 0
    if type(path) ~= "string" then return nil, "the path is missing" end
    if path:sub(1, 1) ~= "/" then return refuse("the path begins with no /") end
    for raw in (path:match("^/([^?#]*)") .. "/"):gmatch("([^/]*)/") do
      i = i + 1
      local segment = decoded(raw)
      -- proxies and frameworks differ in what they make of these
      if not segment or segment == "." or segment == ".."
         or segment:find("/", 1, true) then
        return refuse("the path is ambiguous")
      end
      if i == n then
        return word(segment, format("segment %d of the path", n))
      end
      if segment == "" and #path > 1 then
        return refuse("the path has an empty segment")
      end
    end
    return nil, format("the path has no segment %d", n)
  end
end


-- ---- JSON Web Tokens ---------------------------------------------------------------

-- A key says how it is used; a token has no say in that.
local function check_key(key, name)
  if type(key) ~= "table" or (key.key == nil) == (key.public_key == nil) then
    misuse("%s: a key is one of key (HS256) and public_key (RS256)", name)
  end
  if key.public_key then
    need(key.public_key, "string", name .. ": public_key")
    local ok, why = crypto.verify_rs256(key.public_key, "", "")
    if ok == nil then misuse("%s: public_key: %s", name, why) end
    return { alg = "RS256", text = key.public_key }
  end
  need(key.key, "string", name .. ": key")
  if key.key:find("-----BEGIN", 1, true) then
    misuse("%s: key is a secret, a PEM is a public_key", name)
  end
  if #key.key < SHORTEST_SECRET then
    misuse("%s: key has less than %d bytes", name, SHORTEST_SECRET)
  end
  return { alg = "HS256", text = key.key }
end


-- by kid; the one of key "" is for tokens of any other kid
local function check_keys(opts)
  local out = {}
  if opts.keys == nil then
    out[""] = check_key(opts, "jwt_claim")
  else
    if opts.key ~= nil or opts.public_key ~= nil then
      misuse("jwt_claim: keys stands for key and public_key")
    end
    for kid, key in pairs(need(opts.keys, "table", "jwt_claim: keys")) do
      out[need(kid, "string", "jwt_claim: a kid")] =
        check_key(key, "jwt_claim: keys." .. kid)
    end
  end
  for _, key in pairs(out) do
    if opts.alg ~= nil and opts.alg ~= key.alg then
      misuse("jwt_claim: alg is %s, its key is for %s", tostring(opts.alg),
             key.alg)
    end
  end
  return out
end


local VERIFY = {
  HS256 = function(secret, text, signature)
    return crypto.equal(crypto.hmac_sha256(secret, text), signature)
  end,
  RS256 = function(pem, text, signature)
    return crypto.verify_rs256(pem, text, signature) == true
  end,
}


local function object_of(part)
  local text = crypto.base64url_decode(part)
  local value = text and json.decode(text)
  return type(value) == "table" and value or nil
end


-- the payload of a token whose signature is right
local function verified(token, keys)
  if #token > LONGEST_TOKEN then return refuse("the token is too long") end
  local signed, head, body, sum = token:match("^(([%w_-]+)%.([%w_-]+))%.([%w_-]+)$")
  local header = signed and object_of(head)
  if not header then return refuse("it is no token") end
  if header.crit ~= nil then
    return refuse("the token says that it must be understood (crit)")
  end
  local key = type(header.kid) == "string" and keys[header.kid] or keys[""]
  if not key then return refuse("the token's key is not known") end
  if header.alg ~= key.alg then
    return refuse("the token is not signed by %s", key.alg)
  end
  local signature = crypto.base64url_decode(sum)
  if not signature or not VERIFY[key.alg](key.text, signed, signature) then
    return refuse("the token's signature is wrong")
  end
  local claims = object_of(body)
  if not claims then return refuse("the token has no claims") end
  return claims
end


-- a time that a claim says, in ms; nil, true: it says nonsense
local function time_of(claims, name)
  local value = claims[name]
  if value == nil then return nil end
  if type(value) ~= "number" or value ~= value or value < -2 ^ 53
     or value > 2 ^ 53 then
    return nil, true
  end
  return value * 1000
end


local function time_problem(claims, rules)
  local now = rules.now() * 1000
  local exp, bad_exp = time_of(claims, "exp")
  local nbf, bad_nbf = time_of(claims, "nbf")
  if bad_exp or bad_nbf then return "the token's times are no numbers" end
  if not exp and rules.require_exp then return "the token never expires" end
  if exp and now >= exp + rules.leeway_ms then return "the token has expired" end
  if nbf and now < nbf - rules.leeway_ms then
    return "the token is not valid yet"
  end
end


-- A token that is for somebody is not for us, unless we are named.
local function audience_problem(claims, rules)
  if claims.aud == nil and not rules.audience then return nil end
  local for_whom = type(claims.aud) == "table" and claims.aud or { claims.aud }
  for _, name in ipairs(for_whom) do
    if rules.audience and rules.audience == name then return nil end
  end
  return "the token is for another audience"
end


local function claims_problem(claims, rules)
  if rules.issuer and claims.iss ~= rules.issuer then
    return "the token is by another issuer"
  end
  return audience_problem(claims, rules) or time_problem(claims, rules)
end


-- where a token comes from: Authorization: Bearer
local function bearer(request)
  local value, why, refused = header_of(request, "authorization")
  if not value then return nil, why, refused end
  local token = value:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(%S+)$")
  if not token then return nil, "the header authorization is no bearer's" end
  return token
end


local JWT_OPTIONS = {
  claim = true, key = true, public_key = true, keys = true, alg = true,
  issuer = true, audience = true, leeway_ms = true, require_exp = true,
  cookie = true, now = true,
}


local function rules_of(opts)
  check_options(opts, JWT_OPTIONS, "jwt_claim")
  need(opts.claim, "string", "jwt_claim: claim")
  if not json.decode("{}") then
    misuse("jwt_claim needs lua-cjson or dkjson, and neither is installed")
  end
  for _, name in ipairs({ "issuer", "audience", "cookie", "alg" }) do
    if opts[name] ~= nil then
      need(opts[name], "string", "jwt_claim: " .. name)
    end
  end
  return {
    issuer = opts.issuer, audience = opts.audience,
    require_exp = opts.require_exp ~= false,
    leeway_ms = need(opts.leeway_ms or LEEWAY_MS, "number",
                     "jwt_claim: leeway_ms"),
    now = need(opts.now or os.time, "function", "jwt_claim: now"),
  }
end


--- A claim of a JSON Web Token, verified here. The token is taken from
-- `Authorization: Bearer`, or from a cookie.
---@param opts table  claim; one of key (the secret of HS256), public_key (the
--  PEM of RS256), keys (by kid, each with one of these); alg (must be the
--  key's), issuer, audience, leeway_ms (60000), require_exp (true), cookie (its
--  name), now (function: seconds since 1970)
function M.jwt_claim(opts)
  local rules = rules_of(opts)
  local keys, claim, cookie = check_keys(opts), opts.claim, opts.cookie
  return function(request)
    local token, why, refused
    if cookie then
      token, why, refused = cookie_of(request, cookie)
    else
      token, why, refused = bearer(request)
    end
    if not token then return nil, why, refused end
    local claims
    claims, why, refused = verified(token, keys)
    if not claims then return nil, why, refused end
    local problem = claims_problem(claims, rules)
    if problem then return refuse("%s", problem) end
    local id, reason = word(claims[claim], "the claim " .. claim)
    return id, reason, id == nil or nil
  end
end


-- ---- together --------------------------------------------------------------------

--- The first of several that finds an id. One that refuses what it found ends
-- the search.
---@param list table  functions that the others made, or your own
function M.first(list)
  need(list, "table", "first: its argument")
  if #list == 0 then misuse("first: the list is empty") end
  for i = 1, #list do need(list[i], "function", "first: [" .. i .. "]") end
  return function(request)
    local reasons = {}
    for i = 1, #list do
      local id, why, refused = list[i](request)
      if id ~= nil then return id end
      if refused then return nil, why, true end
      reasons[#reasons + 1] = tostring(why)
    end
    return nil, table.concat(reasons, "; ")
  end
end


return M
