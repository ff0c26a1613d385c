--- The fault matrix, 3: servers that are there, and do not want.

local env = require "tests.support.env"
local expect = require "tests.support.matrix.expect"
local matrix = require "tests.support.matrix"
local mtenant = require "mtenant"
local server = require "tests.support.matrix.server"


local HBA = "local all all trust\nhost all app 127.0.0.1/32 scram-sha-256\n"
  .. "host all all 127.0.0.1/32 trust"
local SLOTS = 12 -- of which the superuser keeps 3


-- A disk of 2 MiB for the tables; only root can have one. It goes away with
-- the server.
local function make_disk(f)
  f.disk = f.server.dir .. "/disk"
  f.has_disk = os.execute(([[
    mkdir '%s' && mount -t tmpfs -o size=2m,mode=777 tmpfs '%s' 2>/dev/null
  ]]):format(f.disk, f.disk))
  if not f.has_disk then return end
  assert(os.execute(("mkdir '%s/space' && chown --reference='%s/data' '%s/space'")
    :format(f.disk, f.server.dir, f.disk)))
  f.server:psql(("CREATE TABLESPACE small LOCATION '%s/space';"
    .. "GRANT ALL ON TABLESPACE small TO mtenant"):format(f.disk))
  f.table_options = "TABLESPACE small"
end


local family = {
  host = "127.0.0.1",
  set_up = function(f)
    f.server = env.start({
      tcp = true, hba = HBA, conf = { max_connections = SLOTS, hot_standby = "off" },
    })
    f.server:psql([[
      CREATE ROLE app LOGIN PASSWORD 'first' IN ROLE mtenant;
      GRANT pg_read_all_stats TO mtenant]])
    make_disk(f)
  end,
  route = function(f)
    return ("postgresql://app:first@%s:%d/mtenant"):format(f.host,
      f.server.port)
  end,
}


-- ---- all connections taken --------------------------------------------------------

-- Takes every slot that is free, and every one that becomes free.
local function take_slots(c)
  c.hog = env.manager({ connection = {
    application_name = "hog", max_connections = 2 * SLOTS,
    pool = { max = 2 * SLOTS },
  } }, { url = ("postgresql://mtenant@/mtenant?host=%s&port=%d"):format(
    c.server.dir, c.server.port) })
  local db = assert(c.hog:get_db(c.tenant))
  for _ = 1, SLOTS do
    mtenant.spawn(function()
      while not c.hog_over do
        db:session(function(s)
          if not s:query("SELECT 1") then return end
          while not c.hog_over do mtenant.sleep(2) end
        end)
        mtenant.sleep(2)
      end
    end)
  end
  env.eventually("all slots to be taken", function()
    return tonumber(env.sql("SELECT count(*) FROM pg_stat_activity WHERE "
      .. "backend_type = 'client backend'", c.server)) >= SLOTS - 3
  end)
end


local function free_slots(c)
  c.hog_over = true
  c.hog:dispose()
end


-- ---- a full disk ------------------------------------------------------------------

local function fill_disk(c)
  c.server:psql([[
    CREATE TABLE t_victim.filler (x text) WITH (fillfactor = 10)
      TABLESPACE small;
    DO $$ BEGIN
      LOOP
        BEGIN
          INSERT INTO t_victim.filler VALUES (repeat('x', 700));
        EXCEPTION WHEN disk_full THEN EXIT;
        END;
      END LOOP;
    END $$]])
end


local function clear_disk(c)
  c.server:psql("DROP TABLE t_victim.filler")
end


-- ---- no more file descriptors -----------------------------------------------------

local function own_pid()
  local file = assert(io.open("/proc/self/stat"))
  local pid = file:read("n")
  file:close()
  return pid
end


-- From the first number that is free on: what is open stays open. No program
-- could be started to end that, so one waits for it.
local function take_descriptors(c)
  local pid, taken, first = own_pid(), {}, 3
  c.helper = assert(io.popen(("read go; prlimit --pid %d --nofile=$(ulimit -n):")
    :format(pid), "w"))
  local pipe = assert(io.popen(("ls /proc/%d/fd"):format(pid)))
  for name in pipe:lines() do taken[tonumber(name)] = true end
  pipe:close()
  while taken[first] do first = first + 1 end
  assert(os.execute(("prlimit --pid %d --nofile=%d:"):format(pid, first)))
end


local function free_descriptors(c)
  c.helper:close()
end


-- ---- recovery ---------------------------------------------------------------------

local function touch(c, name)
  assert(io.open(c.server.dir .. "/data/" .. name, "w")):close()
end


-- Comes back as a standby that follows nobody and serves nobody.
local function recover(c)
  server.end_by(c, "INT")
  touch(c, "standby.signal")
  c.server:start_in_background(0)
  env.eventually("recovery", function()
    local _, why = env.try_sql("SELECT 1", c.server)
    return why and why:find("not accepting connections", 1, true)
  end, 10000)
end


local function promote(c)
  touch(c, "promote")
  env.signal(c.server, "USR1")
  server.await_ready(c)
end


local DOWN = "refused retryable | starting_up retryable | connection_lost retryable"
local ENDED = expect.ENDED

family.faults = {
  {
    name = "too many connections",
    early = true,
    strike = take_slots,
    heal = free_slots,
    expect = expect.untouched {
      connecting = "too_many_connections retryable",
    },
  },
  {
    name = "connection limit of the role",
    early = true,
    strike = function(c) c.server:psql("ALTER ROLE app CONNECTION LIMIT 0") end,
    heal = function(c) c.server:psql("ALTER ROLE app CONNECTION LIMIT -1") end,
    expect = expect.untouched {
      connecting = "too_many_connections retryable",
    },
  },
  {
    name = "password changed",
    early = true,
    strike = function(c) c.server:psql("ALTER ROLE app PASSWORD 'second'") end,
    heal = function(c) c.server:psql("ALTER ROLE app PASSWORD 'first'") end,
    expect = expect.untouched {
      connecting = "auth",
    },
  },
  {
    name = "host name gone",
    early = true,
    patience_ms = 400, -- who asks keeps to the route that it began with
    strike = function(c)
      c.family.host = "no-such-host.invalid"
      c.manager:invalidate(c.tenant)
    end,
    heal = function(c)
      c.family.host = "127.0.0.1"
      c.manager:invalidate(c.tenant)
    end,
    expect = expect.untouched {
      idle = "dns retryable",
      connecting = "dns retryable",
    },
  },
  {
    name = "no more file descriptors (EMFILE)",
    early = true,
    strike = take_descriptors,
    heal = free_descriptors,
    expect = expect.untouched {
      connecting = "unreachable",
    },
  },
  {
    name = "disk full",
    early = true,
    needs = function(f) return f.has_disk or "a file system of our own" end,
    strike = fill_disk,
    heal = clear_disk,
    expect = {
      idle = "53100", connecting = "53100", waiting = "53100",
      statement = "53100", transaction = "53100", commit = "ok",
      pipeline = { "ok", "53100", "53100" }, session = { "ok", "53100" },
      dispose = ENDED,
    },
  },
  {
    name = "recovery",
    breaks = true,
    early = true,
    strike = recover,
    heal = promote,
    expect = {
      idle = DOWN, connecting = "starting_up retryable", waiting = DOWN,
      statement = "connection_lost retryable",
      transaction = "connection_lost retryable",
      commit = "connection_lost retryable",
      pipeline = { "ok", "connection_lost retryable", DOWN },
      session = { "ok", "connection_lost retryable" },
      dispose = ENDED,
    },
  },
}


matrix.describe(_ENV, "limits", family)
