--- What a run prints: progress on a terminal, and at the end a table or JSON.

local mtenant = require "mtenant"

local M = {}

local CLEAR = "\r\27[K"


--- Is standard error a terminal?
function M.on_terminal()
  return (os.execute("test -t 2"))
end


function M.progress(world, seconds)
  local stats = world.manager:get_stats()
  io.stderr:write(CLEAR, ("%d of %d operations, %.0f/s, %d connections opened, "
    .. "%d leaks"):format(world.done, world.options.operations,
    world.done / math.max(seconds, 0.001), stats.opened, #world.leaks))
  io.stderr:flush()
end


function M.hide()
  io.stderr:write(CLEAR)
end


local function sorted(counts)
  local names = {}
  for name in pairs(counts) do names[#names + 1] = name end
  table.sort(names)
  return names
end


local function print_counts(title, counts)
  local names = sorted(counts)
  if #names > 0 then print(title) end
  for _, name in ipairs(names) do
    print(("  %-24s %10d"):format(name, counts[name]))
  end
end


local function print_findings(title, list)
  for i = 1, math.min(#list, 20) do
    local it = list[i]
    print(("%s%s: operation %d (%s) of %s: %s"):format(title,
      it.kind and " (" .. it.kind .. ")" or "", it.operation, it.name or "?",
      it.tenant or "?", it.what))
  end
end


local function summary(world, seconds)
  local stats = world.manager:get_stats()
  local out = {
    seed = world.options.seed, operations = world.done,
    tenants = world.options.tenants, connections = world.options.connections,
    seconds = math.floor(seconds * 10) / 10,
    per_second = math.floor(world.done / seconds),
    probes = world.probes or 0, rows_checked = world.checks,
    writes_verified = world.verified or 0,
    connections_opened = stats.opened, connections_lost = stats.lost,
    connections_retired = stats.retired, connections_tainted = stats.tainted,
    resets = stats.resets or 0, leases = stats.leases,
    requests = stats.requests, peak = stats.peak,
    leaks = #world.leaks, problems = #world.problems,
  }
  for name, value in pairs(out) do -- counts may come as floats
    out[name] = math.tointeger(value) or value
  end
  return out
end


local function to_json(value)
  if type(value) == "table" then
    local out = {}
    if #value > 0 then
      for i, item in ipairs(value) do out[i] = to_json(item) end
      return "[" .. table.concat(out, ",") .. "]"
    end
    for i, name in ipairs(sorted(value)) do
      out[i] = to_json(name) .. ":" .. to_json(value[name])
    end
    return "{" .. table.concat(out, ",") .. "}"
  end
  if type(value) ~= "string" then return tostring(value) end
  return '"' .. value:gsub('[%c"\\]', function(char)
    return ("\\u%04x"):format(char:byte())
  end) .. '"'
end


--- Prints the end of a run.
function M.finish(world)
  local seconds = (mtenant.now_ms() - world.began) / 1000
  local out = summary(world, seconds)
  if world.options.json then
    out.counts, out.errors = world.counts, world.errors
    out.found_leaks, out.found_problems = world.leaks, world.problems
    print(to_json(out))
    return
  end
  print_counts("operations", world.counts)
  print_counts("errors, all of them expected but for those below",
               world.errors)
  print("summary")
  for _, name in ipairs(sorted(out)) do
    print(("  %-24s %10s"):format((name:gsub("_", " ")), tostring(out[name])))
  end
  print_findings("LEAK", world.leaks)
  print_findings("PROBLEM", world.problems)
  print(("seed %d: %d operations, %d leaks, %d problems"):format(
    out.seed, out.operations, out.leaks, out.problems))
end


return M
