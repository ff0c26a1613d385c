--- The fault proxy itself: each of its faults is what it says.

local env = require "tests.support.env"
local mtenant = require "mtenant"
local proxy = require "tests.support.proxy"


describe("the fault proxy", function()
  local p, manager, db

  setup(function() env.tenants({ "acme" }) end)
  before_each(function()
    p = proxy.start(env.server())
    manager = env.manager({ connection = {
      url = p.url, max_connections = 1, cancel_timeout_ms = 50,
      pool = { connect_timeout_ms = 300 }, retry = { max_attempts = 1 },
    } })
    db = assert(manager:get_db("acme"))
  end)
  after_each(function()
    manager, db = nil, nil
    env.assert_nothing_left()
    p:stop()
  end)

  local function took(fn)
    local started = mtenant.now_ms()
    local value, err = fn()
    return mtenant.now_ms() - started, value, err
  end

  it("forwards, also a lot", env.in_task(function()
    assert.equal(1, db:value("SELECT 1"))
    local big = ("x"):rep(3000000)
    assert.equal(big, db:value("SELECT $1::text", big))
    local stats = p:stats()
    assert.equal(1, stats.accepted)
    assert.equal(1, stats.open)
    assert.is_true(stats.up > 3000000 and stats.down > 3000000)
    manager:dispose()
    env.eventually("its end", function() return p:stats().open == 0 end)
  end))

  it("delays each direction", env.in_task(function()
    assert.equal(1, db:value("SELECT 1"))
    p:delay(60, "up")
    local ms = took(function() return env.must(db:value("SELECT 1")) end)
    assert.is_true(ms >= 59 and ms < 110, ms)
    p:delay(60, "down")
    ms = took(function() return env.must(db:value("SELECT 1")) end)
    assert.is_true(ms >= 119 and ms < 220, ms)
    p:normal()
    ms = took(function() return env.must(db:value("SELECT 1")) end)
    assert.is_true(ms < 50, ms)
  end))

  it("throttles", env.in_task(function()
    assert.equal(1, db:value("SELECT 1"))
    p:throttle(200000, "down")
    local ms = took(function()
      return env.must(db:value("SELECT repeat('x', 40000)"))
    end)
    assert.is_true(ms >= 190 and ms < 500, ms)
  end))

  it("resets what is open", env.in_task(function()
    local task = mtenant.spawn(db.query, db, "SELECT pg_sleep(5)")
    env.eventually("it to run", function()
      return env.count("state = 'active' AND query LIKE '%pg_sleep(5)%'") == 1
    end)
    p:reset()
    local _, err = task:await()
    assert.equal("connection_lost", err.code)
    assert.is_true(err.ambiguous)
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("refuses, and listens again", env.in_task(function()
    assert.equal(1, db:value("SELECT 1"))
    p:refuse()
    assert.equal(1, db:value("SELECT 1")) -- on the open connection
    p:reset()
    local _, err = manager:get_db_async("acme")
    assert.is_true(err.code == "refused" or err.code == "connection_lost",
                   tostring(err))
    _, err = db:query("SELECT 1")
    assert.equal("refused", err.code)
    p:normal()
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("keeps silent, and goes on afterwards", env.in_task(function()
    assert.equal(1, db:value("SELECT 1"))
    p:blackhole()
    local task = mtenant.spawn(db.value, db, "SELECT 1")
    mtenant.sleep(80)
    assert.is_false(task.done)
    p:normal()
    assert.equal(1, task:await())
    p:reset()
    env.eventually("the loss", function() return manager:get_stats().lost == 1 end)
    p:blackhole()
    local ms, _, err = took(function() return manager:get_db_async("acme") end)
    assert.equal("timeout", err.code)
    assert.is_true(ms >= 295 and ms < 500, ms)
  end))

  it("swallows", env.in_task(function()
    assert.equal(1, db:value("SELECT 1"))
    p:drop("down")
    local _, err = db:query({ sql = "SELECT 1", timeout_ms = 100 })
    assert.equal("timeout", err.code)
    assert.is_true(err.ambiguous)
  end))

  for _, how in ipairs({ "rst", "fin", "silence" }) do
    it("cuts a connection at a byte (" .. how .. ")", env.in_task(function()
      for _, direction in ipairs({ "down", "up" }) do
        p:cut({ direction = direction, at = 30, how = how })
        local ms, _, err = took(function() return db:query("SELECT 1") end)
        assert.equal(how == "silence" and "timeout" or "connection_lost", err.code)
        assert.is_true(how ~= "silence" or ms > 290)
        assert.is_false(err.ambiguous)
        assert.equal(30, p:stats()[direction])
        p:normal()
        assert.equal(1, db:value("SELECT 1")) -- only that one
        p:cut_open({ direction = direction, at = 5, how = how })
        _, err = db:query({ sql = "SELECT 1", timeout_ms = 200 })
        assert.equal(how == "silence" and "timeout" or "connection_lost", err.code)
        assert.is_true(err.ambiguous)
        p:normal()
        p:reset()
      end
    end))
  end

  it("talks garbage", env.in_task(function()
    p:garbage() -- in the place of "no TLS here"
    local _, err = db:query("SELECT 1")
    assert.equal("tls", err.code)
    p:garbage({ at = 1 })
    _, err = db:query("SELECT 1")
    assert.equal("protocol", err.code)
    assert.is_false(err.ambiguous)
    p:normal()
    assert.equal(1, db:value("SELECT 1"))
  end))

  it("says what it does not understand", function()
    assert.has_error(function() p:command("dance") end,
                     "fault proxy: error in dance")
    assert.has_error(function() p:cut({ direction = "left" }) end)
    assert.has_error(function() p:cut({ how = "softly" }) end)
    p:stop()
    p:stop()
  end)
end)
