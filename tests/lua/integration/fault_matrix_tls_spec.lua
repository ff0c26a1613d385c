--- The fault matrix: TLS that is not what was agreed on. A certificate that
-- nobody known vouches for, or of another host; and a server without any.

local env = require "tests.support.env"
local expect = require "tests.support.matrix.expect"
local matrix = require "tests.support.matrix"


local family = { host = "localhost", sslmode = "verify-full" }


local function run(...)
  assert(os.execute((string.format(...))))
end


-- its certificate and key, put aside or in their place
local function copy(f, from, to)
  run("mkdir -p '%s/%s' && cp -p '%s/%s'/server.* '%s/%s'", f.server.dir, to,
      f.server.dir, from, f.server.dir, to)
end


function family.set_up(f)
  f.server = env.start({ tcp = true })
  f.server:use_tls()
  copy(f, "data", "another")
  f.server:use_tls()
  copy(f, "data", "known")
  f.root = f.server.dir .. "/root.crt"
  run("cp '%s/known/server.crt' '%s' && chmod 644 '%s'", f.server.dir, f.root,
      f.root)
  env.eventually("TLS", function() return f.server:psql("SHOW ssl") == "on" end)
end


function family.route(f)
  return ("postgresql://mtenant@%s:%d/mtenant?sslmode=%s&sslrootcert=%s")
    :format(f.host, f.server.port, f.sslmode, f.root)
end


-- The server reads its files again: when it has, it says so in its log.
local function reload(f)
  local log = f.server.dir .. "/start.log"
  local file = assert(io.open(log))
  local before = file:seek("end")
  env.signal(f.server, "HUP")
  env.eventually("its files to be read again", function()
    file:seek("set", before)
    return file:read("*a"):find("SIGHUP", 1, true)
  end)
  file:close()
end


local function other_host(name)
  return function(c)
    c.family.host = name
    c.manager:invalidate(c.tenant)
  end
end


local function certificate(name)
  return function(c)
    copy(c.family, name, "data")
    reload(c.family)
  end
end


local function set_ssl(state)
  return function(c)
    local file = assert(io.open(c.family.server.dir
      .. "/data/postgresql.conf", "a"))
    file:write("ssl = ", state, "\n")
    file:close()
    reload(c.family)
  end
end


family.faults = {
  {
    name = "a certificate that nobody vouches for",
    early = true,
    patience_ms = 400,
    strike = certificate("another"),
    heal = certificate("known"),
    expect = expect.untouched { connecting = "tls" },
  },
  {
    name = "a certificate of another host",
    early = true,
    patience_ms = 400,
    strike = other_host("127.0.0.1"), -- it says "localhost"
    heal = other_host("localhost"),
    expect = expect.untouched { idle = "tls", connecting = "tls" },
  },
  {
    name = "a server that has TLS no more",
    early = true,
    patience_ms = 400,
    strike = set_ssl("off"),
    heal = set_ssl("on"),
    expect = expect.untouched { connecting = "tls" },
  },
}

matrix.describe(_ENV, "TLS", family)
