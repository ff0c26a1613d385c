--- What mtenant's figures should be.

local figures = require "figures"

local middle_of, largest, ratio =
  figures.middle_of, figures.largest, figures.ratio

local M = {}

-- What a stream of rows may keep: buffers and garbage, whatever its length.
local STREAM_KB, STREAM_LATE_KB = 8192, 2048


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


--- The largest ratio of two figures of one program, over the rounds.
local function own_ratio(workload, name, key, other)
  return function(workloads)
    local program, most = workloads[workload] and workloads[workload][name]
    for _, r in pairs(program and program.rounds or {}) do
      most = math.max(most or 0, r[key] / r[other])
    end
    return most
  end
end

local W5 = "mtenant auto"
local TARGETS = {
  target("W2 throughput / raw, the better raw one", ">=", 0.8, harder(math.min,
    ratio_figure("W2", "mtenant c4", "raw c4 affinity", "per_s"),
    ratio_figure("W2", "mtenant c4", "raw c4", "per_s"))),
  target("W2 client CPU / raw, the better raw one", "<=", 1.6, harder(math.max,
    ratio_figure("W2", "mtenant c4", "raw c4 affinity", "cpu_us"),
    ratio_figure("W2", "mtenant c4", "raw c4", "cpu_us"))),
  target("W2 p99 / raw, the better raw one", "<=", 1.5, harder(math.max,
    ratio_figure("W2", "mtenant c4", "raw c4 affinity", "p99_us"),
    ratio_figure("W2", "mtenant c4", "raw c4", "p99_us"))),
  target("W2 client CPU with metrics / without", "<=", 1.03,
    ratio_figure("W2", "mtenant c4", "mtenant c4 uncounted", "cpu_us")),
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
  target("W5 errors", "<=", 0, own_figure(largest, "W5", W5, "errors")),
  target("W5 server connections / the manager's budget", "<=", 1,
    own_ratio("W5", W5, "peak_conns", "budget")),
  target("W5 server connections / the server's slots", "<=", 1,
    own_ratio("W5", W5, "peak_conns", "server_free")),
  target("W5 a tenant's mean wait / the mean of all", "<=", 3,
    own_figure(largest, "W5", W5, "tenant_mean_ratio")),
  target("W5 a tenant's last answer / the mean of all", "<=", 3,
    own_figure(largest, "W5", W5, "tenant_last_ratio")),
  target("W6 quiet tenants' p99 / on private connections", "<=", 1.5,
    ratio_figure("W6", "mtenant", "raw private", "p99_us")),
  target("W7 RSS per tenant after get_db_async, KiB", "<=", 2,
    own_figure(middle_of, "W7", "mtenant async", "kb_per_item")),
  target("W7 RSS per tenant after a query, KiB", "<=", 2,
    own_figure(middle_of, "W7", "mtenant query", "kb_per_item")),
  target("W7 server backends left for idle tenants (get_db_async)", "<=", 0,
    own_figure(largest, "W7", "mtenant async", "backends")),
  target("W7 server backends left for idle tenants (a query)", "<=", 0,
    own_figure(largest, "W7", "mtenant query", "backends")),
  target("W8 RSS growth, MiB", "<=", 30,
    own_figure(largest, "W8", "mtenant c20", "growth_mib")),
  target("W8 server connections", "<=", 20,
    own_figure(largest, "W8", "mtenant c20", "conns")),
}


local function judge(figure, t)
  if not figure then return "not measured" end
  local met = t.comparison == ">=" and figure >= t.bound
    or t.comparison == "<=" and figure <= t.bound
  return met and "met" or "NOT met"
end


--- Every target whose workload ran, with its figure and verdict.
function M.judge(workloads)
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

return M
