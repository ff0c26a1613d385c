--- What an admin endpoint makes of a request before anybody works on it: what is
-- no request of ours is refused here, at once. Pure, but for the log.

local core = require "mtenant.core"


local NOSNIFF = "nosniff"

-- one line in so many milliseconds about those who were refused
local LOG_MS = 1000


local TEXT = "text/plain; charset=utf-8"

local REASONS = {
  [400] = "bad request", [401] = "unauthorized", [403] = "forbidden",
  [404] = "not found", [405] = "method not allowed",
  [413] = "a request takes no body", [414] = "too long",
  [500] = "internal error", [503] = "unavailable",
}


local M = { TEXT = TEXT }


--- The headers of an answer.
---@param content_type string
---@param more? table
---@return table
function M.headers(content_type, more)
  local out = { ["Content-Type"] = content_type, ["Cache-Control"] = "no-store",
                ["X-Content-Type-Options"] = NOSNIFF }
  for name, value in pairs(more or {}) do out[name] = value end
  return out
end


--- status, headers and body that say no more than the status does.
---@param status integer
---@param more? table  headers
function M.plain(status, more)
  return status, M.headers(TEXT, more), REASONS[status] .. "\n"
end


--- For logs: what is no printable ASCII as \x1b.
---@param text string
---@return string
function M.escape(text)
  return (text:sub(1, 200):gsub("[^\32-\126]", function(c)
    return ("\\x%02x"):format(c:byte())
  end))
end


--- The path of a target that hides nothing, or nil.
---@param target string  as it was sent
---@return string|nil
function M.path_of(target)
  local path, query = target:match("^([^?]*)%??(.*)$")
  if not path:find("^/[%w._/-]*$") or query:find("[%c\127-\255]") then
    return nil
  end
  if path:find("//", 1, true) or ("/" .. path .. "/"):find("/%.%.?/") then
    return nil
  end
  return path
end


-- A page in a browser reaches this machine by a name of its own that it lets
-- point here; who asks by an address or as localhost is no such page.
local function is_own_host(host)
  if not host then return true end
  local name = host:lower():gsub(":%d+$", "")
  return name == "localhost" or name == "" or name:find("^%[[%x:.]+%]$") ~= nil
    or name:find("^%d+%.%d+%.%d+%.%d+$") ~= nil
end


local function refusals(log)
  local last, unsaid = -LOG_MS, 0
  return function(request, status)
    local now = core.now_ms()
    if now - last < LOG_MS then
      unsaid = unsaid + 1
      return
    end
    log(("admin endpoint: %d to %s: %s %s%s"):format(status, request.address,
      M.escape(request.method), M.escape(request.target),
      unsaid > 0 and (" (and %d more)"):format(unsaid) or ""))
    last, unsaid = now, 0
  end
end


--- The function that takes every request.
---@param o table  routes: path -> function(request); authorized, challenge: of
--- auth.lua; checks_host; start(route, request): answers later; log(message)
---@return fun(request: table): integer|nil, table|nil, string|nil
function M.new(o)
  local note = refusals(o.log)
  local function refuse(request, status, more)
    note(request, status)
    return M.plain(status, more)
  end
  return function(request)
    -- with a body it comes here before that was read
    local close = request.body and { Connection = "close" } or {}
    local path = M.path_of(request.target)
    if request.too_long then return refuse(request, 414, close) end
    if not path then return refuse(request, 400, close) end
    if o.checks_host and not is_own_host(request.host) then
      return refuse(request, 403, close)
    end
    if o.authorized and not o.authorized(request.authorization) then
      close["WWW-Authenticate"] = o.challenge
      return refuse(request, 401, close)
    end
    local route = o.routes[path]
    if not route then return refuse(request, 404, close) end
    if request.method ~= "GET" and request.method ~= "HEAD" then
      close.Allow = "GET, HEAD"
      return refuse(request, 405, close)
    end
    if request.body then return refuse(request, 413, close) end
    return o.start(route, request)
  end
end


return M
