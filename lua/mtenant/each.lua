--- mtenant.each: a function for every item of a list, so many at a time.
-- Built on tasks alone; used by the module's face and by warmup.

local errors = require "mtenant.errors"
local join = require "mtenant.join"
local task = require "mtenant.task"


local check = task.check


-- Each starts two others: ten thousand of them do not start at once.
local function each_worker(state, start_one)
  return function()
    start_one()
    start_one()
    while state.next <= state.n and not state.raised do
      local i = state.next
      state.next = i + 1
      local ok, value, err = pcall(state.fn, state.list[i], i)
      if ok then
        state.results[i] = value
        if value == nil and err ~= nil then state.errors[i] = err end
      elseif errors.is(value) and value.code ~= "misuse" then
        state.errors[i] = value
      else
        state.raised = { value }
      end
    end
  end
end


--- Calls fn(item, index) for every item, at most `concurrency` at a time; a
-- slow one holds up nobody else.
---@param list any[]
---@param concurrency integer
---@param fn fun(item: any, index: integer): any, any
---@return table|nil results  first values in order, with n
---@return table|nil errors   by index, for those that failed (`nil, err` or an
--  mtenant error raised); nil when none did. Any other error raised stops the
--  run and is raised again.
local function each(list, concurrency, fn)
  if type(list) ~= "table" then
    errors.misuse(2, "each: list must be a table, got %s", type(list))
  end
  if type(concurrency) ~= "number" or concurrency < 1
    or concurrency ~= math.floor(concurrency) then
    errors.misuse(2, "each: concurrency must be an integer of at least 1")
  end
  if type(fn) ~= "function" then
    errors.misuse(2, "each: fn must be a function, got %s", type(fn))
  end
  local stop = check("mtenant.each")
  if stop then return nil, stop end
  local caller = task.current()
  local state = { list = list, n = list.n or #list, next = 1, fn = fn,
                  results = {}, errors = {} }
  state.results.n = state.n
  local workers, limit = {}, math.min(concurrency, state.n)
  caller.workers = workers -- a guest may go without an end
  local work -- one for all: ten thousand of them are many closures
  local function start_one()
    if #workers == limit or state.next > state.n then return end
    local worker = task.spawn(work)
    worker.observed = true
    workers[#workers + 1] = worker
  end
  work = each_worker(state, start_one)
  start_one()
  local raised
  raised, stop = join(workers, function() state.next = state.n + 1 end)
  state.raised = raised or state.raised
  caller.workers = nil
  if state.raised then error(state.raised[1], 0) end
  if stop then return nil, stop end
  return state.results, next(state.errors) and state.errors or nil
end


return each
