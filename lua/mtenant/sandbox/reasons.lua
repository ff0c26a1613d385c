--- Errors on their way into a sandbox and out of it, where they are data.

local errors = require "mtenant.errors"

local format, rawget, type = string.format, rawget, type

-- what of an error is data; the first two make one
local FIELDS = { "code", "message", "sqlstate", "severity", "detail", "hint",
                 "tenant_id", "server", "retryable", "ambiguous", "attempts" }


local M = {}


--- An error as the policy sees it.
function M.plain(err)
  if not errors.is(err) then
    return { code = "policy", message = errors.text_of(err) }
  end
  local out = {}
  for i = 1, #FIELDS do out[FIELDS[i]] = err[FIELDS[i]] end
  return out
end


--- What a policy gives as its reason: an error that the host gave it, or one of
-- its own, becomes an error object; anything else stays what it is.
function M.revive(reason)
  if type(reason) ~= "table" or type(reason.message) ~= "string"
     or type(reason.code) ~= "string"
     or rawget(errors.CODE, reason.code) == nil then
    return reason
  end
  local fields = {}
  for i = 3, #FIELDS do
    local value = reason[FIELDS[i]]
    if type(value) ~= "table" then fields[FIELDS[i]] = value end
  end
  return errors.new(reason.code, reason.message, fields)
end


--- An error that names the policy.
function M.new(self, fmt, ...)
  return errors.new("policy", format("policy %s: ", self._name)
    .. format(fmt, ...))
end


--- What became of a call whose code did not come to its end.
function M.failure(self, op, why, text, value)
  if why == "time" then
    return M.new(self, "%s: %s (%g ms)", op, text, self._time_ms)
  elseif why == "memory" then
    return M.new(self, "%s: %s (%g MiB)", op,
      text ~= nil and text ~= "" and text or "it takes more memory than it may",
      self._memory_bytes / 1048576)
  elseif why == "closed" then
    return M.new(self, "%s: its sandbox was closed meanwhile", op)
  elseif why == "data" then
    return M.new(self, "%s: %s", op, text)
  end
  local raised = M.revive(value)
  if errors.is(raised) then return raised end
  return M.new(self, "%s raised: %s", op, errors.text_of(value or text))
end


return M
