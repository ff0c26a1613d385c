--- The loop goes on: a task that beats every 10 ms has no gap of 50, whatever
--- connects, is cancelled or does not answer. Name look-ups are in
--- tests/c/test_resolver.c.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local BEAT_MS, LIMIT_MS = 10, 50


--- The longest time by which a beat was late while fn ran, and how many there
--- were; less what this machine is late by itself.
local function gap_while(fn)
  local gap, beats, last, stop = 0, 0, mtenant.now_ms(), false
  local heart = mtenant.spawn(function()
    while not stop do
      mtenant.sleep(BEAT_MS)
      local now = mtenant.now_ms()
      gap, beats, last = math.max(gap, now - last - BEAT_MS), beats + 1, now
    end
  end)
  mtenant.sleep(300)
  local idle = gap
  gap = 0
  fn()
  stop = true
  heart:await()
  return gap - idle, beats
end


local function assert_beats(fn)
  local gap, beats = gap_while(fn)
  assert.is_true(gap < LIMIT_MS, ("a gap of %.1f ms"):format(gap))
  assert.is_true(beats > 20)
end


describe("the loop goes on", function()
  local server

  after_each(function()
    env.assert_nothing_left()
    if server then env.close(server) end
    server = nil
  end)

  it("while many connect with TLS and SCRAM", env.in_task(function()
    server = env.start {
      tcp = true,
      hba = "local all postgres trust\nlocal all mtenant trust\n"
        .. "hostssl all all 127.0.0.1/32 scram-sha-256",
    }
    server:psql("SET password_encryption = 'scram-sha-256';"
      .. "ALTER ROLE mtenant PASSWORD 'secret'")
    server:use_tls()
    env.eventually("the server takes TLS", function()
      return server:psql("SHOW ssl") == "on"
    end)
    server:psql("CREATE SCHEMA t_acme AUTHORIZATION mtenant")
    local url = ("postgresql://mtenant:secret@127.0.0.1:%d/mtenant"
      .. "?sslmode=require"):format(server.port)
    local managers = {}
    assert_beats(function()
      local tasks = {}
      for i = 1, 6 do -- servers of their own, as far as they know
        local manager = env.manager({
          connection = { url = url .. "&keepalives_count=" .. i,
                         max_connections = 4, pool = { min = 4 } },
        }, server)
        managers[i] = manager
        tasks[i] = mtenant.spawn(function()
          local db = assert(manager:get_db_async("acme"))
          assert.is_true(db:value("SELECT ssl FROM pg_stat_ssl "
                                  .. "WHERE pid = pg_backend_pid()"))
        end)
      end
      for _, t in ipairs(tasks) do t:await() end
      env.eventually("all have connected", function()
        local open = 0
        for _, m in ipairs(managers) do open = open + m:get_stats().open end
        return open == 24
      end, 10000)
    end)
  end, 60000))

  it("while a cancel gets no answer", env.in_task(function()
    server = env.start { tcp = true }
    env.tenants({ "acme" }, server)
    local manager = env.manager({
      connection = { cancel_timeout_ms = 500, max_connections = 2 },
    }, server)
    local db = assert(manager:get_db_async("acme"))
    local pid = db:value("SELECT pg_backend_pid()")
    assert_beats(function()
      local slow = mtenant.spawn(function()
        return db:query { sql = "SELECT pg_sleep(10)", timeout_ms = 200 }
      end)
      mtenant.sleep(50)
      env.signal(server, "STOP") -- takes the cancel's connection, and is silent
      env.signal(server, "STOP", pid)
      local _, err = slow:await()
      assert.equal("timeout", err.code)
      manager:dispose(300)
    end)
    env.signal(server, "CONT", pid)
    env.signal(server, "CONT")
  end, 30000))

  it("while a server takes connections and says nothing", env.in_task(
    function()
      local silent = env.silent_server()
      local manager = env.manager({
        connection = { retry = { max_attempts = 2 },
                       pool = { connect_timeout_ms = 300 } },
      }, silent)
      assert_beats(function()
        local _, err = manager:get_db_async("acme")
        assert.equal("timeout", err.code)
      end)
      manager:dispose()
      env.close(silent)
    end))
end)
