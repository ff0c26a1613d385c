--- mtenant.policy.sandbox: a policy file works as it would outside, does its I/O
--- in the calling task, and is held to its limits.

local env = require "tests.support.env"
local errors = require "mtenant.errors"
local mtenant = require "mtenant"
local sandbox = require "mtenant.policy.sandbox"

after_each(env.assert_nothing_left)

-- what is not about limits has time, also under sanitizers
local function load_policy(source, opts)
  opts = opts or {}
  opts.name, opts.time_ms = opts.name or "p.lua", opts.time_ms or 500
  return assert(sandbox.load(source, opts))
end


local function refused(text, source, opts)
  local policy, err = sandbox.load(source, opts or { name = "p.lua" })
  assert.is_nil(policy)
  assert.equal("policy", err.code)
  assert.truthy(err.message:find(text, 1, true), err.message)
end


describe("loading a policy file", function()
  it("takes a function or a table", function()
    local policy = load_policy("return function(id) return { schema = id } end")
    assert.same({ schema = "acme" }, (policy.resolve("acme", {})))
    assert.is_nil(policy.identify)
    policy:close()
    policy = load_policy([[
      return { resolve = function() return nil, "nobody" end,
               identify = function(request) return request.host end,
               ttl_ms = 5, negative_ttl_ms = 7, version = "v1",
               selftest = { { tenant_id = "a", route = { server = "eu1" } } } }]])
    assert.same({ 5, 7, "v1" },
                { policy.ttl_ms, policy.negative_ttl_ms, policy.version })
    assert.same({ { tenant_id = "a", route = { server = "eu1" } } },
                policy.selftest)
    assert.equal("x", policy.identify({ host = "x" }))
    local route, reason = policy.resolve("acme", {})
    assert.is_nil(route)
    assert.equal("nobody", reason)
    policy:close()
  end)

  it("says what is wrong with it", function()
    refused("p.lua:1:", "return {")
    refused("must return a table", "return 5")
    refused("must return a table", "")
    refused("no function resolve", "return {}")
    refused("resolve must be a function, got table", "return { resolve = { } }")
    refused("resolv is not a field", "return { resolve = pcall, resolv = 1 }")
    refused("p.lua:2: oh", "\nerror('oh')")
    refused("longer than it may", "while true do end")
    refused("memory", "local t = {} for i = 1, 1e9 do t[i] = i end",
            { name = "p.lua", memory_bytes = 512 * 1024, time_ms = 1000 })
    refused("plain data", "return { resolve = pcall, selftest = { pcall } }")
    refused("256 KiB", ("-"):rep(300000))
    refused("there is no module mtenant.policy.nothing",
            "return require 'mtenant.policy.nothing'")
  end)

  it("raises for wrong options", function()
    for text, args in pairs({
      ["source must be a string"] = { 5 },
      ["unknown option memory"] = { "return {}", { memory = 1 } },
      ["memory_bytes must be"] = { "return {}", { memory_bytes = 1000 } },
      ["time_ms must be"] = { "return {}", { time_ms = 0 } },
    }) do
      local ok, err = pcall(sandbox.load, args[1], args[2])
      assert.is_false(ok)
      assert.equal("misuse", err.code)
      assert.truthy(err.message:find(text, 1, true), err.message)
    end
  end)
end)


describe("a policy's context", function()
  it("has what the host's has", function()
    mtenant.run(function()
      local policy = load_policy([[
        return function(id, ctx)
          ctx.note("region %s of %d", "eu", 3)
          ctx.log("asked for " .. id)
          local before = ctx.now_ms()
          ctx.sleep(20)
          return { labels = { slept = ctx.now_ms() - before, id = ctx.tenant_id,
            host = ctx.request.host, hash = ctx.hash(id),
            servers = table.concat(ctx.servers, " ") } }
        end]])
      local notes, logs = {}, {}
      local ctx = {
        request = { host = "h" }, servers = { "eu1", "us1" },
        note = function(fmt, ...) notes[#notes + 1] = fmt:format(...) end,
        log = function(text) logs[#logs + 1] = text end,
      }
      local labels = policy.resolve("acme", ctx).labels
      assert.is_true(labels.slept >= 19)
      assert.same({ "acme", "h", "eu1 us1" },
                  { labels.id, labels.host, labels.servers })
      assert.equal(require("mtenant.crypto").unit("acme"), labels.hash)
      assert.same({ "region eu of 3" }, notes)
      assert.same({ "asked for acme" }, logs)
      ctx.servers = { "ap1" }
      assert.equal("ap1", policy.resolve("acme", ctx).labels.servers)
      policy:close()
    end)
  end)

  it("notes nothing where nobody asks", function()
    local policy = load_policy([[
      return function(_, ctx) ctx.note("x") return { server = "a" } end]])
    assert.equal("a", policy.resolve("acme", { note = sandbox.no_note }).server)
    assert.equal("a", policy.resolve("acme", {}).server)
    policy:close()
  end)

  it("queries the shared database", env.in_task(function()
    local manager = env.manager()
    local policy = load_policy([[
      return function(id, ctx)
        local rows = assert(ctx.shared:query(
          "select $1::text as id, n, null as nothing from generate_series(1, 3) n",
          id))
        local one = ctx.shared:one("select $1::int8 as n, true as b", 2 ^ 40)
        local none, err = ctx.shared:query("select nonsense")
        return { labels = { id = rows[3].id, n = rows[3].n, rows = #rows,
          nothing = rows[1].nothing, big = one.n, b = one.b,
          sum = ctx.shared:value("select 1 + $1::int", 2),
          null = ctx.shared:value("select $1::text", nil),
          code = err.code, sqlstate = err.sqlstate, text = tostring(err) } }
      end]])
    local route, err = policy.resolve("acme", { shared = manager:get_shared_db() })
    assert.is_nil(err)
    assert.same({ id = "acme", n = 3, rows = 3, big = 2 ^ 40, b = true, sum = 3,
                  code = "query", sqlstate = "42703",
                  text = route.labels.text }, route.labels)
    assert.truthy(route.labels.text:find("nonsense", 1, true))
    policy:close()
    manager:dispose()
  end))

  it("hands errors of the host on as they are", env.in_task(function()
    local policy = load_policy([[
      return function(id, ctx)
        local rows, err = ctx.shared:query("select 1")
        if id == "raise" then error(err) end
        return nil, err
      end]])
    local down = errors.new("unreachable", "no route", { server = "h:1" })
    local ctx = { shared = { query = function() return nil, down end } }
    for _, id in ipairs({ "acme", "raise" }) do
      local route, err = policy.resolve(id, ctx)
      assert.is_nil(route)
      assert.is_true(errors.is(err, "unreachable"))
      assert.equal("h:1", err.server)
      assert.is_true(err.retryable)
    end
    policy:close()
  end))

  it("says so where it can't wait", function()
    local policy = load_policy([[
      local kept
      return {
        resolve = function(_, ctx)
          kept = ctx
          local ok, err = ctx.sleep(1)
          return nil, err
        end,
        identify = function(request)
          local ok, err = kept.sleep(1)
          return nil, err
        end }]])
    local function check(value, err)
      assert.is_nil(value)
      assert.equal("policy", err.code)
      assert.truthy(err.message:find("can't wait", 1, true))
    end
    check(policy.resolve("acme", {}))      -- in no task
    check(mtenant.run(policy.identify, {})) -- pure, so nowhere
    policy:close()
  end)
end)


describe("several calls at once", function()
  local SOURCE = [[
    local running, most = 0, 0
    return function(id, ctx)
      running = running + 1
      most = math.max(most, running)
      for i = 1, 3 do ctx.sleep(math.random(1, 5)) end
      running = running - 1
      return { server = id, labels = { most = most } }
    end]]

  it("each get what is theirs", env.in_task(function()
    local policy = load_policy(SOURCE)
    local results = mtenant.each(
      (function() local t = {} for i = 1, 100 do t[i] = "t" .. i end return t end)(),
      50, function(id) return policy.resolve(id, {}) end)
    local most = 0
    for i = 1, 100 do
      assert.equal("t" .. i, results[i].server)
      most = math.max(most, results[i].labels.most)
    end
    assert.equal(50, most)
    assert.equal(0, policy:stats().calls)
    policy:close()
  end))

  it("end when the policy is closed", env.in_task(function()
    local policy = load_policy(SOURCE)
    local task = mtenant.spawn(function() return policy.resolve("a", {}) end)
    mtenant.sleep(1)
    policy:close()
    policy:close()
    local route, err = task:await()
    assert.is_nil(route)
    assert.equal("policy", err.code)
    route, err = policy.resolve("a", {})
    assert.is_nil(route)
    assert.equal("disposed", err.code)
  end))

  it("end with their task", env.in_task(function()
    local policy = load_policy([[
      return function(_, ctx)
        while true do ctx.sleep(5) end
      end]], { time_ms = 10 })
    local route, err = mtenant.with_deadline(30, function()
      return policy.resolve("a", {})
    end)
    assert.is_nil(route)
    assert.equal("timeout", err.code)
    assert.equal(0, policy:stats().calls)
    policy:close()
  end))

  it("do not hold the loop when nothing makes them wait", env.in_task(function()
    local policy = load_policy([[
      return function(_, ctx)
        for i = 1, 30000 do
          ctx.shared:query("x")
          for j = 1, 500 do end
        end
        return { server = "done" }
      end]], { time_ms = 20 })
    local beats, over = 0, false
    mtenant.spawn(function()
      while not over do
        beats = beats + 1
        mtenant.sleep(1)
      end
    end)
    local shared = { query = function() return nil, errors.new("disposed", "x") end }
    assert.equal("done", policy.resolve("a", { shared = shared }).server)
    over = true
    assert.is_true(beats > 1)
    policy:close()
    mtenant.sleep(2)
  end))
end)


describe("limits", function()
  local SOURCE = [[
    local calls = 0
    return function(id, ctx)
      calls = calls + 1
      if id == "time" then while true do end end
      if id == "memory" then
        local t = {}
        for i = 1, 1e9 do t[i] = { i } end
      end
      if id == "wait" then ctx.sleep(30) end
      return { server = "eu1", labels = { calls = calls } }
    end]]

  it("on time leave the state as it is", env.in_task(function()
    local policy = load_policy(SOURCE, { time_ms = 10 })
    policy.resolve("acme", {})
    local route, err = policy.resolve("time", {})
    assert.is_nil(route)
    assert.equal("policy", err.code)
    assert.truthy(err.message:find("p.lua:4:", 1, true), err.message)
    assert.truthy(err.message:find("10 ms", 1, true), err.message)
    assert.equal(3, policy.resolve("acme", {}).labels.calls)
    assert.same({ 0, 1 }, { policy:stats().rebuilds, policy:stats().errors })
    policy:close()
  end))

  it("on memory begin with a new state", env.in_task(function()
    local policy = load_policy(SOURCE, { memory_bytes = 2 ^ 20 })
    local waits = mtenant.spawn(function() return policy.resolve("wait", {}) end)
    mtenant.sleep(5)
    local route, err = policy.resolve("memory", {})
    assert.is_nil(route)
    assert.equal("policy", err.code)
    assert.truthy(err.message:find("memory", 1, true), err.message)
    assert.equal(1, policy.resolve("acme", {}).labels.calls)
    assert.equal(1, policy:stats().rebuilds)
    -- what was under way in the old one is gone with it
    route, err = waits:await()
    assert.is_nil(route)
    assert.equal("policy", err.code)
    assert.truthy(err.message:find("closed meanwhile", 1, true), err.message)
    policy:close()
  end))

  it("count processor time, and none of waiting", env.in_task(function()
    local policy = load_policy(SOURCE, { time_ms = 10 })
    assert.equal("eu1", policy.resolve("wait", {}).server)
    policy:close()
  end))

  it("do not grow with the number of calls", env.in_task(function()
    local policy = load_policy(SOURCE, { memory_bytes = 512 * 1024 })
    for i = 1, 20000 do assert(policy.resolve("t" .. i, {})) end
    assert.same({ 0, 0 }, { policy:stats().rebuilds, policy:stats().calls })
    policy:close()
  end))

  it("hold when arguments do not fit, whatever their size", env.in_task(function()
    local policy = load_policy([[
      local kept = {}
      return function(id, ctx)
        kept[#kept + 1] = ctx.request
        return { server = "eu1" }
      end]], { memory_bytes = 256 * 1024 })
    local failed = 0
    for size = 0, 400 do
      local request = {}
      for i = 1, size do request["k" .. i] = { ("v"):rep(i), i } end
      local route, err = policy.resolve("acme", { request = request })
      if not route then
        failed = failed + 1
        assert.equal("policy", err.code)
        assert.truthy(err.message:find("memory", 1, true), err.message)
      end
      assert.is_true(policy:stats().peak_bytes <= 256 * 1024 + 65536)
    end
    assert.is_true(failed > 0 and failed < 400)
    assert.equal(failed, policy:stats().rebuilds)
    policy:close()
  end))
end)


describe("events and invalidations", function()
  it("on_event gets the event as data", function()
    local policy = load_policy([[
      local seen = {}
      return { resolve = function() return { labels = seen } end,
               on_event = function(event)
                 if event.kind == "bad" then error("bad") end
                 seen[#seen + 1] = event.kind
               end }]])
    assert.is_true(policy.on_event({ kind = "loaded" }))
    local ok, err = policy.on_event({ kind = "bad" })
    assert.is_nil(ok)
    assert.equal("policy", err.code)
    assert.same({ "loaded" }, policy.resolve("x", {}).labels)
    policy:close()
  end)

  it("invalidations runs as long as it likes", env.in_task(function()
    local policy = load_policy([[
      return { resolve = function() return {} end,
               invalidations = function(ctx, invalidate)
                 for i = 1, 3 do
                   ctx.sleep(2)
                   invalidate("t" .. i)
                 end
                 invalidate()
               end }]])
    local seen = {}
    local ok, err = policy.invalidations({}, function(id)
      seen[#seen + 1] = id or "all"
    end)
    assert.is_nil(err)
    assert.is_true(ok)
    assert.same({ "t1", "t2", "t3", "all" }, seen)
    policy:close()
  end))

  it("listens where the host can", env.in_task(function()
    local policy = load_policy([[
      local heard = {}
      return { resolve = function() return { labels = heard } end,
               invalidations = function(ctx, invalidate)
                 local handle = assert(ctx.shared:listen("tenants", function(id)
                   ctx.sleep(1)
                   heard[#heard + 1] = id
                   invalidate(id)
                 end))
                 ctx.sleep(40)
                 handle:close()
                 ctx.sleep(10)
               end }]])
    local say, closed
    local shared = { listen = function(_, channel, fn)
      assert.equal("tenants", channel)
      say = fn
      return { close = function() closed = true end }
    end }
    local seen = {}
    local task = mtenant.spawn(function()
      return policy.invalidations({ shared = shared }, function(id)
        seen[#seen + 1] = id
      end)
    end)
    mtenant.sleep(5)
    say("a")
    say("b")
    local ok, err = task:await()
    assert.is_nil(err)
    assert.is_true(ok)
    assert.is_true(closed)
    assert.same({ "a", "b" }, seen)
    assert.same({ "a", "b" }, policy.resolve("x", {}).labels)
    say("c") -- nobody listens any more
    mtenant.sleep(2)
    assert.same({ "a", "b" }, seen)
    policy:close()
  end))

  it("takes a flood of events for one: anything may be stale", env.in_task(function()
    local policy = load_policy([[
      return { resolve = function() return {} end,
               invalidations = function(ctx, invalidate)
                 ctx.shared:listen("tenants", function(id)
                   ctx.sleep(1)
                   invalidate(id)
                 end)
                 ctx.sleep(50)
               end }]])
    local say
    local shared = { listen = function(_, _, fn)
      say = fn
      return { close = function() end }
    end }
    local all, one = 0, 0
    local task = mtenant.spawn(function()
      return policy.invalidations({ shared = shared }, function(id)
        all, one = all + (id and 0 or 1), one + (id and 1 or 0)
      end)
    end)
    mtenant.sleep(5)
    for i = 1, 5000 do say("t" .. i) end
    assert.is_true(policy:stats().calls <= 2)
    assert.is_true(task:await())
    assert.is_true(all >= 4)
    assert.is_true(one < 100)
    policy:close()
  end))
end)
