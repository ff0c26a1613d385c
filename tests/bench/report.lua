--- Turns the lines of results that run.sh collects into tables, and says of
-- each target whether it is met.
--   lua5.4 report.lua FILE [--json=FILE|-] [--strict]
-- Exit status: 0; 1 if a program failed, a check sum is wrong, or, with
-- --strict, a target is not met or not measured.

local figures = require "figures"
local targets = require "targets"

local middle_of, largest, ratio =
  figures.middle_of, figures.largest, figures.ratio
local values_of = figures.values_of

-- What the programs leave out of their check sums.
local WARM = { W1 = 500, W2 = 2000 }
local QUIET = 50 -- tenants of W6 beside the noisy one

local TITLES = {
  W1 = "W1: sequential selects on one connection, all on one CPU (op = query)",
  W2 = "W2: 64 tasks, random tenants of 100, shared connections (op = query)",
  W3 = "W3: rows of six columns, 100,000 at a time (op = row)",
  W4 = "W4: first query on each tenant, 64 at a time, nothing open before "
    .. "(op = tenant)",
  W5 = "W5: 100 tenants' tasks at once on a server of 40 connections "
    .. "(op = task)",
  W6 = "W6: quiet tenants beside a noisy one (op = quiet query)",
  W7 = "W7: memory per connection (raw) and per known, idle tenant (mtenant)",
  W8 = "W8: memory of one process that goes through all tenants",
}

-- What the programs of a workload are compared with.
local DEFAULT_BASES = {
  W1 = "raw scope",
  W2 = "raw c4 affinity",
  W3 = "raw text",
  W4 = "raw c20",
  W6 = "raw private",
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


--- The ids of the quiet tenants, `each` of them after the tenant's phase.
local function sum_of_quiet_ids(each)
  local draw, sum = random_sequence(), 0
  for _ = 1, QUIET do
    draw()
    for _ = 1, each do sum = sum + draw() % 100 + 1 end
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
  W5 = function(r) return r.expected_n end,
  W6 = function(r) return sum_of_quiet_ids(r.expected_n // QUIET) end,
  W7 = function(r) return r.expected_n end,
  W8 = function(r) return r.expected_n end,
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


-- ---- tables ----------------------------------------------------------------

--- What a program is compared with; nil if that did not run.
local function base_of(programs, program)
  local name = BASES[program.workload .. " " .. program.name]
    or DEFAULT_BASES[program.workload]
  return programs[name]
end


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


--- Columns are { heading, key, decimals, pick }.
local function plain_table(columns)
  return function(out, programs)
    local headings, rows = { "program" }, {}
    for c, column in ipairs(columns) do headings[c + 1] = column[1] end
    for i, program in ipairs(programs) do
      rows[i] = { program.name }
      for c, column in ipairs(columns) do
        local pick = column[4] or middle_of
        rows[i][c + 1] = number(pick(program, column[2]), column[3])
      end
    end
    print_table(out, headings, rows)
  end
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


local TABLES = {
  W5 = plain_table {
    { "tasks", "n", 0 }, { "errors", "errors", 0, largest },
    { "wait p50 us", "p50_us", 0 }, { "wait p99 us", "p99_us", 0 },
    { "tenants' mean wait, max / mean", "tenant_mean_ratio", 2, largest },
    { "tenants' last answer, max / mean", "tenant_last_ratio", 2, largest },
    { "server's slots", "server_free", 0 }, { "budget", "budget", 0 },
    { "conns peak", "peak_conns", 0, largest },
    { "conns opened", "sessions", 0 },
    { "budget in use", "busy", 2 }, { "seconds", "wall_s", 2 },
  },
  W6 = plain_table {
    { "quiet queries", "n", 0 }, { "p50 us", "p50_us", 0 },
    { "p90 us", "p90_us", 0 }, { "p99 us", "p99_us", 0 },
    { "p99 us, worst round", "p99_us", 0, largest },
    { "max us", "max_us", 0, largest },
    { "noise per s", "noise_per_s", 0 },
    { "noise at a time", "noise_conns", 0, largest },
    { "noise left", "noise_left", 0 },
    { "conns peak", "peak_conns", 0, largest },
    { "client CPU us/op", "cpu_us", 0 },
    { "server CPU us/op", "server_us", 0 },
  },
  W7 = memory_table,
  W8 = plain_table {
    { "queries", "n", 0 }, { "RSS growth MiB", "growth_mib", 1, largest },
    { "of the peak", "peak_growth_mib", 1, largest },
    { "after a collection", "kept_mib", 1, largest },
    { "heap growth MiB", "heap_mib", 1, largest },
    { "RSS MiB", "rss_mib", 1 }, { "backends", "backends", 0, largest },
    { "their memory MiB", "server_mib", 0 },
    { "open at a time", "conns", 0, largest },
    { "conns peak", "peak_conns", 0, largest },
    { "recycled", "recycled", 0 }, { "per s", "per_s", 0 },
    { "client CPU us/op", "cpu_us", 1 },
    { "server CPU us/op", "server_us", 0 },
  },
}


local function print_workload(out, programs)
  local rounds = 0
  for _, program in ipairs(programs) do
    rounds = math.max(rounds, #values_of(program, "n"))
  end
  out:write(("\n### %s; rounds: %d\n\n"):format(TITLES[programs.name], rounds))
  local draw = TABLES[programs.name] or rate_table
  draw(out, programs)
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
  local list = {}
  for i, t in ipairs(judged) do
    list[i] = ('{"target":"%s","wanted":"%s %g","measured":%s,'
      .. '"verdict":"%s"}'):format(t.text, t.comparison, t.bound,
      t.figure and ("%.6g"):format(t.figure) or "null", t.verdict)
  end
  local out = path == "-" and io.stdout or assert(io.open(path, "w"))
  out:write('{"runs":[\n', table.concat(lines, ",\n"), '\n],\n"targets":[\n',
    table.concat(list, ",\n"), "\n]}\n")
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
  local judged = targets.judge(workloads)
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
