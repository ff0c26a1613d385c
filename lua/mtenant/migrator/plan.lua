--- What a tenant lacks: its tracking table compared with the files. Pure, and
-- the same for all tenants with the same records: who asks keeps the answers.

local errors = require "mtenant.errors"
local formats = require "mtenant.migrator.formats"


local concat, format = table.concat, string.format


local M = {}


---@class mtenant.migrator.Plan
---@field pending mtenant.Migration[]  in order
---@field applied mtenant.Migration[]  in order
---@field orphans string[]  identifiers that no file has
---@field edited string[]  names of files that are not what was applied
---@field problem? mtenant.error  why nothing may be applied


local function policy(fmt, ...)
  return errors.new("policy", format(fmt, ...))
end


local function out_of_order(plan)
  local last = plan.applied[#plan.applied]
  local first = plan.pending[1]
  if not last or not first or first.index > last.index then return nil end
  return policy("out of order: %s is pending, but %s has been applied already "
    .. "(allow_out_of_order applies it all the same)", first.name, last.name)
end


-- With hashes an edited file looks like a new one beside a record that no file
-- has; only a record behind all known ones can be that of the pending file.
local function edited_hash(plan, last_known, last_orphan)
  if #plan.pending == 0 or last_orphan <= last_known then return nil end
  return policy("the newest record of the tracking table, %s, is of no file: "
    .. "was %s edited after it was applied? (allow_edited applies it as a new "
    .. "one)", plan.orphans[#plan.orphans]:sub(1, 60), plan.pending[1].name)
end


--- Compares.
---@param migrations mtenant.Migration[]
---@param shape table  of the tracking table, see formats.lua
---@param identifiers string[]  its records, in their order
---@param edited string[]  names that mtenant.checksums knows otherwise
---@param opts table  allow_out_of_order, allow_edited, phase
---@return mtenant.migrator.Plan
function M.make(migrations, shape, identifiers, edited, opts)
  local plan = { pending = {}, applied = {}, orphans = {}, edited = edited }
  local there, known, was_edited = {}, {}, {}
  for _, id in ipairs(identifiers) do there[id] = true end
  for _, name in ipairs(edited) do was_edited[name] = true end
  for _, m in ipairs(migrations) do
    -- an edited one has been applied, whatever its hash is now
    local done = formats.has(shape, there, m) or was_edited[m.name]
    local list = done and plan.applied or plan.pending
    list[#list + 1] = m
    known[m.checksum], known[m.name] = true, true
  end
  local last_known, last_orphan = 0, 0
  for i, id in ipairs(identifiers) do
    if known[id] then last_known = i else
      plan.orphans[#plan.orphans + 1] = id
      last_orphan = i
    end
  end
  if #edited > 0 and not opts.allow_edited then
    plan.problem = policy("edited after it was applied: %s (allow_edited goes "
      .. "on all the same)", concat(edited, ", "))
  end
  if not opts.allow_out_of_order then
    plan.problem = plan.problem or out_of_order(plan)
  end
  if shape.id == "hash" and #edited == 0 and not opts.allow_edited then
    plan.problem = plan.problem or edited_hash(plan, last_known, last_orphan)
  end
  return plan
end


--- The pending ones that a run takes: with phase "expand" those before the
-- first that contracts.
function M.take(plan, phase)
  if phase ~= "expand" then return plan.pending end
  local out = {}
  for i, m in ipairs(plan.pending) do
    if m.phase == "contract" then break end
    out[i] = m
  end
  return out
end


function M.names(list)
  local out = {}
  for i, m in ipairs(list) do out[i] = m.name end
  return out
end


return M
