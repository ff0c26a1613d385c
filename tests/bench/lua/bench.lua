--- What every Lua program of the benchmark needs: options, the shared random
-- sequence, the measured part and its JSON line, a manager by BENCH_URL.

local clock = require "luaclock"

local SEED = 42

local M = { IDS = 100, now = clock.now, heap = clock.heap }

local began, ended


--- The mtenant module; the floor program never asks for it.
function M.mtenant()
  return require "mtenant"
end


--- Reads `--name=value` and `--name` (1) over a table of defaults, which also
-- gives the types. Unknown names end the program.
function M.options(defaults)
  local options = {}
  for name, value in pairs(defaults) do options[name] = value end
  for _, word in ipairs(arg) do
    local name, value = word:match "^%-%-([%w_]+)=(.*)$"
    name, value = name or word:match "^%-%-([%w_]+)$", value or "1"
    if defaults[name] == nil then
      io.stderr:write("unknown option: ", word, "\n")
      os.exit(2)
    end
    local numeric = type(defaults[name]) == "number"
    options[name] = numeric and assert(tonumber(value), word) or value
  end
  return options
end


--- The Park-Miller sequence that all programs draw from.
function M.random_sequence()
  local state = SEED
  return function()
    state = state * 16807 % 2147483647
    return state
  end
end


--- Memory of this process in kB, by the key of /proc/self/status.
function M.memory(key)
  for line in io.lines "/proc/self/status" do
    local kb = line:match("^" .. key .. ":%s+(%d+)")
    if kb then return tonumber(kb) end
  end
  return 0
end


local function snapshot()
  local user, sys = clock.cpu()
  return { wall = clock.now(), user = user, sys = sys }
end


--- The measured part starts; garbage from before is not its business.
function M.begin()
  collectgarbage()
  began = snapshot()
end


--- The measured part ends.
function M.finish()
  ended = snapshot()
  ended.rss, ended.peak = M.memory "VmRSS", M.memory "VmHWM"
end


local function percentile_us(sorted, p)
  if not sorted or #sorted == 0 then return 0 end
  return sorted[math.min(#sorted, math.floor(#sorted * p) + 1)] * 1e6
end


--- Prints the JSON line. `result`: name, n, check, conns, latency (seconds,
-- optional), extra (a table of numbers, optional).
function M.report(result)
  local latency, extra = result.latency, ""
  if latency then table.sort(latency) end
  for key, value in pairs(result.extra or {}) do
    extra = extra .. (',"%s":%.10g'):format(key, value)
  end
  print(('{"name":"%s","n":%d,"wall_s":%.6f,"user_s":%.6f,"sys_s":%.6f,'
    .. '"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,"max_us":%.1f,'
    .. '"rss_kb":%d,"peak_kb":%d,"check":%.0f,"conns":%d%s}'):format(
    result.name, result.n, ended.wall - began.wall,
    ended.user - began.user, ended.sys - began.sys,
    percentile_us(latency, 0.50), percentile_us(latency, 0.90),
    percentile_us(latency, 0.99), percentile_us(latency, 1), ended.rss,
    ended.peak, result.check, result.conns, extra))
end


--- A manager of the benchmark's server. `pool` and `isolation` are optional
-- and complete the settings; metrics false: nothing is counted.
function M.manager(max_connections, pool, isolation, metrics)
  local settings = {
    strategy = "schema",
    schema_name_template = function(id) return "tenant_" .. id end,
  }
  for key, value in pairs(isolation or {}) do settings[key] = value end
  return assert(M.mtenant().create_tenant_manager {
    connection = {
      url = assert(os.getenv "BENCH_URL", "BENCH_URL is not set"),
      max_connections = max_connections,
      pool = pool,
    },
    isolation = settings,
    metrics = metrics,
  })
end


--- The id of the tenant by its number: its schema is "tenant_" .. id.
function M.tenant_id(number)
  return ("%04d"):format(number)
end


--- The row's tenant shows in its name: raises if it is another one's.
function M.verify_row(row, tenant, id)
  local expected = ("name %d-%d"):format(tenant, id)
  if row.name ~= expected or row.id ~= id then
    error(("wrong row: asked for %q, got %q"):format(expected,
      tostring(row.name)), 0)
  end
end


--- Runs `count` tasks of `work(number)` to their end. The first failure stops
-- the program.
function M.run_tasks(count, work)
  local mtenant, tasks, failure = M.mtenant(), {}, nil
  for i = 1, count do
    tasks[i] = mtenant.spawn(function()
      local ok, err = xpcall(work, debug.traceback, i)
      if not ok then failure = failure or err end
    end)
  end
  for i = 1, count do tasks[i]:await() end
  if failure then error(failure, 0) end
end


--- Server connections of this benchmark, counted through the handle `db`.
function M.count_connections(db)
  return assert(db:value [[select count(*) from pg_catalog.pg_stat_activity
    where backend_type = 'client backend'
    and datname = pg_catalog.current_database()]])
end

return M
