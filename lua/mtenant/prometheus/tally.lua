--- Which tenants have series of their own in a text of limited size; the least
--- of them are added to the others, so that sums stay what they are.

local escape = require("mtenant.prometheus.text").escape
local series = require "mtenant.series"


local M = {}


local NUMBERS = { "statements", "ambiguous", "leases", "bytes_sent",
                  "bytes_received", "total", "idle", "waiting" }


local function add_codes(to, from)
  for code, n in pairs(from) do to[code] = (to[code] or 0) + n end
end


local function add_histogram(to, from)
  to.count, to.sum_ms = to.count + from.count, to.sum_ms + from.sum_ms
  for i, n in ipairs(from.upto) do to.upto[i] = to.upto[i] + n end
end


--- Adds what one has counted to another.
---@param to table
---@param from table
function M.add(to, from)
  for _, key in ipairs(NUMBERS) do
    to[key] = (to[key] or 0) + (from[key] or 0)
  end
  add_codes(to.errors, from.errors)
  add_histogram(to.query, from.query)
  add_histogram(to.wait, from.wait)
end


-- What its lines take, roughly and rather more: by those of one without errors.
local LINES, LINE_BYTES, ENTRY_LINES = 35, 72, 6

local function bytes_of(record, extra)
  local lines = LINES
  for _ in pairs(record.errors) do lines = lines + 1 end
  local schema = record.schema and #escape(record.schema) * ENTRY_LINES or 0
  return lines * (LINE_BYTES + extra + #record.label) + schema
end


--- Keeps those that do most and have room, each with its `label`.
---@param raw table  what the core has told; its tenants and others are changed
---@param bytes integer
---@param extra integer  bytes of each line: the prefix, and labels of all
---@param breathe fun()
function M.fit(raw, bytes, extra, breathe)
  local kept, used, known = {}, 0, {}
  known[series.OTHERS], known[series.SHARED] = true, true
  for i, record in ipairs(raw.tenants) do
    raw.tallies:fill(i, record)
    breathe()
  end
  raw.tallies:close()
  table.sort(raw.tenants, function(a, b)
    if a.statements ~= b.statements then return a.statements > b.statements end
    return a.id < b.id
  end)
  breathe()
  for _, record in ipairs(raw.tenants) do
    record.label = escape(record.id)
    used = used + bytes_of(record, extra)
    if used > bytes or known[record.label] then
      M.add(raw.others, record)
    else
      known[record.label] = true
      kept[#kept + 1] = record
    end
    breathe()
  end
  raw.tenants = kept
end


return M
