--- Connecting many tenants ahead of their first use.

local core = require "mtenant.core"
local each = require "mtenant.each"
local errors = require "mtenant.errors"
local schema = require "mtenant.schema"


local pcall, type = pcall, type


local M = {}


local warmup_options = schema.new({
  name = "warmup",
  { "concurrency", kind = "integer", min = 1, default = 10 },
  { "ping", kind = "boolean", default = true },
  { "on_progress", kind = "function" },
})


local function warm_one(self, opts, id)
  local started = core.now_ms()
  local detail = { tenant_id = id, already_warm = self:has_pool(id) }
  local function progress(status)
    if not opts.on_progress then return end
    local ok, err = pcall(opts.on_progress, id, status)
    if not ok then
      self._log:warn("error in warmup.on_progress: " .. errors.text_of(err),
                     { event = "callback_failed warmup.on_progress" })
    end
  end
  progress("starting")
  local db, err
  if opts.ping then db, err = self:get_db_async(id)
  else db, err = self:get_db(id) end
  detail.success, detail.error = db ~= nil, err
  detail.duration_ms = core.now_ms() - started
  progress(db and "completed" or "failed")
  self._debug:event({ kind = "warmup", tenant_id = id,
                      status = not db and "failed"
                        or detail.already_warm and "already_warm" or "success",
                      duration_ms = detail.duration_ms })
  return detail
end


--- Adds the method to a manager's.
---@param methods mtenant.TenantManager
---@param disposed fun(): mtenant.error
function M.install(methods, disposed)

  --- Connects many tenants ahead of use.
  ---@param ids string[]
  ---@param opts? table  { concurrency = 10, ping = true, on_progress =
  --  function(id, "starting"|"completed"|"failed") }
  ---@return table|nil  { total, succeeded, failed, already_warm, duration_ms,
  --  details = { { tenant_id, success, already_warm, duration_ms, error } } }
  ---@return table|nil err
  function methods:warmup(ids, opts)
    if type(ids) ~= "table" then
      errors.misuse(2, "warmup: ids must be a table, got %s", type(ids))
    end
    opts = warmup_options:check(opts or {}, 2)
    if self._over then return nil, disposed() end
    local started = core.now_ms()
    local details, errs = each(ids, opts.concurrency, function(id)
      return warm_one(self, opts, id)
    end)
    if not details then return nil, errs end
    local out = { total = details.n, succeeded = 0, failed = 0,
                  already_warm = 0, details = details }
    for i = 1, details.n do
      local d = details[i]
      if d.success then out.succeeded = out.succeeded + 1
      else out.failed = out.failed + 1 end
      if d.already_warm then out.already_warm = out.already_warm + 1 end
    end
    out.duration_ms = core.now_ms() - started
    return out
  end
end


return M
