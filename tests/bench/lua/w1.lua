--- W1: sequential selects in one tenant, one task, one connection.
--   --n=20000 --warm=500 --verify

local bench = require "bench"
local mtenant = bench.mtenant()

local SQL = "select id,name,balance from accounts where id=$1"

local options = bench.options { n = 20000, warm = 500, verify = 0 }
local verify = options.verify == 1
local draw, now = bench.random_sequence(), bench.now


local function measure(db)
  local latency, check = {}, 0
  for i = 1 - options.warm, options.n do
    if i == 1 then
      check = 0
      bench.begin()
    end
    local id = draw() % bench.IDS + 1
    local start = now()
    local row = assert(db:query(SQL, id))[1]
    check = check + row.id
    if i >= 1 then latency[i] = now() - start end
    if verify then bench.verify_row(row, 1, id) end
  end
  bench.finish()
  return { name = "mtenant", n = options.n, latency = latency, check = check }
end


local result = mtenant.run(function()
  local manager = bench.manager(1)
  local db = assert(manager:get_db(bench.tenant_id(1)))
  local measured = measure(db)
  measured.conns = bench.count_connections(db)
  manager:dispose()
  return measured
end)
bench.report(result)
