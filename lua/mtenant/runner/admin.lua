--- The endpoint of `mtenant-run --admin`.
-- luacheck: std lua54

local M = {}


-- What is in the environment counts where no file is named.
local function secret_of(path, name)
  local value = os.getenv(name)
  return not path and value ~= "" and value or nil
end


--- Starts it, if it was asked for, and says where it is.
---@param run table  the runner's
---@return boolean
---@return string|nil message
function M.start(run)
  local opts = run.opts
  if not opts.admin then
    return true
  end
  local rule = opts.admin_ready or "all"
  if rule ~= "all" and rule ~= "any" then
    return false, ("--admin-ready takes all or any, not '%s'"):format(rule)
  end
  local endpoint, err = require("mtenant.admin").start({
    address = opts.admin,
    ready = rule,
    token_file = opts.admin_token_file,
    token = secret_of(opts.admin_token_file, "MTENANT_ADMIN_TOKEN"),
    basic_file = opts.admin_basic_file,
    basic = secret_of(opts.admin_basic_file, "MTENANT_ADMIN_BASIC"),
  })
  if not endpoint then
    return false, (err.message:gsub("^admin: ", ""))
  end
  run.admin = endpoint
  io.stderr:write(opts.name, ": admin endpoint on ", endpoint:url(), "\n")
  return true
end


--- Ends it, at once.
function M.stop(run)
  if run.admin then
    run.admin:close()
  end
end


return M
