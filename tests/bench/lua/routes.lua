-- What routes cost that are known: the cache by itself, a manager's check at
-- each statement, and the memory after many distinct tenants were resolved.
--
--     lua5.4 tests/bench/lua/routes.lua [TENANTS]     1000000
--
-- with the module in LUA_CPATH. No server is needed: none is reached.

local core = require "mtenant.core"
local mtenant = require "mtenant"
local route_cache = require "mtenant.route_cache"

local TENANTS = tonumber(arg and arg[1]) or 1000000
local ROUNDS = 7


local function median_us(calls, fn)
  local times = {}
  for i = 1, ROUNDS do
    local from = os.clock()
    for n = 1, calls do fn(n) end
    times[i] = (os.clock() - from) / calls * 1e6
  end
  table.sort(times)
  return times[(ROUNDS + 1) / 2]
end


local function show(what, value, unit)
  print(("%-44s %8.2f %s"):format(what, value, unit))
end


local function resident_mib()
  for line in io.lines("/proc/self/status") do
    local kb = line:match("^VmRSS:%s+(%d+)")
    if kb then return tonumber(kb) / 1024 end
  end
end


local function cache_alone()
  local ids, N = {}, 10000
  local cache = route_cache.new { now_ms = core.now_ms, max_entries = 100000,
                                  ttl_ms = 3600000 }
  for i = 1, N do
    ids[i] = "tenant-" .. i
    cache:put(ids[i], { schema = "tenant_" .. i, strategy = "schema" })
  end
  show("look, a known route", median_us(200000, function(n)
    return cache:look(ids[n % N + 1])
  end), "us")
  local before = collectgarbage("count")
  collectgarbage("stop")
  for n = 1, 100000 do cache:look(ids[n % N + 1]) end
  show("  what that allocates in Lua", collectgarbage("count") - before, "KiB")
  collectgarbage("restart")
  show("put, the same route", median_us(100000, function(n)
    local i = n % N + 1
    return cache:put(ids[i], { schema = "tenant_" .. i, strategy = "schema" })
  end), "us")
end


local function new_manager(calls)
  return assert(mtenant.create_tenant_manager {
    connection = { url = "postgresql://x@127.0.0.1:1/x",
                   retry = { max_attempts = 1 } },
    breaker = { fail_fast = true },
    policy = function(id)
      calls.n = calls.n + 1
      return { schema = "tenant_" .. id, labels = { tier = "free" } }
    end,
    routing = { ttl_ms = 86400000 },
  })
end


-- Half of the time of a statement that fails at once is the failure itself;
-- what is shown is the difference to one whose tenant needs no policy.
local function many_tenants()
  local calls = { n = 0 }
  local manager = new_manager(calls)
  local function use(i)
    local _, err = manager:get_db("t" .. i):query("SELECT 1")
    return err.code
  end
  local step = math.max(1, math.floor(TENANTS / 10))
  print(("%10s %10s %10s %10s"):format("tenants", "resident", "Lua heap", "us each"))
  for from = 1, TENANTS, step do
    local ids, clock = {}, os.clock()
    for i = 1, step do ids[i] = from + i - 1 end
    mtenant.each(ids, 100, use)
    local each = (os.clock() - clock) / step * 1e6
    collectgarbage()
    collectgarbage()
    print(("%10d %6.1f MiB %6.1f MiB %10.1f"):format(from + step - 1,
      resident_mib(), collectgarbage("count") / 1024, each))
  end
  local status = manager:get_policy_status()
  assert(calls.n >= TENANTS)
  show("entries of the cache", status.cache.entries, "")
  show("entries of the core", manager:get_pool_count(), "")
  manager:dispose()
end


mtenant.run(function()
  cache_alone()
  many_tenants()
end)
