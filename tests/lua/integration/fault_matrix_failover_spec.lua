--- The fault matrix, 5: the primary dies, and its streaming standby is promoted.

local env = require "tests.support.env"
local expect = require "tests.support.matrix.expect"
local matrix = require "tests.support.matrix"
local server = require "tests.support.matrix.server"


local function set_synchronous(primary, names)
  primary:psql(("ALTER SYSTEM SET synchronous_standby_names = '%s'")
    :format(names))
  primary:psql("SELECT pg_reload_conf()")
end


-- each cell uses one up
local function get_standby(f)
  if f.standby then return true end
  set_synchronous(f.server, "")
  f.standby = env.standby(f.server)
  set_synchronous(f.server, "*") -- what is acknowledged is on both
  env.eventually("replication to be synchronous", function()
    return f.server:psql("SELECT sync_state FROM pg_stat_replication") == "sync"
  end)
  return true
end


local function promote(c)
  local old, new = c.server, c.family.standby
  set_synchronous(new, "") -- it has no standby of its own yet
  new:promote_in_background(0)
  env.eventually("the promotion", function()
    return env.try_sql("SELECT pg_is_in_recovery()", new) == "f"
  end, 20000)
  c.server, c.family.server, c.family.standby = new, new, nil
  env.close(old)
end


local family = {
  set_up = function(f) f.server = env.start() end,
  route = function(f)
    local a, b = f.server, f.standby or f.server
    return ("host=%s,%s port=%d,%d user=mtenant dbname=mtenant "
      .. "target_session_attrs=read-write"):format(a.dir, b.dir, a.port, b.port)
  end,
  hold = server.hold,
  tear_down = function(f)
    if f.standby then env.close(f.standby) end
  end,
}

-- one host refuses, the other one is read-only
local DOWN = "unreachable retryable | connection_lost retryable"

family.faults = {
  {
    name = "promotion of a streaming standby",
    breaks = true,
    needs = get_standby,
    strike = function(c) server.end_by(c, "QUIT") end,
    heal = promote,
    expect = expect.lost {
      idle = "connection_lost ambiguous | " .. DOWN,
      connecting = DOWN,
      waiting = DOWN,
    },
  },
}


matrix.describe(_ENV, "failover", family)
