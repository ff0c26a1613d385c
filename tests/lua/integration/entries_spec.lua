--- Tenant entries: made on use, dropped by number, age or request, and handles
--- that do not care.

local env = require "tests.support.env"
local mtenant = require "mtenant"


-- collects on_pool_created, on_pool_evicted and on_error
local function recorder(overrides)
  local log = {}
  overrides = overrides or {}
  overrides.hooks = {
    on_pool_created = function(id) log[#log + 1] = "created " .. id end,
    on_pool_evicted = function(id, reason)
      log[#log + 1] = "evicted " .. id .. " " .. reason
    end,
    on_error = function(id, err) log[#log + 1] = "error " .. id .. " " .. err.code end,
  }
  return overrides, log
end


describe("an entry", function()
  local IDS = { "a", "b", "c", "d", "e" }
  setup(function() env.tenants(IDS) end)
  after_each(env.assert_nothing_left)

  it("is made by first use, and tells of it", env.in_task(function()
    local overrides, log = recorder()
    local manager = env.manager(overrides)
    assert.is_false(manager:has_pool("a"))
    assert.equal(0, manager:get_pool_count())
    local db = assert(manager:get_db("a"))
    assert.is_true(manager:has_pool("a"))
    assert.same({}, log) -- no route yet, no I/O
    assert.equal(1, db:value("SELECT 1"))
    assert.same({ "created a" }, log)
    assert(manager:get_db_async("b"))
    assert(manager:get_shared_db_async())
    assert.same({ "created a", "created b", "created shared" }, log)
    assert.equal(2, manager:get_pool_count())
    assert.same({ "a", "b" }, manager:get_active_tenant_ids())
    assert.equal("t_a", manager:get_schema_name("a"))
    assert.equal("t_zzz", manager:get_schema_name("zzz"))
    assert.is_false(manager:has_pool("zzz"))
    for _, nonsense in ipairs({ 5, {}, "" }) do
      assert.is_false(manager:has_pool(nonsense))
      assert.is_false(manager:evict_pool(nonsense))
    end
  end))

  it("is the same for all handles of a tenant", env.in_task(function()
    local manager = env.manager()
    assert.equal(manager:get_db("a"), manager:get_db("a"))
    assert.equal(manager:get_db("a"), manager:get_db_async("a"))
    assert.equal(manager:get_shared_db(), manager:get_shared_db_async())
    assert.equal(1, manager:get_pool_count())
  end))

  it("goes when there are more than max_pools, the oldest first", env.in_task(
    function()
      local overrides, log = recorder({ isolation = { max_pools = 3 } })
      local manager = env.manager(overrides)
      for _, id in ipairs({ "a", "b", "c" }) do
        assert.equal(1, assert(manager:get_db(id)):value("SELECT 1"))
      end
      assert.equal(1, assert(manager:get_db("a")):value("SELECT 1"))
      assert.equal(1, assert(manager:get_db("d")):value("SELECT 1"))
      assert.equal(3, manager:get_pool_count())
      assert.same({ "c", "a", "d" }, manager:get_active_tenant_ids())
      assert.same({ "created a", "created b", "created c",
                    "evicted b lru_eviction", "created d" }, log)
    end))

  it("leaves its handle usable: it is made again", env.in_task(function()
    local overrides, log = recorder({ isolation = { max_pools = 1 } })
    local manager = env.manager(overrides)
    local handles = {}
    for _, id in ipairs(IDS) do handles[id] = assert(manager:get_db(id)) end
    for _ = 1, 3 do
      for _, id in ipairs(IDS) do
        assert.equal("t_" .. id, handles[id]:value("SELECT current_schema()"))
        assert.equal("t_" .. id, handles[id]:transaction(function(tx)
          return tx:value("SELECT current_schema()")
        end))
      end
    end
    assert.equal(1, manager:get_pool_count())
    assert.is_true(#log > 20)
    -- a connection is not an entry's: nothing had to reconnect
    assert.is_true(manager:get_stats().opened <= 2)
  end))

  it("in use is not evicted", env.in_task(function()
    local overrides, log = recorder({
      isolation = { max_pools = 2, pool_ttl_ms = 20 },
    })
    local manager = env.manager(overrides)
    local a = assert(manager:get_db("a"))
    assert(a:transaction(function(tx)
      assert(tx:query("SELECT 1"))
      for _, id in ipairs({ "b", "c", "d" }) do
        assert.equal(1, assert(manager:get_db(id)):value("SELECT 1"))
      end
      assert.is_true(manager:has_pool("a"))
      env.eventually("the others to be gone", function()
        return manager:get_pool_count() == 1
      end)
      assert.is_true(manager:has_pool("a"))
      assert.equal("t_a", tx:value("SELECT current_schema()"))
      return true
    end))
    for _, line in ipairs(log) do
      assert.is_nil(line:find("evicted a", 1, true))
    end
    env.eventually("a to be gone", function() return not manager:has_pool("a") end)
    assert.equal("evicted a ttl_expired", log[#log])
  end))

  it("goes when it was not used for pool_ttl_ms", env.in_task(function()
    local overrides, log = recorder({ isolation = { pool_ttl_ms = 60 } })
    local manager = env.manager(overrides)
    local a, b = assert(manager:get_db("a")), assert(manager:get_db("b"))
    assert.equal(1, b:value("SELECT 1"))
    env.eventually("b to be gone, and a to stay while it is used", function()
      assert.equal(1, a:value("SELECT 1"))
      return not manager:has_pool("b")
    end)
    assert.is_true(manager:has_pool("a"))
    assert.equal("evicted b ttl_expired", log[#log])
    env.eventually("a to be gone", function() return not manager:has_pool("a") end)
    assert.equal("evicted a ttl_expired", log[#log])
    assert.equal(1, b:value("SELECT 1"))
  end))

  it("never goes by age when pool_ttl_ms is 0", env.in_task(function()
    local manager = env.manager({ isolation = { pool_ttl_ms = 0 } })
    assert.equal(1, assert(manager:get_db("a")):value("SELECT 1"))
    mtenant.sleep(50)
    assert.is_true(manager:has_pool("a"))
  end))

  it("goes on request, and what is in flight finishes", env.in_task(function()
    local overrides, log = recorder()
    local manager = env.manager(overrides)
    local a = assert(manager:get_db("a"))
    assert.is_false(manager:evict_pool("nobody"))
    local query = mtenant.spawn(a.value, a, "SELECT 5 FROM pg_sleep(0.1)")
    local tx = mtenant.spawn(a.transaction, a, function(tx)
      env.must(tx:query("SELECT 1"))
      mtenant.sleep(50)
      return tx:value("SELECT 6 FROM pg_sleep(0.05)")
    end)
    env.eventually("both to run", function()
      return env.count("state <> 'idle'") == 2
    end)
    assert.is_true(manager:evict_pool("a"))
    assert.is_false(manager:has_pool("a"))
    assert.is_false(manager:evict_pool("a"))
    assert.equal(7, a:value("SELECT 7")) -- a new entry, meanwhile
    assert.equal(5, query:await())
    assert.equal(6, tx:await())
    assert.same({ "created a", "evicted a manual", "created a" }, log)
  end))

  it("of its own pool keeps that as long as anything of it is left",
     env.in_task(function()
    local manager = env.manager({ isolation = { mode = "dedicated" } })
    local a = assert(manager:get_db("a"))
    for _ = 1, 5 do
      local go
      local tx = mtenant.spawn(a.transaction, a, function(tx)
        env.must(tx:query("SELECT 1"))
        while not go do mtenant.sleep(1) end
        return tx:value("SELECT 6")
      end)
      env.eventually("the transaction", function()
        return env.count("state = 'idle in transaction'") == 1
      end)
      assert.is_true(manager:evict_pool("a"))
      assert.equal(7, a:value("SELECT 7")) -- by a new entry
      go = true
      assert.equal(6, tx:await())
      for _ = 1, 5 do -- the old entry goes meanwhile
        mtenant.sleep(1)
        assert.equal(8, a:value("SELECT 8"))
        assert.equal(9, a:transaction(function(t) return t:value("SELECT 9") end))
      end
    end
    assert.is_true(manager:evict_pool("a"))
    env.eventually("its connections to be closed", function()
      return env.count() == 0
    end)
  end))

  it("that never worked is dropped with reason error", env.in_task(function()
    local overrides, log = recorder()
    local manager = env.manager(overrides)
    local db, err = manager:get_db_async("nowhere")
    assert.is_nil(db)
    assert.equal("tenant_not_found", err.code)
    assert.is_false(manager:has_pool("nowhere"))
    assert.same({ "created nowhere", "error nowhere tenant_not_found",
                  "evicted nowhere error" }, log)
  end))

  it("survives the loss of a connection", env.in_task(function()
    local overrides, log = recorder()
    local manager = env.manager(overrides)
    local a = assert(manager:get_db_async("a"))
    local pid = a:value("SELECT pg_backend_pid()")
    env.sql("SELECT pg_terminate_backend(" .. pid .. ")")
    env.eventually("the backend to be gone", function()
      return env.count("pid = " .. pid) == 0
    end)
    assert.equal(1, a:value("SELECT 1"))
    assert.same({ "created a" }, log)
    assert.is_true(manager:has_pool("a"))
  end))

  it("is not harmed by a hook that raises or wants to wait", env.in_task(
    function()
      local heard
      local manager = env.manager({
        isolation = { max_pools = 1 },
        hooks = {
          on_pool_created = function() error("in the hook") end,
          on_pool_evicted = function() mtenant.sleep(5) end,
        },
      })
      local said = env.stderr_of(function()
        for _, id in ipairs({ "a", "b" }) do
          assert.equal(1, assert(manager:get_db(id)):value("SELECT 1"))
        end
        heard = true
      end)
      assert.is_true(heard)
      assert.is_truthy(said:find("on_pool_created: ", 1, true), said)
      assert.is_truthy(said:find("in the hook", 1, true), said)
      assert.is_truthy(said:find("on_pool_evicted: ", 1, true), said)
    end))

  it("may be dropped and asked for inside of a hook", env.in_task(function()
    local manager
    manager = env.manager({
      isolation = { max_pools = 2 },
      hooks = {
        on_pool_created = function() manager:evict_pool("a") end,
        on_pool_evicted = function() manager:get_db("e") end,
      },
    })
    for _ = 1, 2 do
      for _, id in ipairs(IDS) do
        assert.equal("t_" .. id, assert(manager:get_db(id)):value(
          "SELECT current_schema()"))
      end
    end
    assert.is_true(manager:get_pool_count() <= 3)
  end))
end)


describe("warmup", function()
  setup(function() env.tenants({ "a", "b", "c" }) end)
  after_each(env.assert_nothing_left)

  it("connects tenants ahead of use, and tells how it went", env.in_task(
    function()
      local manager = env.manager()
      assert(manager:get_db_async("b"))
      local seen = {}
      local result = assert(manager:warmup({ "a", "b", "nowhere", "c", "bad id" }, {
        concurrency = 2,
        on_progress = function(id, status)
          seen[id] = (seen[id] and seen[id] .. " " or "") .. status
        end,
      }))
      assert.equal(5, result.total)
      assert.equal(3, result.succeeded)
      assert.equal(2, result.failed)
      assert.equal(1, result.already_warm)
      assert.is_true(result.duration_ms >= 0)
      assert.same({
        a = "starting completed", b = "starting completed",
        c = "starting completed", nowhere = "starting failed",
        ["bad id"] = "starting failed",
      }, seen)
      for i, id in ipairs({ "a", "b", "nowhere", "c", "bad id" }) do
        local detail = result.details[i]
        assert.equal(id, detail.tenant_id)
        assert.equal(id == "b", detail.already_warm)
        assert.equal(i ~= 3 and i ~= 5, detail.success)
        assert.is_number(detail.duration_ms)
      end
      assert.equal("tenant_not_found", result.details[3].error.code)
      assert.equal("invalid_tenant_id", result.details[5].error.code)
    end))

  it("without ping does no I/O", env.in_task(function()
    local manager = env.manager()
    local result = assert(manager:warmup({ "a", "b" }, { ping = false }))
    assert.equal(2, result.succeeded)
    assert.equal(0, env.count())
    assert.equal(2, manager:get_pool_count())
  end))

  it("takes nothing, and refuses nonsense", env.in_task(function()
    local manager = env.manager()
    assert.equal(0, assert(manager:warmup({})).total)
    for _, args in ipairs({ { 5 }, { {}, { concurrency = 0 } },
                            { {}, { concurrency = 1.5 } }, { {}, { pings = true } },
                            { {}, { on_progress = 5 } } }) do
      assert.has_error(function() manager:warmup(args[1], args[2]) end)
    end
    local said = env.stderr_of(function()
      assert.equal(1, assert(manager:warmup({ "a" }, {
        on_progress = function() error("in progress") end,
      })).succeeded)
    end)
    assert.is_truthy(said:find("in progress", 1, true))
  end))
end)
