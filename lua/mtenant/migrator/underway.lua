--- Runs of migrators in this process that are not over: for who looks at it from
-- outside.

local core = require "mtenant.core"


local runs = {} -- in the order they began


local methods = {}
local mt = { __name = "mtenant.migrator.underway", __index = methods }


local M = {}


--- A run over so many tenants begins.
---@param total integer
---@param kind? string  "tenant", "shared"; nil: records alone
function M.begin(total, kind)
  local run = setmetatable({ total = total, kind = kind, done = 0, failed = 0,
                             started_ms = core.now_ms() }, mt)
  runs[#runs + 1] = run
  return run
end


--- One of its tenants is done.
function methods:count(success)
  self.done = self.done + 1
  if not success then self.failed = self.failed + 1 end
end


--- It is over. Idempotent.
function methods:finish()
  for i = #runs, 1, -1 do
    if runs[i] == self then table.remove(runs, i) end
  end
end


--- What is under way.
---@return table[]  { kind, total, done, failed, started_ms (of the loop's
--- clock), eta_ms: what is left will take so long; nil: unknown }
function M.list()
  local out, now = {}, core.now_ms()
  for i, run in ipairs(runs) do
    local took = now - run.started_ms
    out[i] = {
      kind = run.kind, total = run.total, done = run.done, failed = run.failed,
      started_ms = run.started_ms,
      eta_ms = run.done > 0 and took / run.done * (run.total - run.done) or nil,
    }
  end
  return out
end


return M
