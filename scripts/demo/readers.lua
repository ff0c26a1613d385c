--- Tasks that keep reading random tenants, each read with retry, and check that
-- the row which comes back is that tenant's.

local errors = require "mtenant.errors"
local mtenant = require "mtenant"

local SAMPLE_MS = 100
local REASONS = 2

-- The tenant and the schema as the server sees them, and something to do.
local READ = [[
  SELECT current_schema() AS schema, s.tenant_id, t.orders, t.cents
  FROM shop s, turnover t
]]

local readers_methods = {}
local readers_mt = { __name = "demo.readers", __index = readers_methods }

local M = {}


--- `on_first_retry(err)` is called when trouble starts, `on_answer()` when the
-- first read that was tried again is answered.
function M.new(manager, tenants, callbacks)
  return setmetatable({
    manager = manager, tenants = tenants, callbacks = callbacks,
    started = 0, finished = 0, running = 0, waiting = 0,
    reads = 0, unanswered = 0, wrong = 0, retries = 0,
    longest_ms = 0,
    rate = 0,       -- reads a second, now
    samples = {},   -- reads in each SAMPLE_MS
    reasons = {},   -- error code -> retries
  }, readers_mt)
end


local function note_retry(self, task, attempt, err, delay_ms)
  self.retries = self.retries + 1
  self.last_error = err
  self.last_retry = ("try %d of %s: %s, next in %d ms"):format(
    attempt, err.tenant_id or "?", err.code, delay_ms)
  self.reasons[err.code] = (self.reasons[err.code] or 0) + 1
  if not task.waiting then
    task.waiting = true
    self.waiting = self.waiting + 1
  end
  if self.retries == 1 then
    self.callbacks.on_first_retry(err)
  end
end


-- An outage of several seconds is survived. A read changes nothing: one whose
-- outcome is unknown may be repeated, too.
local function retry_options(self, task)
  return {
    idempotent = true,
    max_attempts = 60,
    initial_delay_ms = 50,
    max_delay_ms = 400,
    on_retry = function(attempt, err, delay_ms)
      note_retry(self, task, attempt, err, delay_ms)
    end,
  }
end


local function is_its_own(tenant, row)
  return row ~= nil and row.tenant_id == tenant.id
    and row.schema == tenant.schema
end


local function note_answer(self, tenant, answer)
  self.reads = self.reads + 1
  self.longest_ms = math.max(self.longest_ms, answer.total_time_ms)
  if not is_its_own(tenant, answer.result) then
    self.wrong = self.wrong + 1
  end
  if answer.attempts > 1 and not self.answered then
    self.answered = true
    self.callbacks.on_answer()
  end
end


--- Whether the task should go on.
local function read_once(self, task)
  local tenant = self.tenants[math.random(#self.tenants)]
  local answer, err = mtenant.with_retry(function()
    return self.manager:get_db(tenant.id):one(READ)
  end, task.retry)
  if task.waiting then
    task.waiting = false
    self.waiting = self.waiting - 1
  end
  if answer then
    note_answer(self, tenant, answer)
  elseif not errors.is(err, errors.CODE.cancelled) then
    self.unanswered = self.unanswered + 1
    self.last_error = err
  end
  return answer ~= nil
end


local function read_on(self, wanted)
  local task = {}
  task.retry = retry_options(self, task)
  local ok = true
  while ok and wanted() do
    ok = read_once(self, task)
  end
  self.running = self.running - 1
  self.finished = self.finished + (ok and 1 or 0)
end


local function sample(self)
  local before = 0
  while self.running > 0 and mtenant.sleep(SAMPLE_MS) do
    self.samples[#self.samples + 1] = self.reads - before
    self.rate = (self.reads - before) * 1000 // SAMPLE_MS
    before = self.reads
  end
end


--- Starts n tasks. Each reads until wanted() is false, and finishes then; one
-- whose read is not answered in the end stops before.
function readers_methods:start(n, wanted)
  self.started, self.running, self.tasks = n, n, {}
  for i = 1, n do
    self.tasks[i] = mtenant.spawn(read_on, self, wanted)
  end
  mtenant.spawn(sample, self)
end


--- Waits for all tasks. Raises when the calling task is to stop.
function readers_methods:await()
  for _, task in ipairs(self.tasks) do
    task:await()
  end
  assert(mtenant.sleep(0))
end


--- "refused 150, starting_up 50, other 3"
---@param count fun(n: integer): string
function readers_methods:retry_reasons(count)
  if self.retries == 0 then
    return "the pool could send again what had not run"
  end
  local list, out, other = {}, {}, 0
  for code, n in pairs(self.reasons) do
    list[#list + 1] = { code = code, n = n }
  end
  table.sort(list, function(a, b) return a.n > b.n end)
  for i, reason in ipairs(list) do
    if i <= REASONS then
      out[i] = reason.code .. " " .. count(reason.n)
    else
      other = other + reason.n
    end
  end
  out[#out + 1] = other > 0 and "other " .. count(other) or nil
  return table.concat(out, ", ")
end


return M
