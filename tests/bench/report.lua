--- Turns the lines of results that run.sh collects into tables, and says of
-- each target whether it is met.
--   lua5.4 report.lua FILE [--json=FILE|-] [--strict]
-- Exit status: 0; 1 if a program failed, a check sum is wrong, or, with
-- --strict, a target is not met or not measured.

-- What the programs leave out of their check sums.
local WARM = { W1 = 500, W2 = 2000 }
-- What a stream of rows may keep: buffers and garbage, whatever its length.
local STREAM_KB, STREAM_LATE_KB = 8192, 2048

local TITLES = {
  W1 = "W1: sequential selects on one connection, all on one CPU (op = query)",
  W2 = "W2: 64 tasks, random tenants of 100, shared connections (op = query)",
  W3 = "W3: rows of six columns, 100,000 at a time (op = row)",
  W4 = "W4: first query on each tenant, 64 at a time, nothing open before "
    .. "(op = tenant)",
  W7 = "W7: memory per connection (raw) and per known, idle tenant (mtenant)",
}

-- What the programs of a workload are compared with.
local DEFAULT_BASES = {
  W1 = "raw scope",
  W2 = "raw c4 affinity",
  W3 = "raw text",
  W4 = "raw c20",
  W7 = "raw connections",
}

-- Programs that are compared with another one.
local BASES = {
  ["W3 mtenant hash"] = "raw floor hash",
  ["W3 mtenant array"] = "raw floor array",
  ["W3 mtenant get"] = "raw floor get",
  ["W3 mtenant index"] = "raw floor get",
  ["W3 raw stream"] = "raw stream",
  ["W3 mtenant stream"] = "raw stream",
  ["W4 mtenant c4"] = "raw c4 scope",
}


-- ---- reading ---------------------------------------------------------------

--- One flat JSON object per line: numbers and plain strings.
local function parse_line(line)
  local record = {}
  for key, value in line:gmatch '"([%w_]+)":("?[^",}]*"?)' do
    record[key] = value:match '^"(.*)"$' or tonumber(value)
  end
  return record
end


local function add_rates(r)
  r.per_s = r.n / r.wall_s
  r.cpu_us = (r.user_s + r.sys_s) / r.n * 1e6
  r.server_us = r.server_s / r.n * 1e6
  r.rss_mib, r.peak_mib = r.rss_kb / 1024, r.peak_kb / 1024
end


--- Workloads in order, each a list of programs in order, each with its runs
-- by round.
local function read_results(path)
  local workloads, lines = {}, {}
  for line in io.lines(path) do
    local r = parse_line(line)
    lines[#lines + 1] = line
    local programs = workloads[r.workload]
    if not programs then
      programs = { name = r.workload }
      workloads[r.workload] = programs
      workloads[#workloads + 1] = programs
    end
    local program = programs[r.contestant]
    if not program then
      program = { name = r.contestant, workload = r.workload, rounds = {} }
      programs[r.contestant] = program
      programs[#programs + 1] = program
    end
    if r.failed then
      program.failed = true
    else
      add_rates(r)
      program.rounds[r.round] = r
    end
  end
  return workloads, lines
end


-- ---- checking --------------------------------------------------------------

local function random_sequence()
  local state = 42
  return function()
    state = state * 16807 % 2147483647
    return state
  end
end


--- The sum of n ids after the first `skip`, `before` other draws before each.
local function sum_of_ids(n, skip, before)
  local draw, sum = random_sequence(), 0
  for i = 1, skip + n do
    for _ = 1, before do draw() end
    local id = draw() % 100 + 1
    if i > skip then sum = sum + id end
  end
  return sum
end

local EXPECTED = {
  W1 = function(r) return sum_of_ids(r.expected_n, WARM.W1, 0) end,
  W2 = function(r) return sum_of_ids(r.expected_n, WARM.W2, 1) end,
  W3 = function(r)
    local rows = r.contestant:find "stream" and r.expected_n or 100000
    return rows * (rows + 1) // 2 + rows // 2
  end,
  W4 = function(r) return sum_of_ids(r.expected_n, 0, 0) end,
  W7 = function(r) return r.expected_n end,
}


--- Marks programs that did not do their work; returns how many complaints.
local function check_results(workloads)
  local complaints = {}
  for _, programs in ipairs(workloads) do
    for _, program in ipairs(programs) do
      for round, r in pairs(program.rounds) do
        local expected = EXPECTED[r.workload](r)
        if r.n ~= r.expected_n or r.check ~= expected then
          program.failed = true
          complaints[#complaints + 1] = ("%s %s, round %d: %d operations with "
            .. "check sum %d, expected %d with %d"):format(r.workload,
            r.contestant, round, r.n, r.check, r.expected_n, expected)
        end
      end
      if program.failed then
        complaints[#complaints + 1] = program.workload .. " " .. program.name
          .. ": FAILED"
      end
    end
  end
  return complaints
end


-- ---- figures ---------------------------------------------------------------

local function median(values)
  if #values == 0 then return nil end
  table.sort(values)
  local middle = #values // 2
  if #values % 2 == 1 then return values[middle + 1] end
  return (values[middle] + values[middle + 1]) / 2
end


local function values_of(program, key)
  local values = {}
  for _, r in pairs(program.rounds) do values[#values + 1] = r[key] end
  return values
end


local function middle_of(program, key)
  return program and median(values_of(program, key))
end


local function largest(program, key)
  local values = program and values_of(program, key) or {}
  table.sort(values)
  return values[#values]
end


--- The median over the rounds of program[key] / base[key] in the same round.
local function ratio(program, base, key)
  local ratios = {}
  for round, r in pairs(program and base and program.rounds or {}) do
    local b = base.rounds[round]
    if b and r[key] and b[key] and b[key] > 0 then
      ratios[#ratios + 1] = r[key] / b[key]
    end
  end
  return median(ratios)
end


--- What a program is compared with; nil if that did not run.
local function base_of(programs, program)
  local name = BASES[program.workload .. " " .. program.name]
    or DEFAULT_BASES[program.workload]
  return programs[name]
end


-- ---- tables ----------------------------------------------------------------

local function number(value, decimals)
  if not value then return "-" end
  return ("%." .. decimals .. "f"):format(value)
end


local function print_table(out, headings, rows)
  out:write("| ", table.concat(headings, " | "), " |\n|---|")
  out:write(("--:|"):rep(#headings - 1), "\n")
  for _, row in ipairs(rows) do
    out:write("| ", table.concat(row, " | "), " |\n")
  end
end


local function latency(program, key)
  local value = middle_of(program, key)
  return value and value > 0 and number(value, 0) or "-"
end


local function spread(program)
  local values = values_of(program, "per_s")
  if #values == 0 then return "failed" end
  table.sort(values)
  return number(values[1], 0) .. ".." .. number(values[#values], 0)
end


local function rate_table(out, programs)
  local headings = {
    "program", "per s", "rate / base", "client CPU us/op", "CPU / base",
    "server CPU us/op", "p50 us", "p99 us", "conns peak", "conns opened",
    "RSS MiB", "peak MiB", "per s, min..max", "base",
  }
  local rows = {}
  for i, program in ipairs(programs) do
    local base = base_of(programs, program)
    rows[i] = {
      program.name,
      number(middle_of(program, "per_s"), 0),
      number(ratio(program, base, "per_s"), 2),
      number(middle_of(program, "cpu_us"), 2),
      number(ratio(program, base, "cpu_us"), 2),
      number(middle_of(program, "server_us"), 2),
      latency(program, "p50_us"),
      latency(program, "p99_us"),
      number(largest(program, "peak_conns"), 0),
      number(middle_of(program, "sessions"), 0),
      number(middle_of(program, "rss_mib"), 1),
      number(middle_of(program, "peak_mib"), 1),
      spread(program),
      base and base ~= program and base.name or "-",
    }
  end
  print_table(out, headings, rows)
end


local function memory_table(out, programs)
  local headings = {
    "program", "items", "RSS KiB/item", "heap KiB/item", "/ base",
    "server KiB/item", "backends left", "conns peak", "conns opened",
    "RSS MiB", "client CPU us/item", "items/s",
  }
  local rows = {}
  for i, program in ipairs(programs) do
    rows[i] = {
      program.name,
      number(middle_of(program, "n"), 0),
      number(middle_of(program, "kb_per_item"), 2),
      number(middle_of(program, "heap_kb_per_item"), 2),
      number(ratio(program, base_of(programs, program), "kb_per_item"), 3),
      number(middle_of(program, "server_kb_per_item"), 0),
      number(largest(program, "backends"), 0),
      number(largest(program, "peak_conns"), 0),
      number(middle_of(program, "sessions"), 0),
      number(middle_of(program, "rss_mib"), 1),
      number(middle_of(program, "cpu_us"), 1),
      number(middle_of(program, "per_s"), 0),
    }
  end
  print_table(out, headings, rows)
end


local function print_workload(out, programs)
  local rounds = 0
  for _, program in ipairs(programs) do
    rounds = math.max(rounds, #values_of(program, "n"))
  end
  out:write(("\n### %s; rounds: %d\n\n"):format(TITLES[programs.name], rounds))
  local draw = programs.name == "W7" and memory_table or rate_table
  draw(out, programs)
end


-- ---- targets ---------------------------------------------------------------

--- A figure of `get` must be at least or at most `bound`.
local function target(text, comparison, bound, get)
  return { text = text, comparison = comparison, bound = bound, get = get }
end


--- The ratio of two programs of a workload, as a figure.
local function ratio_figure(workload, name, base, key)
  return function(workloads)
    local programs = workloads[workload]
    return programs and ratio(programs[name], programs[base], key)
  end
end


--- Of two figures the one that is harder to meet; nil if one is missing.
local function harder(pick, one, other)
  return function(workloads)
    local a, b = one(workloads), other(workloads)
    return a and b and pick(a, b)
  end
end


local function own_figure(pick, workload, name, key)
  return function(workloads)
    local programs = workloads[workload]
    return programs and pick(programs[name], key)
  end
end

local TARGETS = {
  target("W2 throughput / raw, the better raw one", ">=", 0.6, harder(math.min,
    ratio_figure("W2", "mtenant c4", "raw c4 affinity", "per_s"),
    ratio_figure("W2", "mtenant c4", "raw c4", "per_s"))),
  target("W2 client CPU / raw, the better raw one", "<=", 2, harder(math.max,
    ratio_figure("W2", "mtenant c4", "raw c4 affinity", "cpu_us"),
    ratio_figure("W2", "mtenant c4", "raw c4", "cpu_us"))),
  target("W2 server connections", "<=", 20,
    own_figure(largest, "W2", "mtenant c4", "peak_conns")),
  target("W2 peak RSS, MiB", "<=", 24,
    own_figure(middle_of, "W2", "mtenant c4", "peak_mib")),
  target("W3 eager row tables, CPU / floor", "<=", 1.25,
    ratio_figure("W3", "mtenant hash", "raw floor hash", "cpu_us")),
  target("W3 lazy cells, CPU / floor", "<=", 1.5,
    ratio_figure("W3", "mtenant get", "raw floor get", "cpu_us")),
  target("W3 db:rows, growth of the peak RSS, kB", "<=", STREAM_KB,
    own_figure(largest, "W3", "mtenant stream", "growth_kb")),
  target("W3 db:rows, growth after a tenth of the rows, kB", "<=",
    STREAM_LATE_KB, own_figure(largest, "W3", "mtenant stream", "late_kb")),
  target("W4 rate / raw on 20 connections", ">=", 0.7,
    ratio_figure("W4", "mtenant c20", "raw c20", "per_s")),
  target("W7 RSS per tenant after get_db_async, KiB", "<=", 2,
    own_figure(middle_of, "W7", "mtenant async", "kb_per_item")),
  target("W7 RSS per tenant after a query, KiB", "<=", 2,
    own_figure(middle_of, "W7", "mtenant query", "kb_per_item")),
  target("W7 server backends left for idle tenants (get_db_async)", "<=", 0,
    own_figure(largest, "W7", "mtenant async", "backends")),
  target("W7 server backends left for idle tenants (a query)", "<=", 0,
    own_figure(largest, "W7", "mtenant query", "backends")),
}


local function judge(figure, t)
  if not figure then return "not measured" end
  local met = t.comparison == ">=" and figure >= t.bound
    or t.comparison == "<=" and figure <= t.bound
  return met and "met" or "NOT met"
end


--- Every target whose workload ran, with its figure and verdict.
local function judge_targets(workloads)
  local judged = {}
  for _, t in ipairs(TARGETS) do
    if workloads[t.text:match "^W%d"] then
      local figure = t.get(workloads)
      judged[#judged + 1] = {
        text = t.text, comparison = t.comparison, bound = t.bound,
        figure = figure, verdict = judge(figure, t),
      }
    end
  end
  return judged
end


local function print_targets(out, judged)
  if #judged == 0 then return end
  local rows = {}
  for i, t in ipairs(judged) do
    rows[i] = {
      t.text, t.comparison .. " " .. t.bound, number(t.figure, 2), t.verdict,
    }
  end
  out:write "\n### Targets\n\n"
  print_table(out, { "target", "wanted", "measured", "verdict" }, rows)
end


-- ---- JSON ------------------------------------------------------------------

local function write_json(path, lines, judged)
  local targets = {}
  for i, t in ipairs(judged) do
    targets[i] = ('{"target":"%s","wanted":"%s %g","measured":%s,'
      .. '"verdict":"%s"}'):format(t.text, t.comparison, t.bound,
      t.figure and ("%.6g"):format(t.figure) or "null", t.verdict)
  end
  local out = path == "-" and io.stdout or assert(io.open(path, "w"))
  out:write('{"runs":[\n', table.concat(lines, ",\n"), '\n],\n"targets":[\n',
    table.concat(targets, ",\n"), "\n]}\n")
  if out ~= io.stdout then out:close() end
end


-- ---- main ------------------------------------------------------------------

local function read_arguments()
  local path, json, strict
  for _, word in ipairs(arg) do
    if word == "--strict" then
      strict = true
    elseif word:find "^%-%-json=" then
      json = word:match "=(.*)"
    else
      path = word
    end
  end
  return assert(path, "which file?"), json, strict
end


local function main()
  local path, json, strict = read_arguments()
  local workloads, lines = read_results(path)
  local complaints = check_results(workloads)
  local judged = judge_targets(workloads)
  local status = #complaints == 0 and 0 or 1
  for _, t in ipairs(judged) do
    if strict and t.verdict ~= "met" then status = 1 end
  end
  if json then write_json(json, lines, judged) end
  if json ~= "-" then
    for _, programs in ipairs(workloads) do
      print_workload(io.stdout, programs)
    end
    print_targets(io.stdout, judged)
  end
  for _, complaint in ipairs(complaints) do
    io.stderr:write("bench: ", complaint, "\n")
  end
  os.exit(status)
end

main()
