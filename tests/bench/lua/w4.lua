--- W4: from nothing to the first query of each of many tenants, over shared
-- connections that are opened within the measured time.
--   --tenants=1000 --workers=64 --conns=20 --verify

local bench = require "bench"
local mtenant = bench.mtenant()

local SQL = "select id,name,balance from accounts where id=$1"

local options = bench.options {
  tenants = 1000, workers = 64, conns = 20, verify = 0,
}
local verify = options.verify == 1
local draw, now = bench.random_sequence(), bench.now


local function first_queries(manager)
  local asked, answered, check, latency = 0, 0, 0, {}
  bench.run_tasks(options.workers, function()
    while asked < options.tenants do
      asked = asked + 1
      local tenant, id = asked, draw() % bench.IDS + 1
      local start = now()
      local db = assert(manager:get_db(bench.tenant_id(tenant)))
      local row = assert(db:query(SQL, id))[1]
      answered = answered + 1
      check = check + row.id
      latency[answered] = now() - start
      if verify then bench.verify_row(row, tenant, id) end
    end
  end)
  return { name = "mtenant", n = answered, latency = latency, check = check }
end


local result = mtenant.run(function()
  bench.begin()
  local manager = bench.manager(options.conns)
  local measured = first_queries(manager)
  bench.finish()
  measured.conns =
    bench.count_connections(assert(manager:get_db(bench.tenant_id(1))))
  manager:dispose()
  return measured
end)
bench.report(result)
