--- What `mtenant doctor` shows: a row per finding with why it matters and how it
-- is mended, and a summary.

local columns = require "mtenant.cli.columns"
local config = require "mtenant.cli.config"
local doctor = require "mtenant.doctor"
local terminal = require "mtenant.cli.terminal"

local count = terminal.count

local STYLES = { ok = "green", info = "cyan", warning = "yellow", error = "red" }

local M = {}


-- What to look at; nil and a finding where the file can't be loaded.
local function material(opts)
  local url = opts.url or os.getenv("DATABASE_URL")
  if not opts.config and not config.find() then
    return { url = url, timeout_ms = opts.timeout_ms }
  end
  opts.migrations_optional = true
  local settings, err = config.load(opts)
  if not settings then
    return nil, { level = "error", check = "config", what = err,
                  why = "nothing else was looked at",
                  fix = "mtenant doctor --config FILE" }
  end
  return {
    config = settings.config, path = settings.path, url = url,
    migrations = next(settings.migrations) and settings.migrations or nil,
    timeout_ms = opts.timeout_ms,
  }
end


local function print_findings(console, findings, verbose)
  local rows = {}
  for i, one in ipairs(findings) do
    local where = one.server and one.check .. " (" .. one.server .. ")"
      or one.check
    rows[i] = { { STYLES[one.level], one.level }, where, one.what }
  end
  local lines = columns.lines({ "level", "check", "finding" }, rows)
  console:say_line(table.remove(lines, 1))
  for i, line in ipairs(lines) do
    console:say_line(line)
    local one = findings[i]
    if one.level ~= "ok" or verbose then
      if one.why then console:say({ "dim", "    why: " .. one.why }) end
      if one.fix then console:say({ "dim", "    fix: " .. one.fix }) end
    end
  end
end


local function show(console, findings, n, verbose)
  for _, one in ipairs(findings) do
    console:event({ event = "finding", level = one.level, check = one.check,
                    server = one.server, what = one.what, why = one.why,
                    fix = one.fix })
    if console.quiet and (one.level == "warning" or one.level == "error") then
      console:warn(("%s: %s: %s"):format(one.level, one.check, one.what))
    end
  end
  print_findings(console, findings, verbose)
  console:event({ event = "summary", ok = n.ok, info = n.info,
                  warning = n.warning, error = n.error })
  console:say({ "bold", ("%s ok, %s to know, %s warnings, %s errors"):format(
    count(n.ok), count(n.info), count(n.warning), count(n.error)) })
end


--- Looks at everything and shows it.
---@param run table of mtenant.cli
---@return integer status 1 for errors, and with --strict for warnings
function M.run(run)
  local opts = run.opts
  local given, problem = material(opts)
  local findings = given and doctor.run(given) or { problem }
  local n = doctor.count(findings)
  show(run.console, findings, n, opts.verbose)
  return (n.error > 0 or opts.strict and n.warning > 0) and 1 or 0
end


return M
