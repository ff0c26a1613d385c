--- What the specs of mtenant.identify share: requests, tokens, and how they ask.

local assert = require "luassert"
local crypto = require "mtenant.crypto"
local identify = require "mtenant.identify"


local SECRET = ("s"):rep(32)
local NOW = 1700000000


local M = { SECRET = SECRET, NOW = NOW, HEADER = '{"alg":"HS256","typ":"JWT"}' }


--- What a helper says of a request; without an id it says why.
function M.id_of(fn, request)
  local id, why, refused = fn(request)
  assert.is_true(id ~= nil or type(why) == "string")
  return id, why, refused
end


--- Calls fn, which must raise an error with this text.
function M.misuse(text, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.truthy(tostring(err):find(text, 1, true), tostring(err))
end


--- A part of a token.
M.part = crypto.base64url_encode


--- A token.
function M.hs256(header, payload, secret)
  local text = M.part(header) .. "." .. M.part(payload)
  return text .. "." .. M.part(crypto.hmac_sha256(secret or SECRET, text))
end


--- The payload of a good one.
function M.claims(more)
  return ('{"tenant":"acme","exp":%d%s}'):format(NOW + 100, more or "")
end


--- A request of who has it.
function M.bearer(token)
  return { headers = { authorization = "Bearer " .. token } }
end


--- The helper for the tokens above.
---@param opts? table  of jwt_claim
function M.jwt(opts)
  local all = { claim = "tenant", key = SECRET, now = function() return NOW end }
  for name, value in pairs(opts or {}) do all[name] = value end
  return identify.jwt_claim(all)
end


return M
