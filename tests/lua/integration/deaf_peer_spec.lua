--- Peers that acknowledge nothing: TCP's own limits, which libpq sets.

local env = require "tests.support.env"
local mtenant = require "mtenant"
local proxy = require "tests.support.proxy"


describe("a peer that acknowledges nothing", function()
  local second, p, manager, db, other

  setup(function()
    second = env.start()
    env.tenants({ "acme" })
    env.tenants({ "other" }, second)
  end)
  teardown(function() env.close(second) end)
  before_each(function() p = proxy.start(env.server()) end)
  after_each(function()
    manager, db, other = nil, nil, nil
    p:normal()
    p:reset()
    env.assert_nothing_left()
    p:stop()
  end)

  -- One manager, two servers; only acme's is behind the proxy.
  local function connect(settings)
    manager = env.manager({
      connection = { max_connections = 1, cancel_timeout_ms = 50,
                     retry = { max_attempts = 1 } },
      resolve = function(id)
        return { url = id == "other" and second.url or p.url .. "?" .. settings,
                 schema = "t_" .. id }
      end,
    })
    db = assert(manager:get_db("acme"))
    other = assert(manager:get_db("other"))
    assert.equal(1, env.must(db:value("SELECT 1")))
    assert.equal(1, env.must(other:value("SELECT 1")))
    mtenant.sleep(100) -- the last acknowledgement is on its way till then
  end

  local function backend_of_other()
    return env.must(other:value("SELECT pg_backend_pid()"))
  end

  it("loses what was sent by tcp_user_timeout", env.in_task(function()
    connect("tcp_user_timeout=1000&keepalives_idle=60")
    local backend = backend_of_other()
    p:deaf()
    local started = mtenant.now_ms()
    local task = mtenant.spawn(db.query, db, "SELECT 1")
    mtenant.sleep(500)
    assert.is_false(task.done)
    assert.equal(backend, backend_of_other())
    local _, err = task:await()
    local ms = mtenant.now_ms() - started
    assert.equal("connection_lost", err.code)
    assert.is_true(err.ambiguous)
    assert.is_true(ms >= 900 and ms < 2500, ms)
    p:normal()
    assert.equal(1, env.must(db:value("SELECT 1")))
    assert.equal(2, p:stats().accepted)
  end))

  it("is noticed by keepalive while nothing is said", env.in_task(function()
    connect("keepalives_idle=1&keepalives_interval=1&keepalives_count=1"
            .. "&tcp_user_timeout=1000")
    local backend = backend_of_other()
    p:deaf()
    env.eventually("the loss", function()
      return manager:get_stats().lost == 1
    end, 6000)
    assert.equal(backend, backend_of_other())
    p:normal()
    assert.equal(1, env.must(db:value("SELECT 1")))
    assert.equal(2, p:stats().accepted)
  end))
end)
