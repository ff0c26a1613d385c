--- The fault matrix: names of hosts. A name server that does not answer, that
-- knows no such name, or that tells another address than before.

local env = require "tests.support.env"
local expect = require "tests.support.matrix.expect"
local host = require "mtenant.host"
local matrix = require "tests.support.matrix"


local family = {}


-- at once: it may be read at any time
local function say(f, what)
  local file = assert(io.open(f.answers .. ".new", "w"))
  file:write(what, "\n")
  file:close()
  assert(os.rename(f.answers .. ".new", f.answers))
end


function family.set_up(f)
  f.server = env.start({ tcp = true })
  f.answers = os.tmpname()
  say(f, "127.0.0.1")
  -- busted's own interpreter may have no sockets
  f.dns = assert(io.popen("lua5.4 tests/support/dns_server.lua " .. f.answers
    .. " </dev/null & echo pid $!"))
  for _ = 1, 2 do
    local line = f.dns:read("l")
    f.pid = f.pid or line:match("^pid (%d+)")
    f.port = f.port or line:match("^(%d+)$")
  end
  host.set_name_servers({ "127.0.0.1:" .. f.port })
end


function family.tear_down(f)
  os.remove(f.answers) -- it ends by that, if not by this
  os.execute("kill " .. f.pid)
  f.dns:close()
end


-- the database of a name that only this name server knows
function family.route(f)
  return (f.server.tcp_url or f.server.url):gsub("127%.0%.0%.1", "db.victim.test")
end


local function says(what)
  return function(c) say(c.family, what) end
end


family.faults = {
  {
    name = "DNS that hangs",
    early = true,
    timeout_ms = 600,
    strike = says("hang"),
    heal = says("127.0.0.1"),
    expect = expect.untouched {
      connecting = "dns retryable | timeout retryable",
    },
  },
  {
    name = "NXDOMAIN",
    early = true,
    strike = says("nxdomain"),
    heal = says("127.0.0.1"),
    expect = expect.untouched { connecting = "dns retryable" },
  },
  {
    name = "DNS that tells another address",
    early = true,
    strike = says("127.0.0.9"), -- where nobody is
    heal = says("127.0.0.1"),
    expect = expect.untouched { connecting = "refused retryable" },
  },
}

matrix.describe(_ENV, "names of hosts", family)
