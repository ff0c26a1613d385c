--- W2: tasks in closed loops, each query to a random tenant, over few shared
-- connections.
--   --n=100000 --warm=2000 --workers=64 --conns=4 --tenants=100 --verify
--   --handles  keep one handle per tenant; else get_db before each query, as
--              a request handler does
--   --metrics=0  count nothing

local bench = require "bench"
local mtenant = bench.mtenant()

local SQL = "select id,name,balance from accounts where id=$1"

local options = bench.options {
  n = 100000,
  warm = 2000,
  workers = 64,
  conns = 4,
  tenants = 100,
  verify = 0,
  handles = 0,
  metrics = 1,
}
local verify = options.verify == 1
local draw, now = bench.random_sequence(), bench.now
local ids = {}
for i = 1, options.tenants do ids[i] = bench.tenant_id(i) end


local function handle_source(manager)
  if options.handles == 0 then
    return function(tenant) return assert(manager:get_db(ids[tenant])) end
  end
  local handles = {}
  for i, id in ipairs(ids) do handles[i] = assert(manager:get_db(id)) end
  return function(tenant) return handles[tenant] end
end


--- Runs n queries, `workers` at a time; their latencies go to `latency` if
-- given. Returns the sum of the ids read.
local function run(get_db, n, latency)
  local issued, done, sum, tenants = 0, 0, 0, options.tenants
  bench.run_tasks(options.workers, function()
    while issued < n do
      issued = issued + 1
      local tenant = draw() % tenants + 1
      local id = draw() % bench.IDS + 1
      local start = now()
      local row = assert(get_db(tenant):query(SQL, id))[1]
      done = done + 1
      sum = sum + row.id
      if latency then latency[done] = now() - start end
      if verify then bench.verify_row(row, tenant, id) end
    end
  end)
  assert(done == n, "queries got lost")
  return sum
end


local result = mtenant.run(function()
  local manager = bench.manager(options.conns, nil, nil, options.metrics == 1)
  local get_db, latency = handle_source(manager), {}
  run(get_db, options.warm)
  bench.begin()
  local check = run(get_db, options.n, latency)
  bench.finish()
  local conns = bench.count_connections(get_db(1))
  manager:dispose()
  return {
    name = "mtenant", n = options.n, latency = latency, check = check,
    conns = conns,
  }
end)
bench.report(result)
