--- The fault proxy (tests/proxy) for specs: a TCP proxy before a server, in a
--- process of its own, which ends with this one.
--
--     local proxy = require "tests.support.proxy"
--     local p = proxy.start(server) -- or the path of a socket, or a port
--     p.url                         -- the server's, by way of the proxy
--     p:cut { direction = "down", at = 100, how = "rst" }
--     p:normal()
--     p:stop()
--
-- A direction is "up" (what the client says), "down" (what the server says)
-- or "both". What each command does is in the head of tests/proxy/main.c. A
-- command is in force when its call returns; it blocks that long (some 0.1 ms).

local M = {}

local methods = {}
local mt = { __name = "fault proxy", __index = methods }


local function program()
  return (os.getenv("MT_BUILD_DIR") or "build/release") .. "/tests/fault-proxy"
end


local function target_of(server)
  if type(server) ~= "table" then return tostring(server) end
  return ("%s/.s.PGSQL.%d"):format(server.dir, server.port)
end


--- Starts one. `server` is one of tests/support/pg.lua, the path of a unix
-- socket, or a port of 127.0.0.1.
function M.start(server)
  local fifo = os.tmpname()
  os.remove(fifo)
  assert(os.execute("mkfifo '" .. fifo .. "'"))
  local input = assert(io.popen(("exec '%s' '%s' >'%s'"):format(
    program(), target_of(server), fifo), "w"))
  local output = assert(io.open(fifo, "r"))
  os.remove(fifo)
  local port = (output:read("l") or ""):match("^ready (%d+)$")
  if not port then error("the fault proxy did not start", 2) end
  return setmetatable({
    input = input, output = output, port = tonumber(port),
    url = ("postgresql://mtenant@127.0.0.1:%s/mtenant"):format(port),
  }, mt)
end


--- Sends one command and returns what it answered: a table of counts.
function methods:command(...)
  self.input:write(table.concat({ ... }, " "), "\n")
  self.input:flush()
  local answer = self.output:read("l") or "nothing: it has ended"
  if not answer:find("^ok") then error("fault proxy: " .. answer, 2) end
  local counts = {}
  for name, n in answer:gmatch("(%w+)=(%d+)") do counts[name] = tonumber(n) end
  return counts
end


--- Every byte comes `ms` later. `direction` is "both" unless given; so below.
function methods:delay(ms, direction)
  return self:command("delay", direction or "both", ms)
end


--- No more than so many bytes a second.
function methods:throttle(bytes_per_s, direction)
  return self:command("rate", direction or "both", bytes_per_s)
end


--- Swallows all bytes.
function methods:drop(direction)
  return self:command("drop", direction or "both")
end


--- Random bytes in the place of the server's, from byte `at` (0) of a
-- connection on; `seed` chooses them.
function methods:garbage(opts)
  opts = opts or {}
  return self:command("garbage", opts.at or 0, opts.seed or 1)
end


local function cut(self, command, opts)
  return self:command(command, opts.direction or "down",
                      ("%d"):format(opts.at or 0), opts.how or "rst")
end


--- Cuts the next connection when `at` bytes have passed in `direction`
-- ("down"), by `how`: "rst", "fin" or "silence". With `every`, all to come.
function methods:cut(opts)
  return cut(self, opts.every and "cut-every" or "cut", opts)
end


--- The same for the connections that are open: when `at` more have passed.
function methods:cut_open(opts) return cut(self, "cut-open", opts) end


--- RST for all open connections; new ones work.
function methods:reset() return self:command("reset") end


--- From now on nothing moves, and nobody is told: half-open connections. New
-- ones are accepted, and hear nothing.
function methods:blackhole() return self:command("silent") end


--- A blackhole whose kernel is gone as well: nothing that comes is
-- acknowledged, as with a host that lost its power. What the client had not
-- acknowledged yet is still sent again: let it be quiet for 100 ms before.
function methods:deaf() return self:command("deaf") end


--- Connects are refused; what is open goes on.
function methods:refuse() return self:command("refuse") end


--- Ends all faults. What was held back moves again.
function methods:normal() return self:command("normal") end


--- Where connections to come go.
function methods:target(server)
  return self:command("target", target_of(server))
end


--- `accepted` (so far), `open`; `up` and `down`: bytes of the newest connection.
function methods:stats() return self:command("stats") end


--- Ends it, and with it every connection. Idempotent.
function methods:stop()
  if not self.input then return end
  self.input:close()
  self.output:close()
  self.input = nil
end


return M
