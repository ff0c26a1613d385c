--- A name server for specs, run by a plain Lua as a program of its own:
--
--   lua5.4 tests/support/dns_server.lua FILE
--
-- Prints its port. FILE says what it answers to every question, read anew each
-- time: an IPv4 address, `nxdomain`, or `hang`. It ends with its parent.

local socket = require "socket"

local file = arg[1]


local function mode()
  local f = io.open(file)
  if not f then os.exit(0) end
  local text = f:read("*l")
  f:close()
  return text
end


-- RFC 1035, 4.1: the question is sent back; type A gets the address
local function answer(query, what)
  local id, question = query:sub(1, 2), query:sub(13)
  local name_end = question:find("\0", 1, true)
  local kind = question:byte(name_end + 2)
  question = question:sub(1, name_end + 4)
  if what == "nxdomain" then
    return id .. "\x81\x83\0\1\0\0\0\0\0\0" .. question
  elseif kind ~= 1 then -- AAAA: there is none
    return id .. "\x81\x80\0\1\0\0\0\0\0\0" .. question
  end
  local a, b, c, d = what:match("(%d+)%.(%d+)%.(%d+)%.(%d+)")
  return id .. "\x81\x80\0\1\0\1\0\0\0\0" .. question
    .. "\xc0\x0c\0\1\0\1\0\0\0\0\0\4" .. string.char(a, b, c, d)
end


local udp = assert(socket.udp())
assert(udp:setsockname("127.0.0.1", 0))
udp:settimeout(1)
local _, port = udp:getsockname()
print(port)
io.stdout:flush()

while true do
  local query, host, from = udp:receivefrom()
  local what = mode()
  if query and what ~= "hang" then
    udp:sendto(answer(query, what), host, from)
  end
end
