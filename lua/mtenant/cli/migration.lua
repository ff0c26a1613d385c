--- What the commands say that apply migrations.

local mtenant = require "mtenant"
local report = require "mtenant.cli.report"

local M = {}


--- For mtenant.cli.report.
---@param opts table the command's: dry_run, mark_applied
---@return table
function M.words(opts)
  local done, unit = "migrated", "applied"
  if opts.mark_applied then
    done, unit = "marked", "marked as applied"
  end
  if opts.dry_run then
    done, unit = "would be " .. done, "to be " .. unit:gsub(" as applied", "")
  end
  return {
    done = done,
    same = "up to date",
    again = true,
    unit = unit,
    dry_run = opts.dry_run,
    items = function(result)
      return opts.dry_run and result.pending_migrations
        or result.applied_migrations
    end,
  }
end


--- Brings the shared schema up to date, or only says what it lacks. Returns
-- whether all is well.
---@param run table
---@return boolean
function M.shared(run)
  local opts = run.opts
  local result = run:migrator():migrate_shared({
    dry_run = opts.dry_run, mark_applied = opts.mark_applied,
  })
  run:must(mtenant.sleep(0)) -- raises what has stopped this task
  return report.shared(run.console, M.words(opts), result)
end


return M
