--- W8: memory of a client that goes through many tenants on few connections,
-- and of the server's processes behind them.
--   --tenants=10000 --warm=100 --again=5000 --workers=64 --conns=20
--   --grown  connections open as they are needed; else all of them are
-- The first `warm` tenants load code and open connections, growth counts from
-- there. Then every tenant is asked once, and `again` of them at random.

local bench = require "bench"
local mtenant = bench.mtenant()

local SQL = "select id, name from accounts where id = 1"
local BACKENDS = [[select pid from pg_catalog.pg_stat_activity
  where backend_type = 'client backend'
  and datname = pg_catalog.current_database()]]

local options = bench.options {
  tenants = 10000, warm = 100, again = 5000, workers = 64, conns = 20,
  grown = 0,
}


local function touch(manager, tenants)
  local _, errors = mtenant.each(tenants, options.workers, function(tenant)
    local db = assert(manager:get_db(bench.tenant_id(tenant)))
    bench.verify_row(assert(db:query(SQL))[1], tenant, 1)
    return true
  end)
  if errors then error(select(2, next(errors)), 0) end
end


local function range(from, to)
  local list = {}
  for tenant = from, to do list[#list + 1] = tenant end
  return list
end


local function random_tenants()
  local draw, list = bench.random_sequence(), {}
  for i = 1, options.again do list[i] = draw() % options.tenants + 1 end
  return list
end


--- The backends and the memory they hold, in kB, shared pages by shares; 0
-- where we may not look.
local function backends_memory(manager)
  local rows, kb = assert(manager:get_shared_db():query(BACKENDS)), 0
  for _, row in ipairs(rows) do
    local file = io.open(("/proc/%d/smaps_rollup"):format(row.pid))
    local text = file and file:read "a" or ""
    if file then file:close() end
    kb = kb + (tonumber(text:match "\nPss:%s+(%d+)") or 0)
  end
  return #rows, kb
end


local function memory()
  collectgarbage()
  collectgarbage()
  return bench.memory "VmRSS"
end


local result = mtenant.run(function()
  local min = options.grown == 0 and options.conns or 0
  local manager = bench.manager(options.conns,
    { min = min, max = math.max(min, 10) })
  local first, rest = range(1, options.warm),
    range(options.warm + 1, options.tenants)
  local again = random_tenants()
  touch(manager, first)
  local rss, heap = memory(), bench.heap()

  bench.begin()
  touch(manager, rest)
  touch(manager, again)
  bench.finish()
  local late, peak = bench.memory "VmRSS", bench.memory "VmHWM"
  local backends, pss = backends_memory(manager)
  local kept, heap_kept = memory(), bench.heap()
  local stats, n = manager:get_stats(), #rest + #again
  assert(manager:get_pool_count() == options.tenants, "tenants are missing")
  manager:dispose()
  return {
    name = "mtenant", n = n, check = n, conns = stats.peak,
    extra = {
      growth_mib = (late - rss) / 1024,
      peak_growth_mib = (peak - rss) / 1024,
      kept_mib = (kept - rss) / 1024,
      heap_mib = (heap_kept - heap) / 1024,
      backends = backends,
      server_mib = pss / 1024,
      recycled = stats.retired,
    },
  }
end)
bench.report(result)
