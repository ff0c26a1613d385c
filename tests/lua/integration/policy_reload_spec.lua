--- How a manager's policy changes: by its file, by a signal, by hand; what it
--- says of that; the policy's own task.

local env = require "tests.support.env"
local mtenant = require "mtenant"
local testing = require "mtenant.testing"


local path -- of the policy's file, in a folder of its own


local function write(text, where)
  local file = assert(io.open(where or path, "w"))
  file:write(text)
  file:close()
end


-- as editors do: a new file takes the place of the old one
local function replace(text)
  write(text, path .. "~")
  assert(os.rename(path .. "~", path))
end


local function policy(schema, more)
  return ("return { resolve = function(id) return { schema = %q } end, %s }")
    :format(schema, more or "")
end


local function manager_of(more)
  local all = { policy = path }
  for key, value in pairs(more or {}) do all[key] = value end
  return env.manager(all)
end


local function schema_of(manager, id)
  return env.must(manager:get_db(id or "acme")
    :value("SELECT substr(current_schema(), 3)"))
end


local function versions(manager)
  return manager:get_policy_status().version
end


-- waits within the task
local function until_version(manager, n)
  for _ = 1, 1000 do
    if versions(manager) >= n then break end
    mtenant.sleep(5)
  end
  assert.equal(n, versions(manager))
end


local function until_true(what, fn)
  for _ = 1, 1000 do
    local value = fn()
    if value then return value end
    mtenant.sleep(5)
  end
  error("waited in vain for " .. what)
end


describe("a policy's file", function()
  local folder

  before_each(function()
    env.tenants { "acme", "globex", "initech" }
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -m 700 '" .. folder .. "'"))
    path = folder .. "/policy.lua"
    write(policy("t_acme"))
  end)

  after_each(function()
    os.execute("rm -rf '" .. folder .. "'")
    env.assert_nothing_left()
  end)

  it("is loaded again when it is written, or another takes its place",
     env.in_task(function()
    local events = {}
    local manager = manager_of { hooks = { on_policy_event = function(ev)
      events[#events + 1] = ev
    end } }
    assert.equal("acme", schema_of(manager))
    local first = manager:get_policy_status()
    assert.equal(1, first.version)
    assert.equal("start", first.reason)
    assert.equal(path, first.policy)
    assert.is_true(first.watched)
    write(policy("t_globex"))
    until_version(manager, 2)
    assert.equal("globex", schema_of(manager))
    replace(policy("t_initech", 'version = "third"'))
    until_version(manager, 3)
    assert.equal("initech", schema_of(manager))
    local status = manager:get_policy_status()
    assert.equal("file", status.reason)
    assert.equal("third", status.label)
    assert.are_not.equal(first.hash, status.hash)
    assert.is_true(math.abs(os.time() - status.loaded_at) < 10)
    assert.equal(2, #events)
    assert.equal("reloaded", events[2].kind)
    assert.equal(3, events[2].version)
    assert.equal("file", events[2].reason)
  end))

  it("is no other one for being touched, or for its neighbours",
     env.in_task(function()
    local manager = manager_of()
    schema_of(manager)
    replace(policy("t_acme"))
    write("return {}", folder .. "/other.lua")
    mtenant.sleep(200)
    assert.equal(1, versions(manager))
    assert.equal(0, manager:get_policy_status().reloads)
  end))

  it("stays as it was when the new one is broken", env.in_task(function()
    local failures = {}
    local manager = manager_of { hooks = { on_policy_event = function(ev)
      if ev.kind == "reload_failed" then failures[#failures + 1] = ev end
    end } }
    local broken = {
      "return { resolve = ",                               -- half-written
      "return { resolve = 5 }",
      "error 'no'",
      "",
      policy("t_globex",
             'selftest = {{ tenant_id = "a", route = { schema = "x" } }}'),
      policy("t_globex", 'ttl = 5'),
      "while true do end",
    }
    for i, text in ipairs(broken) do
      replace(text)
      until_true("failure " .. i, function() return #failures >= i end)
      local status = manager:get_policy_status()
      assert.equal(1, status.version)
      assert.equal(i, status.failed_reloads)
      assert.equal("policy", status.last_error.code)
      assert.equal("file", status.last_error.reason)
      assert.equal("acme", schema_of(manager))
    end
    assert.matches("selftest a failed: route.schema is t_globex, not x",
                   failures[5].error.message)
    os.remove(path)
    until_true("the file is missed", function() return #failures == 8 end)
    assert.matches("no policy file", failures[8].error.message)
    assert.equal("acme", schema_of(manager))
    replace(policy("t_globex"))
    until_version(manager, 2)
    assert.equal("globex", schema_of(manager))
    assert.is_nil(manager:get_policy_status().last_error)
  end))

  it("is waited for while it is being written", env.in_task(function()
    local failures = 0
    local manager = manager_of { hooks = { on_policy_event = function(ev)
      if ev.kind == "reload_failed" then failures = failures + 1 end
    end } }
    local text = policy("t_globex")
    for n = 1, #text, 8 do -- closed each time
      write(text:sub(1, n))
      mtenant.sleep(5)
    end
    write(text)
    until_version(manager, 2)
    assert.equal(0, failures)
    assert.equal("globex", schema_of(manager))
  end))

  it("is watched where it is a link that is turned", env.in_task(function()
    local function sh(line) assert(os.execute("cd '" .. folder .. "' && " .. line)) end
    sh("mkdir one two && mv policy.lua one/ && ln -s one ..data "
      .. "&& ln -s ..data/policy.lua policy.lua")
    write(policy("t_globex"), folder .. "/two/policy.lua")
    local manager = manager_of()
    assert.equal("acme", schema_of(manager))
    sh("ln -s two ..data_tmp && mv -T ..data_tmp ..data")
    until_version(manager, 2)
    assert.equal("globex", schema_of(manager))
  end))

  it("is watched only if that is wanted", env.in_task(function()
    local manager = manager_of { routing = { reload = false } }
    assert.is_false(manager:get_policy_status().watched)
    replace(policy("t_globex"))
    mtenant.sleep(150)
    assert.equal(1, versions(manager))
    assert.is_true(manager:reload_policy())
    assert.equal("manual", manager:get_policy_status().reason)
    assert.equal("globex", schema_of(manager))
  end))

  it("can give way to another policy", env.in_task(function()
    local manager = manager_of()
    assert.is_true(manager:reload_policy(function()
      return { schema = "t_globex" }
    end))
    assert.equal("globex", schema_of(manager))
    local ok, err = manager:reload_policy()
    assert.is_nil(ok)
    assert.matches("no file", err.message)
    assert.equal(2, versions(manager))
    ok, err = manager:reload_policy { identify = function() end }
    assert.is_nil(ok)
    assert.equal("policy.resolve is required", err.message)
    assert.equal("globex", schema_of(manager))
    assert.is_true(manager:reload_policy(path))
    assert.equal("acme", schema_of(manager))
    assert.has_error(function() manager:reload_policy(5) end)
    manager:dispose()
    ok, err = manager:reload_policy(path)
    assert.is_nil(ok)
    assert.equal("disposed", err.code)
    ok, err = env.manager():reload_policy(path)
    assert.is_nil(ok)
    assert.equal("policy", err.code)
  end))

  it("that was loaded by hand is not loaded again for its change",
     env.in_task(function()
    local manager = manager_of()
    write(policy("t_globex"))
    assert.is_true(manager:reload_policy())
    mtenant.sleep(200)
    assert.equal(2, versions(manager))
  end))

  it("is one swap at a time", env.in_task(function()
    local manager = manager_of()
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = mtenant.spawn(function() return manager:reload_policy() end)
    end
    for _, t in ipairs(tasks) do assert.is_true((t:await())) end
    assert.equal(6, versions(manager))
  end))

  it("does not answer for the one that came after it", env.in_task(function()
    local manager = manager_of { routing = { ttl_ms = 3600000 } }
    write([[return { resolve = function(id, ctx)
      ctx.sleep(200)
      return { schema = "t_acme" }
    end }]])
    assert.is_true(manager:reload_policy())
    local slow = mtenant.spawn(schema_of, manager, "somebody")
    mtenant.sleep(50)
    assert.is_true(manager:reload_policy(function()
      return { schema = "t_globex" }
    end))
    assert.equal("globex", slow:await())
    assert.equal("globex", schema_of(manager, "somebody"))
  end))

  it("hears of what happens to it", env.in_task(function()
    write([[
      local heard = {}
      return {
        resolve = function(id) return nil, table.concat(heard, " ") end,
        on_event = function(ev) heard[#heard + 1] = ev.kind .. ev.version end,
      }
    ]])
    local manager = manager_of { routing = { reload = false } }
    assert.is_true(manager:reload_policy())
    write("return {")
    assert.is_nil(manager:reload_policy())
    local _, err = manager:get_db("x"):query("SELECT 1")
    assert.equal("reloaded2 reload_failed2", err.message)
  end))

  it("is loaded again by SIGHUP in mtenant-run", function()
    local script = folder .. "/script.lua"
    write(([[
      local mtenant = require "mtenant"
      local events, done = 0
      local manager = mtenant.create_tenant_manager {
        connection = { url = "postgresql://x@127.0.0.1:1/x" },
        policy = %q, routing = { reload = false },
        hooks = { on_policy_event = function(ev)
          print(ev.kind, ev.reason, ev.version)
          events = events + 1
        end },
      }
      os.execute("kill -HUP " .. %s)
      while events < 1 do mtenant.sleep(5) end
      os.execute("kill -HUP " .. %s)
      while events < 2 do mtenant.sleep(5) end
      manager:dispose()
      return 7
    ]]):format(path, [[io.open("/proc/self/stat"):read("n")]],
               [[io.open("/proc/self/stat"):read("n")]]), script)
    local pipe = io.popen(("'%s' '%s' 2>&1; echo $?"):format(
      os.getenv("MTENANT_RUN") or "build/release/bin/mtenant-run", script))
    local said = pipe:read("*a")
    pipe:close()
    assert.equal("reloaded\tsignal\t2\nreloaded\tsignal\t3\n7\n", said)
  end)
end)


describe("a policy's invalidations", function()
  before_each(function() env.tenants { "acme", "globex" } end)
  after_each(env.assert_nothing_left)

  it("run while the policy does, and are started again", function()
    testing.run({ io_wait_ms = 100 }, function()
      local runs, schema, change, fail, ended = 0, "t_acme", nil, nil, 0
      local events = {}
      local manager = env.manager {
        policy = {
          resolve = function() return { schema = schema } end,
          invalidations = function(ctx, invalidate)
            runs = runs + 1
            while true do
              if fail then fail = nil error("lost") end
              if change then invalidate(change) change = nil end
              local ok, err = pcall(ctx.sleep, 10)
              if not ok then ended = ended + 1 error(err, 0) end
            end
          end,
        },
        hooks = { on_policy_event = function(ev)
          events[#events + 1] = ev.kind
        end },
      }
      mtenant.sleep(100)
      assert.equal(0, runs) -- not before the manager is in use
      assert.equal("acme", schema_of(manager))
      mtenant.sleep(50)
      assert.equal(1, runs)
      assert.equal("running", manager:get_policy_status().invalidations)
      schema = "t_globex"
      assert.equal("acme", schema_of(manager))
      change = "acme"
      mtenant.sleep(20)
      assert.equal("globex", schema_of(manager))
      -- what was missed while it was down is unknown
      fail, schema = true, "t_acme"
      mtenant.sleep(50)
      assert.same({ "invalidations_failed" }, events)
      assert.matches("lost", manager:get_policy_status().invalidations_error)
      assert.equal("globex", schema_of(manager))
      mtenant.sleep(100)
      assert.equal(2, runs)
      assert.equal("acme", schema_of(manager))
      -- a policy that has gone does nothing any more
      assert.is_true(manager:reload_policy(function()
        return { schema = "t_globex" }
      end))
      mtenant.sleep(100)
      assert.equal(1, ended)
      assert.equal(2, runs)
      assert.is_nil(manager:get_policy_status().invalidations)
      manager:dispose()
    end)
  end)

  it("of a file end with it, though they never look", env.in_task(function()
    path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write([[return {
      resolve = function() return { schema = "t_acme" } end,
      invalidations = function(ctx, invalidate)
        while true do
          ctx.sleep(5)
          invalidate("acme")
        end
      end,
    }]])
    file:close()
    local told = {}
    local manager = env.manager { policy = path, hooks = {
      on_policy_event = function(ev) told[#told + 1] = ev.kind end,
    } }
    schema_of(manager)
    mtenant.sleep(50)
    schema_of(manager)
    assert.is_true(manager:get_policy_status().cache.asked >= 2)
    assert.is_true(manager:reload_policy())
    mtenant.sleep(50)
    assert.equal("acme", schema_of(manager))
    assert.same({ "reloaded" }, told)
    manager:dispose()
    os.remove(path)
  end))

  it("wait longer each time that they fail, and end with the manager", function()
    testing.run(function(clock)
      local at = {}
      local manager = env.manager {
        policy = { resolve = function() return { schema = "t_acme" } end,
                   invalidations = function()
                     at[#at + 1] = clock:now()
                     error("no")
                   end },
      }
      schema_of(manager)
      local first = at[1] or clock:now()
      mtenant.sleep(60000)
      local waits = {}
      for i = 2, 9 do waits[i - 1] = math.floor(at[i] - at[i - 1] + 0.5) end
      assert.same({ 100, 200, 400, 800, 1600, 3200, 5000, 5000 }, waits)
      assert.is_true(first <= at[1])
      manager:dispose()
      local before = #at
      mtenant.sleep(60000)
      assert.equal(before, #at)
    end)
  end)
end)


describe("a swap under 10,000 tenants", function()
  -- without the collector, whose pauses are the same with any resolver
  before_each(function() collectgarbage("stop") end)
  after_each(function()
    collectgarbage("restart")
    env.assert_nothing_left()
  end)

  it("does not hold up the loop", env.in_task(function()
    local TENANTS = 10000
    local ids = {}
    for i = 1, TENANTS do ids[i] = "t" .. i end
    local manager = env.manager {
      policy = function(id) return { schema = "t_some_" .. id } end,
      routing = { ttl_ms = 3600000 },
      -- nobody listens there: only routes are asked for
      connection = { url = "postgresql://mtenant@127.0.0.1:1/mtenant",
                     retry = { max_attempts = 1 } },
      breaker = { fail_fast = true },
    }
    local function use(id)
      local _, err = manager:get_db(id):query("SELECT 1")
      return err.code
    end
    -- in the time of this process, for the machine has other things to do
    local worst, over = 0, false
    local function beat()
      local last = os.clock()
      while not over do
        mtenant.sleep(1)
        local now = os.clock()
        worst, last = math.max(worst, (now - last) * 1000), now
      end
    end
    local heart
    local function worst_while(fn)
      heart = heart or mtenant.spawn(beat)
      mtenant.sleep(5)
      worst = 0
      fn()
      return worst
    end
    mtenant.each(ids, 100, use)
    assert.equal(TENANTS, manager:get_policy_status().cache.entries)
    assert.equal(TENANTS, manager:get_pool_count())
    local before = manager:get_policy_status().cache.asked
    local swaps = worst_while(function()
      for n = 1, 20 do
        assert.is_true(manager:reload_policy(function(id)
          return { schema = "t_" .. n .. "_" .. id }
        end))
        mtenant.sleep(2)
      end
    end)
    local all = worst_while(function() mtenant.each(ids, 100, use) end)
    assert.equal(before + TENANTS, manager:get_policy_status().cache.asked)
    over = true
    heart:await()
    print(("\nworst beat: %.1f ms in 20 swaps, %.1f ms when all are asked for")
      :format(swaps, all))
    assert.is_true(swaps < 20, swaps .. " ms")
    assert.is_true(all < 20, all .. " ms")
    manager:dispose()
  end, 120000))
end)
