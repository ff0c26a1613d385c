--- What `mtenant policy simulate` does: asks a policy for many tenants, counts them
--- by server, and compares it with another one.

local mtenant = require "mtenant"
local policies = require "mtenant.cli.policies"
local terminal = require "mtenant.cli.terminal"

local count, pad, width_of = terminal.count, terminal.pad, terminal.width_of

local LONGEST_BAR, SHORTEST_BAR = 50, 8
local PAUSE_EVERY = 256 -- tenants; then others, and the live line, get their turn

local M = {}


--- The ids of a file, or of standard input for "-": one a line, each once; blank
--- lines and those that begin with # are none.
---@param run table
---@param path string
---@return string[]
function M.tenants(run, path)
  local file = path == "-" and io.stdin
    or run:must(io.open(path), "cannot open " .. path)
  local ids, seen = {}, {}
  for line in file:lines() do
    local id = line:match("^%s*(.-)%s*$")
    if id ~= "" and id:sub(1, 1) ~= "#" and not seen[id] then
      seen[id] = true
      ids[#ids + 1] = id
    end
  end
  if file ~= io.stdin then file:close() end
  if #ids == 0 then run:fail(path .. " names no tenant") end
  return ids
end


local function progress(console, total)
  local state = { done = 0 }
  console:show(function(width)
    local text = (" %s/%s"):format(count(state.done), count(total))
    local full, empty = console.err:bar(state.done, total,
                                        math.min(40, width - #text - 1))
    return { full, empty, text }
  end)
  return state
end


--- Asks for every tenant. Returns { of = server by id, count = by server, unknown,
--- failed, first_error }.
---@param run table
---@param policy table
---@param ids string[]
---@return table
function M.ask(run, policy, ids)
  local out = { of = {}, count = {}, unknown = 0, failed = 0 }
  local state = progress(run.console, #ids)
  for i, id in ipairs(ids) do
    local found = policy:ask(id)
    if not found.error then
      local server = policy:server_of(found)
      out.of[id] = server
      out.count[server] = (out.count[server] or 0) + 1
    elseif policies.is_unknown(found.error) then
      out.unknown = out.unknown + 1
    else
      out.failed = out.failed + 1
      out.first_error = out.first_error or found.error
    end
    state.done = i
    if i % PAUSE_EVERY == 0 then run:must(mtenant.sleep(0)) end
  end
  run.console:hide()
  return out
end


local function sorted(counts)
  local names = {}
  for name in pairs(counts) do names[#names + 1] = name end
  table.sort(names)
  return names
end


local function percent(n, total)
  return total > 0 and n * 100 / total or 0
end


--- The distribution, a bar for each server.
---@param console mtenant.console
---@param result table
---@param total integer
function M.show_bars(console, result, total)
  local names, most, widest = sorted(result.count), 0, #"server"
  local digits = #"tenants"
  for _, name in ipairs(names) do
    most = math.max(most, result.count[name])
    widest = math.max(widest, width_of(name))
    digits = math.max(digits, #count(result.count[name]))
  end
  local out = console.out
  local room = out:width() - widest - digits - 12
  local length = math.max(SHORTEST_BAR, math.min(LONGEST_BAR, room))
  if #names > 0 then
    console:say({ "dim", pad("server", widest) .. "  "
      .. pad("tenants", digits, true) .. "   share" })
  end
  for _, name in ipairs(names) do
    local n = result.count[name]
    local full = math.max(1, math.floor(n * length / most + 0.5))
    console:say(pad(name, widest), "  ", pad(count(n), digits, true),
      ("  %5.1f%%  "):format(percent(n, total)),
      { "cyan", out.glyphs.full:rep(full) })
  end
end


--- Who moves from one to the other: how many in all, and by pair of servers.
---@param ids string[]
---@param before table
---@param after table
---@return integer
---@return table[]  { from =, to =, tenants = }, the largest first
---@return string[]  the ids
function M.moves(ids, before, after)
  local total, by, list, moved = 0, {}, {}, {}
  for _, id in ipairs(ids) do
    local from, to = before.of[id], after.of[id]
    if from ~= to then
      from, to = from or "(none)", to or "(none)"
      local key = from .. "\0" .. to
      if not by[key] then
        by[key] = { from = from, to = to, tenants = 0 }
        list[#list + 1] = by[key]
      end
      by[key].tenants = by[key].tenants + 1
      total, moved[#moved + 1] = total + 1, id
    end
  end
  table.sort(list, function(a, b)
    if a.tenants ~= b.tenants then return a.tenants > b.tenants end
    if a.from ~= b.from then return a.from < b.from end
    return a.to < b.to
  end)
  return total, list, moved
end


-- how much more than its share the fullest server has
local function fullest(result)
  local n, sum, most = 0, 0, 0
  for _, tenants in pairs(result.count) do
    n, sum, most = n + 1, sum + tenants, math.max(most, tenants)
  end
  return n, n > 0 and most * n / sum or 0
end


local function warn_failures(console, result, path)
  if result.failed == 0 then return end
  console:warn({ "red", path .. ": " .. count(result.failed) .. " failed" },
               ", the first one: ", tostring(result.first_error))
end


local function events(console, result, total)
  for _, name in ipairs(sorted(result.count)) do
    console:event({ event = "server", server = name,
                    tenants = result.count[name],
                    share = result.count[name] / total })
  end
end


--- The end: the distribution and the summary. Returns the exit status.
---@param run table
---@param ids string[]
---@param result table
---@param moves? table  { total =, list =, against =, before = }
---@return integer
function M.report(run, ids, result, moves)
  local console, failed = run.console, result.failed
  local servers, ratio = fullest(result)
  M.show_bars(console, result, #ids)
  events(console, result, #ids)
  if result.unknown > 0 then
    console:say({ "yellow", count(result.unknown) .. " not found" })
  end
  warn_failures(console, result, run.opts.file)
  console:say({ "bold", ("%s tenants on %s; the fullest has %.2f of the mean")
    :format(count(#ids), servers == 1 and "1 server" or servers .. " servers",
            ratio) })
  local summary = { event = "summary", total = #ids, servers = servers,
                    fullest = ratio, unknown = result.unknown,
                    failed = result.failed }
  if moves then
    failed = failed + moves.before.failed
    warn_failures(console, moves.before, moves.against)
    summary.against_failed = moves.before.failed
    summary.moved = moves.total
    summary.moved_share = moves.total / #ids
    console:say({ "bold", ("%s of %s tenants move (%.1f%%)"):format(
      count(moves.total), count(#ids), percent(moves.total, #ids)) },
      " from ", moves.against)
    for _, move in ipairs(moves.list) do
      console:event({ event = "move", from = move.from, to = move.to,
                      tenants = move.tenants })
      console:say(("  %s -> %s  %s"):format(move.from, move.to,
                                            count(move.tenants)))
    end
  end
  console:event(summary)
  return failed > 0 and 1 or 0
end


return M
