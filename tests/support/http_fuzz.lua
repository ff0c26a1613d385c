--- Requests that were good once, and were changed at random, from a seed.

local GOOD = {
  "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
  "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain;q=0.5\r\n\r\n",
  "GET / HTTP/1.0\r\n\r\n",
  "GET /status.json?a=b HTTP/1.1\r\nHost: [::1]:9187\r\nConnection: close\r\n\r\n",
  "POST /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
  "GET /ready HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    .. "5\r\nhello\r\n0\r\n\r\n",
  "GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nope\r\n\r\n",
  "GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Basic bm86cGU=\r\n"
    .. "Expect: 100-continue\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
}

local SPICE = {
  "\0", "\r", "\n", "\r\n", "\r\n\r\n", " ", "\t", ":", "%00", "%2e%2e/", "../",
  "//", "\255\254", "\27[2J", "HTTP/1.1", "http://", "Content-Length: 99999\r\n",
  "Content-Length: -1\r\n", "Transfer-Encoding: chunked\r\n", "ffffffff\r\n",
  "Host: a\r\nHost: b\r\n", "Connection: keep-alive, close\r\n", "?", "&", "=",
  "#", ",", ";q=", ("A"):rep(300), ("\r\nX: y"):rep(50),
}

local methods = {}
local mt = { __index = methods }

local M = {}


--- One of its own: the same seed gives the same list.
---@param seed integer
function M.new(seed)
  return setmetatable({ state = seed % 2147483647 + 1 }, mt)
end


-- Park and Miller's: the same on every Lua
local function random(self, n)
  self.state = self.state * 16807 % 2147483647
  return self.state % n + 1
end


local function pick(self, list) return list[random(self, #list)] end


local CHANGES = {
  function(self, text) -- a byte is another one
    local at = random(self, #text)
    return text:sub(1, at - 1) .. string.char(random(self, 256) - 1)
      .. text:sub(at + 1)
  end,
  function(self, text) -- something is put in
    local at = random(self, #text)
    return text:sub(1, at) .. pick(self, SPICE) .. text:sub(at + 1)
  end,
  function(self, text) -- a part is gone
    local at = random(self, #text)
    return text:sub(1, at - 1) .. text:sub(at + random(self, 12))
  end,
  function(self, text) -- a part is there twice
    local at = random(self, #text)
    local part = text:sub(at, at + random(self, 20))
    return text:sub(1, at) .. part:rep(random(self, 4)) .. text:sub(at + 1)
  end,
  function(self, text) return text .. pick(self, GOOD) end,
  function(self, text) return text:sub(1, random(self, #text)) end,
}


-- what arrives in one piece, and what in several
local function parts_of(self, text)
  local parts = {}
  while #text > 0 do
    local n = random(self, 3) == 1 and random(self, 40) or #text
    parts[#parts + 1] = text:sub(1, n)
    text = text:sub(n + 1)
  end
  return parts
end


--- So many: arrays of parts, with half_closed and patience_ms.
---@param n integer
---@return table[]
function methods:list(n)
  local out = {}
  for i = 1, n do
    local text = pick(self, GOOD)
    for _ = 1, random(self, 4) do
      if #text > 0 then text = pick(self, CHANGES)(self, text) end
    end
    local case = parts_of(self, text)
    case.half_closed = random(self, 4) == 1
    case.patience_ms = random(self, 20)
    out[i] = case
  end
  return out
end


return M
