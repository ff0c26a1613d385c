--- One prober per server: what a server that does not answer gets, and what
--- those who wait for it are told.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local STORM = tonumber(os.getenv("MT_STORM_TENANTS")) or 1500


local function list(n, prefix)
  local out = {}
  for i = 1, n do out[i] = prefix .. i end
  return out
end


local function rss_mib()
  local file = assert(io.open("/proc/self/status"))
  local kib = file:read("*a"):match("VmRSS:%s*(%d+)")
  file:close()
  return tonumber(kib) / 1024
end


describe("a server that is down", function()
  local server

  before_each(function()
    server = env.start()
    env.tenants({ "acme", "globex" }, server)
  end)
  after_each(function()
    env.assert_nothing_left()
    env.close(server)
  end)

  it("is tried by one connection at a time, ever more rarely",
     env.in_task(function()
    local manager = env.manager({
      connection = { retry = { max_attempts = 100, initial_delay_ms = 1,
                               max_delay_ms = 5 } },
    }, server)
    local db = assert(manager:get_db_async("acme"))
    local name
    server:stop("immediate")
    local _, err = db:query("SELECT 1")
    if err and err.code == "connection_lost" then _, err = db:query("SELECT 1") end
    name = err.server
    assert.equal("open", manager:breaker_state(name))
    local before = manager:get_stats().connect_failures
    local tasks = {}
    for i = 1, 50 do
      tasks[i] = mtenant.spawn(function()
        return manager:get_db_async("t" .. i % 7)
      end)
    end
    mtenant.sleep(1000)
    local tried = manager:get_stats().connect_failures - before
    assert.is_true(tried >= 2 and tried <= 5, "it was tried " .. tried)
    for _, t in ipairs(tasks) do t:cancel() end
    for _, t in ipairs(tasks) do t:await() end
  end))

  it("wakes those who wait as soon as it answers", env.in_task(function()
    local manager = env.manager({
      connection = { retry = { max_attempts = 30, initial_delay_ms = 20000,
                               max_delay_ms = 20000 } },
      breaker = { initial_delay_ms = 100, max_delay_ms = 100 },
    }, server)
    local retries = 0
    server:stop("immediate")
    local other = mtenant.spawn(function() -- asks again and again
      while not manager:get_db("globex"):query("SELECT 1") do
        mtenant.sleep(20)
      end
      return mtenant.now_ms()
    end)
    local waits = mtenant.spawn(function()
      local db, err = manager:get_db_async("acme") -- would wait for 20 s
      return db and mtenant.now_ms(), err
    end)
    mtenant.sleep(300)
    server:start()
    local up, err = waits:await()
    assert.is_nil(err)
    assert.is_true(math.abs(up - other:await()) < 1000)
    assert.equal(0, retries)
  end, 30000))

  it("is not waited for under fail_fast", env.in_task(function()
    local manager = env.manager({
      breaker = { initial_delay_ms = 5000, max_delay_ms = 5000,
                  fail_fast = true },
    }, server)
    server:stop("immediate")
    local db = assert(manager:get_db("acme"))
    local _, err = db:query("SELECT 1")
    assert.is_not.equal("breaker_open", err.code)
    local started = mtenant.now_ms()
    for _, use in ipairs({
      function() return db:query("SELECT 1") end,
      function() return db:transaction(function() return true end) end,
      function() return manager:get_db("globex"):query("SELECT 1") end,
    }) do
      local _, fast = use()
      assert.equal("breaker_open", fast.code)
      assert.is_true(fast.retryable)
      assert.is_false(fast.ambiguous)
      assert.truthy(fast.message:find(err.message:sub(1, 20), 1, true))
    end
    assert.is_true(mtenant.now_ms() - started < 1000)
    server:start()
    assert.is_true(manager:close(err.server))
    assert.equal("1", env.must(db:value("SELECT '1'")))
    assert.equal("closed", manager:breaker_state(err.server))
  end))

  it("is tried by who comes when the time is there, also under fail_fast",
     env.in_task(function()
    local manager = env.manager({
      breaker = { initial_delay_ms = 200, max_delay_ms = 200,
                  fail_fast = true },
      connection = { retry = { max_attempts = 1 } },
    }, server)
    server:stop("immediate")
    local db = assert(manager:get_db("acme"))
    local _, err = db:query("SELECT 1")
    assert.is_not.equal("breaker_open", err.code)
    _, err = db:query("SELECT 1")
    assert.equal("breaker_open", err.code)
    server:start()
    mtenant.sleep(300)
    assert.equal("1", env.must(db:value("SELECT '1'")))
    assert.equal("closed", manager:breaker_state(err.server))
  end))

  it("may be isolated by hand, and closed again", env.in_task(function()
    local manager = env.manager({}, server)
    local db = assert(manager:get_db_async("acme"))
    assert.is_false(manager:isolate("nobody:1"))
    assert.is_nil(manager:breaker_state("nobody:1"))
    local _, failed = db:query("SELECT 1/0")
    local name = failed.server
    local running = mtenant.spawn(function()
      return env.must(db:value("SELECT pg_sleep(0.2), 'done'") or "done")
    end)
    mtenant.sleep(50)
    assert.is_true(manager:isolate(name))
    assert.equal("isolated", manager:breaker_state(name))
    local _, err = db:query("SELECT 1")
    assert.equal("breaker_open", err.code)
    assert.matches("isolated", err.message)
    running:await()
    env.eventually("no connection", function()
      return manager:get_stats().open == 0
    end)
    local later = mtenant.spawn(function() return manager:get_db_async("acme") end)
    mtenant.sleep(20)
    assert.is_true(manager:close(name))
    assert(later:await())
    assert.equal("1", env.must(db:value("SELECT '1'")))
    assert.has_error(function() manager:isolate(5) end)
  end))

  it("costs " .. STORM .. " tenants a few connects, and serves all of them "
     .. "soon after its return", env.in_task(function()
    local ids = list(STORM, "s")
    env.tenants(ids, server)
    local manager = env.manager({
      connection = { retry = { max_attempts = 40 } },
    }, server)
    server:stop("immediate")
    collectgarbage()
    local idle_mib, peak_mib = rss_mib(), 0
    local gap, beats, last = 0, 0, mtenant.now_ms()
    local heart = mtenant.spawn(function()
      while true do
        if not mtenant.sleep(10) then return end
        local now = mtenant.now_ms()
        if beats % 10 == 0 then peak_mib = math.max(peak_mib, rss_mib()) end
        gap, beats, last = math.max(gap, now - last - 10), beats + 1, now
      end
    end)
    local done_at = {}
    local everybody = mtenant.spawn(function()
      return mtenant.each(ids, #ids, function(id)
        local db, err = manager:get_db_async(id)
        done_at[#done_at + 1] = mtenant.now_ms()
        return db and true, err
      end)
    end)
    mtenant.sleep(3000)
    local tried = manager:get_stats().connect_failures
    assert.is_true(tried >= 3 and tried <= 10, "it was tried " .. tried)
    assert.equal(0, #done_at)
    server:start()
    local up_at = mtenant.now_ms()
    last = up_at -- starting it was not the loop's doing
    local _, errs = everybody:await()
    heart:cancel()
    assert.is_nil(errs and tostring(select(2, next(errs))))
    assert.equal(STORM, #done_at)
    assert.is_true(beats > 100, "the heart beat " .. beats .. " times")
    table.sort(done_at)
    if os.getenv("MT_STORM_TENANTS") then
      io.stderr:write(("storm: %d tenants, %d connects while down, first after "
        .. "%.0f ms, last after %.0f ms, longest gap %.1f ms in %d beats, "
        .. "%.1f MiB more than idle\n")
        :format(STORM, tried, done_at[1] - up_at, done_at[#done_at] - up_at, gap,
                beats, peak_mib - idle_mib))
    end
  end, 60000))
end)
