--- For specs of the admin endpoint: sockets that send what no client would, from
-- the loop that serves them. What reads or waits runs in a task.
--
--     local client = require "tests.support.http_client"
--     local answer = client.get(endpoint, "/health")
--     local peer = client.open(endpoint)
--     peer:send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
--     local bytes, closed = peer:read(1000)

local core = require "mtenant.core"
local mtenant = require "mtenant"
local socket = require "socket"

local STEP_MS = 2

local methods = {}
local mt = { __index = methods }

local M = {}


local function pause()
  if not mtenant.sleep(STEP_MS) then error("cut off while waiting", 0) end
end


local function connect(endpoint)
  local url = endpoint:url()
  local path = url:match("^unix:(.*)$")
  if path then
    local sock = assert(require("socket.unix").stream())
    assert(sock:connect(path))
    return sock
  end
  local host, port = url:match("^http://(.*):(%d+)$")
  local sock = assert(host:find("[", 1, true) and socket.tcp6() or socket.tcp4())
  sock:settimeout(0)
  sock:connect((host:gsub("[%[%]]", "")), tonumber(port))
  return sock
end


--- Closes an endpoint, and lets what it had asked the servers hear of it.
function M.close_endpoint(endpoint)
  if not endpoint then return end
  endpoint:close()
  mtenant.run(mtenant.sleep, 20)
end


--- A connection; it may be refused later.
function M.open(endpoint)
  local sock = connect(endpoint)
  sock:settimeout(0)
  return setmetatable({ sock = sock, got = "" }, mt)
end


--- Sends all; false: the other side has closed.
function methods:send(bytes, limit_ms)
  local at, until_ms = 1, core.now_ms() + (limit_ms or 5000)
  while at <= #bytes do
    local last, err, partial = self.sock:send(bytes, at)
    if not last and err ~= "timeout" then return false end
    at = (last or partial) + 1
    if at <= #bytes then
      if core.now_ms() > until_ms then return false end
      pause()
    end
  end
  return true
end


--- Reads until condition(bytes), the end, or the limit. Returns what there is
-- and whether the other side has closed.
function methods:read(limit_ms, condition)
  local until_ms = core.now_ms() + limit_ms
  while true do
    local data, err, partial = self.sock:receive(65536)
    self.got = self.got .. (data or partial or "")
    if err == "closed" or err and err ~= "timeout" then return self.got, true end
    if condition and condition(self.got) then return self.got, false end
    if core.now_ms() > until_ms then return self.got, false end
    pause()
  end
end


--- Ends its own side; the other one may still answer.
function methods:shutdown() self.sock:shutdown("send") end


function methods:close() self.sock:close() end


--- The first answer in bytes: { status, headers, body, rest }, or nil as long as
-- it is not there.
function M.parse(bytes, is_head)
  local head, rest = bytes:match("^(HTTP/1%.1 .-\r\n)\r\n(.*)$")
  if not head then return nil end
  local answer = { status = tonumber(head:match("^HTTP/1%.1 (%d+)")),
                   headers = {} }
  for name, value in head:gmatch("\r\n([^:]+): *([^\r]*)") do
    answer.headers[name:lower()] = value
  end
  local n = is_head and 0 or tonumber(answer.headers["content-length"])
  if not n or #rest < n then return nil end
  answer.body, answer.rest = rest:sub(1, n), rest:sub(n + 1)
  return answer
end


--- The answer to a request of a decent client.
---@param endpoint mtenant.Admin
---@param path string
---@param o? table  method, headers
function M.get(endpoint, path, o)
  o = o or {}
  local method = o.method or "GET"
  local lines = { method .. " " .. path .. " HTTP/1.1", "Host: localhost" }
  for name, value in pairs(o.headers or {}) do
    lines[#lines + 1] = name .. ": " .. value
  end
  local peer = M.open(endpoint)
  assert(peer:send(table.concat(lines, "\r\n") .. "\r\n\r\n"))
  local answer
  peer:read(10000, function(bytes)
    answer = M.parse(bytes, method == "HEAD")
    return answer
  end)
  peer:close()
  return assert(answer, "no answer to " .. path .. ": " .. peer.got)
end


return M
