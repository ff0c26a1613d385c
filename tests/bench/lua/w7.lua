--- W7: client memory per tenant that is known and idle, and the server
-- connections that are left for them.
--   --tenants=10000 --warm=100 --workers=64 --conns=4
--   --mode=async  get_db_async of each tenant: routed, fenced, pinged
--   --mode=query  get_db and one query of each tenant
-- The first `warm` tenants load code and open connections; growth counts from
-- there, after a full collection, with all connections timed out.

local bench = require "bench"
local luarows = require "luarows"
local mtenant = bench.mtenant()

local IDLE_TIMEOUT_MS = 500
local GIVE_UP_MS = 15000
local BACKENDS = [[select count(*) as n from pg_catalog.pg_stat_activity
  where backend_type = 'client backend'
  and datname = pg_catalog.current_database()
  and pid <> pg_catalog.pg_backend_pid()]]

local options = bench.options {
  tenants = 10000, warm = 100, workers = 64, conns = 4, mode = "async",
}
local TOUCH = {}


function TOUCH.async(manager, id)
  assert(manager:get_db_async(id))
end


function TOUCH.query(manager, id)
  local db = assert(manager:get_db(id))
  local schema = assert(db:value "select pg_catalog.current_schema()")
  assert(schema == "tenant_" .. id, schema)
end


local function touch_range(manager, from, to)
  local touch = assert(TOUCH[options.mode], "--mode")
  bench.run_tasks(options.workers, function()
    while from <= to do
      local id = bench.tenant_id(from)
      from = from + 1
      touch(manager, id)
    end
  end)
end


--- Waits until the idle connections are closed, at most GIVE_UP_MS.
local function count_left_backends()
  local conn = luarows.connect()
  local waited, left = 0
  repeat
    mtenant.sleep(100)
    waited = waited + 100
    left = conn:query(BACKENDS)[1].n
  until left == 0 or waited >= GIVE_UP_MS
  conn:close()
  return left
end


local function memory()
  collectgarbage()
  collectgarbage()
  return bench.memory "VmRSS", bench.heap()
end


local result = mtenant.run(function()
  local pool = { idle_timeout_ms = IDLE_TIMEOUT_MS }
  local manager = bench.manager(options.conns, pool,
    { max_pools = options.tenants + 10 })
  touch_range(manager, 1, options.warm)
  count_left_backends()
  local rss, heap = memory()

  bench.begin()
  touch_range(manager, options.warm + 1, options.tenants)
  bench.finish()
  local backends = count_left_backends()
  local rss_after, heap_after = memory()
  local n, known = options.tenants - options.warm, manager:get_pool_count()
  assert(known == options.tenants, "known tenants: " .. tostring(known))
  manager:dispose()
  return {
    name = "mtenant-" .. options.mode, n = n, check = n, conns = backends,
    extra = {
      kb_per_item = (rss_after - rss) / n,
      heap_kb_per_item = (heap_after - heap) / n,
      backends = backends,
    },
  }
end)
bench.report(result)
