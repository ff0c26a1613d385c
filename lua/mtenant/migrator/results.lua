--- What became of a tenant, and of many: the tables that the migrator returns.
-- Pure.

local errors = require "mtenant.errors"


local M = {}


--- Of a tenant with which nothing was done, because of an error.
---@param id string
---@param err mtenant.error
---@return table
function M.failed(id, err)
  return { tenant_id = id, schema_name = "", success = false, error = err,
           applied_migrations = {}, duration_ms = 0 }
end


--- Of one that was left out.
---@param id string
---@param cause? any  why
---@param message? string
---@return table
function M.skipped(id, cause, message)
  local out = M.failed(id, errors.new("cancelled",
    message or "Skipped due to abort", { tenant_id = id, cause = cause }))
  out.skipped = true
  return out
end


--- Those of many, with their numbers.
---@param details table[]
---@param duration_ms number
---@return table results  total, succeeded, failed, skipped, details, duration_ms
function M.sum(details, duration_ms)
  local out = { total = #details, succeeded = 0, failed = 0, skipped = 0,
                details = details, duration_ms = duration_ms }
  for _, one in ipairs(details) do
    local count = one.skipped and "skipped"
      or one.success and "succeeded" or "failed"
    out[count] = out[count] + 1
  end
  return out
end


--- For when what has to come first has failed.
---@param ids string[]
---@param cause? any
---@param message? string
---@return table results
function M.all_skipped(ids, cause, message)
  local details = {}
  for i, id in ipairs(ids) do details[i] = M.skipped(id, cause, message) end
  return M.sum(details, 0)
end


return M
