--- W6: quiet tenants beside one that has thousands of statements queued.
--   --noise=10000 --noise_ms=5 --tenants=50 --each=40 --interval=100
--   --conns=20   connection.max_connections
-- Every quiet tenant asks by primary key each `interval` milliseconds, from a
-- phase of its own on; the schedule is drawn from the shared sequence. A wait
-- counts from the wish for a query, at most a timer's grain after the time
-- that the schedule says, so that being late is seen.

local bench = require "bench"
local luarows = require "luarows"
local mtenant = bench.mtenant()

local SQL = "select id,name,balance from accounts where id=$1"
local NOISY = 100 -- no quiet tenant
local START_MS = 200 -- the noise is under way when the quiet ones begin
local GRAIN_S = 0.001 -- of the loop's timers
local SLEEPING = [[select count(*) as n from pg_catalog.pg_stat_activity
  where wait_event = 'PgSleep']]

local options = bench.options {
  noise = 10000, noise_ms = 5, tenants = 50, each = 40, interval = 100,
  conns = 20, warm = 1,
}
local noise_left = 0


local function start_noise(db)
  local sql = ("select pg_sleep(%g)"):format(options.noise_ms / 1000)
  noise_left = options.noise
  local tasks = {}
  for i = 1, options.noise do
    tasks[i] = mtenant.spawn(function()
      assert(db:query(sql))
      noise_left = noise_left - 1
      return true
    end)
  end
  return tasks
end


--- Phases and ids of the quiet tenants, tenant by tenant.
local function draw_schedule()
  local draw, schedule = bench.random_sequence(), {}
  for tenant = 1, options.tenants do
    local plan = { phase = draw() % options.interval }
    for k = 1, options.each do plan[k] = draw() % bench.IDS + 1 end
    schedule[tenant] = plan
  end
  return schedule
end


local function run_quiet(handles, schedule, start)
  local waits, check = {}, 0
  bench.run_tasks(options.tenants, function(tenant)
    local plan, db = schedule[tenant], handles[tenant]
    for k, id in ipairs(plan) do
      local due = start + (plan.phase + (k - 1) * options.interval) / 1000
      local early = due - bench.now()
      if early > 0 then mtenant.sleep(early * 1000) end
      local since = math.min(bench.now(), due + GRAIN_S)
      local row = assert(db:query(SQL, id))[1]
      waits[#waits + 1] = bench.now() - since
      check = check + row.id
      bench.verify_row(row, tenant, id)
    end
  end)
  return waits, check
end


--- The most of the noise's statements that the server runs at a time. Asked
-- after the quiet ones are done: asking blocks the loop.
local function count_sleeping()
  local conn, most = luarows.connect(), 0
  for _ = 1, 20 do
    if noise_left == 0 then break end
    most = math.max(most, conn:query(SLEEPING)[1].n)
    mtenant.sleep(2)
  end
  conn:close()
  return most
end


--- The control makes as much noise: it reads the number from this file.
local function tell_control(noise_conns)
  local path = os.getenv "BENCH_NOISE"
  if not path or noise_conns == 0 then return end
  local file = assert(io.open(path, "w"))
  assert(file:write(("%d\n"):format(noise_conns)))
  assert(file:close())
end


local function open_handles(manager)
  local handles = {}
  for tenant = 1, options.tenants do
    handles[tenant] = assert(manager:get_db(bench.tenant_id(tenant)))
    assert(handles[tenant]:query(SQL, 1))
  end
  return handles
end


local result = mtenant.run(function()
  local manager = bench.manager(options.conns,
    { max_waiting = 2 * options.noise, acquire_timeout_ms = 600000 })
  local schedule, handles = draw_schedule(), open_handles(manager)
  local noisy = assert(manager:get_db(bench.tenant_id(NOISY)))
  local start = bench.now() + START_MS / 1000
  local tasks = start_noise(noisy)
  bench.begin()
  local waits, check = run_quiet(handles, schedule, start)
  bench.finish()
  local took, left = bench.now() - start + START_MS / 1000, noise_left
  local sleeping = count_sleeping()
  tell_control(sleeping)
  for _, task in ipairs(tasks) do assert(task:await()) end
  local stats = manager:get_stats()
  manager:dispose()
  return {
    name = "mtenant", n = #waits, check = check, conns = stats.peak,
    latency = waits,
    extra = {
      noise_left = left,
      noise_per_s = (options.noise - left) / took,
      noise_conns = sleeping,
    },
  }
end)
bench.report(result)
