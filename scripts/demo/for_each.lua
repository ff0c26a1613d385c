--- mtenant.each with progress, for work that must succeed for every item.

local errors = require "mtenant.errors"
local mtenant = require "mtenant"


local function first_of(errs, n)
  local first, others = nil, -1
  for i = 1, n do
    first = first or errs[i]
    others = others + (errs[i] and 1 or 0)
  end
  return first, others
end


--- Calls fn(item) for every item, then raises the first error if there was one.
---@param at_a_time integer
---@param progress fun(done: integer)  after each item
return function(list, at_a_time, progress, fn)
  local done = 0
  local results, errs = mtenant.each(list, at_a_time, function(item)
    local ok, err = fn(item)
    if err == nil then
      done = done + 1
      progress(done)
    end
    return ok, err
  end)
  if not results then
    error(errs, 0) -- the task is to stop
  elseif errs then
    local first, others = first_of(errs, #list)
    local more = others > 0 and (" (and so did %d others)"):format(others) or ""
    error(errors.new(first.code, first.message .. more, {
      tenant_id = first.tenant_id, sqlstate = first.sqlstate, cause = first,
    }), 0)
  end
end
