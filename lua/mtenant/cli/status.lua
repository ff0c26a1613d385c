--- What `mtenant status` and `mtenant sync` show: a row per tenant, a summary.

local report = require "mtenant.cli.report"
local terminal = require "mtenant.cli.terminal"

local count = terminal.count

local STYLES = { ok = "green", behind = "yellow", error = "red" }

local M = {}


--- Prints rows, and errors where nothing but those is wanted.
local function print_rows(console, header, rows, failures)
  console:say_table(header, rows)
  for _, text in ipairs(console.quiet and failures or {}) do
    console:warn(text)
  end
end


local function note_of(one)
  if one.error then
    return tostring(one.error)
  end
  local notes = { table.concat(one.pending_migrations or {}, ", ") }
  if #(one.edited or {}) > 0 then
    notes[#notes + 1] = "edited: " .. table.concat(one.edited, ", ")
  end
  return (table.concat(notes, "; "):gsub("^; ", ""))
end


--- Shows the status of tenants, and of the shared schema when it is given.
---@return integer failed how many are in error
---@return integer pending how many files are to be applied
function M.show(console, list, shared)
  local rows, failures = {}, {}
  local n = { ok = 0, behind = 0, error = 0, pending = 0 }
  local function add(one, kind)
    console:event(report.event(kind, one))
    n[one.status] = n[one.status] + 1
    n.pending = n.pending + (one.pending_count or 0)
    rows[#rows + 1] = { one.tenant_id, one.schema_name or "",
                        one.applied_count or 0, one.pending_count or 0,
                        { STYLES[one.status], one.status }, note_of(one) }
    if one.status == "error" then
      failures[#failures + 1] = one.tenant_id .. ": " .. note_of(one)
    end
  end
  if shared then
    add(shared, "shared")
  end
  for _, one in ipairs(list) do
    add(one, "tenant")
  end
  print_rows(console, { "tenant", "schema", "applied", "pending", "status", "" },
             rows, failures)
  console:event({ event = "summary", total = #rows, ok = n.ok, behind = n.behind,
                  error = n.error, pending = n.pending })
  console:say({ "bold", ("%s ok, %s behind, %s in error; %s to be applied")
    :format(count(n.ok), count(n.behind), count(n.error), count(n.pending)) })
  return n.error, n.pending
end


--- Shows what records and files have that the others lack.
---@param sync table as migrator:get_sync_status gives it
function M.show_sync(console, sync)
  local rows, failures = {}, {}
  for _, one in ipairs(sync.details) do
    console:event(report.event("tenant", one))
    local state = one.error and { "red", "error" }
      or one.in_sync and { "green", "in sync" } or { "yellow", "out of sync" }
    rows[#rows + 1] = { one.tenant_id, one.schema_name or "", #(one.missing or {}),
                        #(one.orphans or {}), state,
                        one.error and tostring(one.error)
                        or M.changes(one.missing, one.orphans) }
    if one.error then
      failures[#failures + 1] = one.tenant_id .. ": " .. tostring(one.error)
    end
  end
  print_rows(console, { "tenant", "schema", "missing", "orphans", "status", "" },
             rows, failures)
  console:event({ event = "summary", total = sync.total, in_sync = sync.in_sync,
                  out_of_sync = sync.out_of_sync, error = sync.error })
  console:say({ "bold", ("%s in sync, %s out of sync, %s in error"):format(
    count(sync.in_sync), count(sync.out_of_sync), count(sync.error)) })
end


--- "+0003_orders, -0002_old": missing records and orphaned ones.
---@return string
function M.changes(missing, orphans)
  local out = {}
  for _, name in ipairs(missing or {}) do
    out[#out + 1] = "+" .. name
  end
  for _, name in ipairs(orphans or {}) do
    out[#out + 1] = "-" .. name
  end
  return table.concat(out, ", ")
end


return M
