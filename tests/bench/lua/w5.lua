--- W5: many tenants at once on a server with few connections: every task waits
-- for the budget, none may fail, and no tenant may wait much longer than the
-- others.
--   --tenants=100 --each=10 --ms=50
-- All tasks start at once, the tenants one after the other: without turns the
-- last tenants would wait longest. A wait is from that start to the answer.

local bench = require "bench"
local luarows = require "luarows"
local mtenant = bench.mtenant()

-- What max_connections = "auto" may come to, see docs/configuration.md: half
-- of what is free once one connection is open.
local LIMITS = [[select free, least(20, greatest(1, (free - 1) / 2)) as budget
  from (select current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true)::int, 0) as free
  ) f]]

local options = bench.options { tenants = 100, each = 10, ms = 50 }
local sql = ("select pg_sleep(%g)"):format(options.ms / 1000)


local function ask_limits()
  local conn = luarows.connect()
  local row = conn:query(LIMITS)[1]
  conn:close()
  return row
end


local function run_all(manager)
  local n = options.tenants * options.each
  local waits, sums, worst, errors = {}, {}, {}, 0
  local start = bench.now()
  bench.run_tasks(n, function(i)
    local tenant = (i - 1) // options.each + 1
    local db = assert(manager:get_db(bench.tenant_id(tenant)))
    local rows, err = db:query(sql)
    if not rows then
      errors = errors + 1
      io.stderr:write(tostring(err), "\n")
    end
    local wait = bench.now() - start
    waits[#waits + 1] = wait
    sums[tenant] = (sums[tenant] or 0) + wait
    worst[tenant] = math.max(worst[tenant] or 0, wait)
  end)
  return waits, sums, worst, errors
end


--- The largest of the values over their mean.
local function unfairness(values)
  local sum, largest = 0, 0
  for _, value in ipairs(values) do
    sum = sum + value
    largest = math.max(largest, value)
  end
  return largest / (sum / #values)
end


local result = mtenant.run(function()
  local limits = ask_limits()
  local manager = bench.manager "auto"
  bench.begin()
  local began = bench.now()
  local waits, sums, worst, errors = run_all(manager)
  local took = bench.now() - began
  bench.finish()
  local peak = manager:get_stats().peak
  manager:dispose()
  return {
    name = "mtenant", n = #waits, check = #waits, conns = peak,
    latency = waits,
    extra = {
      errors = errors,
      budget = limits.budget,
      server_free = limits.free,
      tenant_mean_ratio = unfairness(sums),
      tenant_last_ratio = unfairness(worst),
      busy = #waits * options.ms / 1000 / (took * limits.budget),
    },
  }
end)
bench.report(result)
