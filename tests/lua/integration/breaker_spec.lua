--- One prober per server: what a server that does not answer gets, and what
--- those who wait for it are told.

local env = require "tests.support.env"
local mtenant = require "mtenant"


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
end)
