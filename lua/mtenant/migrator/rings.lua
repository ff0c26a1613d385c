--- A run in rings: a few tenants first, then more, then all, as long as it goes
-- well. Each ring is a run of its own; this only chooses, asks and adds up.

local errors = require "mtenant.errors"
local results_of = require "mtenant.migrator.results"


local M = {}


local function misuse(n, what)
  errors.misuse(4, "migrate.rings[%d] must be a list of ids, a share of all "
    .. "tenants (above 0, at most 1) or a function, got %s", n, what)
end


-- The ids that a ring adds, in the order of all.
local function members(ring, n, ids, done)
  if type(ring) == "function" then ring = ring(ids) end
  local out = {}
  if type(ring) == "number" then
    if not (ring > 0 and ring <= 1) then misuse(n, tostring(ring)) end
    local wanted, have = math.ceil(#ids * ring), 0
    for _, id in ipairs(ids) do
      if done[id] then have = have + 1 end
    end
    for _, id in ipairs(ids) do
      if have >= wanted then break end
      if not done[id] then
        out[#out + 1] = id
        have = have + 1
      end
    end
    return out
  end
  if type(ring) ~= "table" then misuse(n, type(ring)) end
  local known = {}
  for _, id in ipairs(ids) do known[id] = true end
  for _, id in ipairs(ring) do
    if known[id] and not done[id] then out[#out + 1] = id end
  end
  return out
end


-- Why no further ring may begin, or nil.
local function verdict(o, n, results, last)
  if results.cancelled then return results.error end
  local ratio = results.total > 0 and results.failed / results.total or 0
  if o.max_failure_ratio and ratio > o.max_failure_ratio then
    return errors.new("policy", string.format("%d of %d tenants of ring %d have "
      .. "failed", results.failed, results.total, n))
  end
  if last or not o.gate then return nil end
  local ok, answer, why = pcall(o.gate, n, results)
  if not ok then return errors.wrap(answer, "policy") end
  if answer then return nil end
  return errors.wrap(why or "the gate after ring " .. n .. " said no", "policy")
end


--- Runs the rings.
---@param ids string[]  all tenants
---@param o table  rings, gate, max_failure_ratio
---@param migrate fun(ids: string[]): table|nil, mtenant.error?
---@return table|nil results  of all, with rings (the results of each) and, where
--- it stopped early, stopped (the error that says why)
---@return mtenant.error|nil err
function M.run(ids, o, migrate)
  local rings, done, stopped, took_ms, last = {}, {}, nil, 0, nil
  for n, ring in ipairs(o.rings) do
    local results, err = migrate(members(ring, n, ids, done))
    if not results then return nil, err end
    rings[n], last = results, results
    took_ms = took_ms + results.duration_ms
    for _, one in ipairs(results.details) do done[one.tenant_id] = one end
    stopped = verdict(o, n, results, n == #o.rings)
    if stopped then break end
  end
  local details = {}
  for i, id in ipairs(ids) do
    details[i] = done[id] or results_of.skipped(id, stopped)
  end
  local out = results_of.sum(details, took_ms)
  out.rings, out.stopped = rings, stopped
  if last then out.cancelled, out.error = last.cancelled, last.error end
  return out
end


return M
