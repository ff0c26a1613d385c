--- The doctor: looks for what is wrong, or will be, with a configuration, its
-- servers and its tenants, and says how to mend it. Changes nothing. Used by
-- `mtenant doctor`.
--
-- Each check has a module of its own, a function(case) that adds findings. A
-- check that cannot be made says so by a finding, too.

local errors = require "mtenant.errors"
local log_format = require "mtenant.log.format"
local mtenant = require "mtenant"

local RANK = { ok = 0, info = 1, warning = 2, error = 3 }

---@class mtenant.doctor.finding
---@field level "ok"|"info"|"warning"|"error"
---@field check string  config, versions, connect, clock, pooler, budget,
--- settings, permissions, discovery or folders
---@field what string
---@field why? string  why that matters
---@field fix? string  a command or a line of the configuration
---@field server? string

---@class mtenant.doctor.case
---@field given table|nil  the configuration as the user wrote it
---@field cfg table|nil  the same, defined; nil where it is wrong
---@field migrations table|nil
---@field url string|nil
---@field timeout_ms number
---@field clock fun(): number  ms since 1970
local case_methods = {}
local case_mt = { __name = "mtenant.doctor.case", __index = case_methods }

local M = {}


-- Text of users, servers and libraries: one line, and no password.
local function shown(text)
  return text and log_format.clean(log_format.redact(tostring(text)))
end


--- Adds a finding.
---@param level string
---@param check string
---@param what string
---@param more? table  why, fix, server
function case_methods:add(level, check, what, more)
  assert(RANK[level], level)
  more = more or {}
  self.findings[#self.findings + 1] = {
    level = level, check = check, what = shown(what), why = shown(more.why),
    fix = shown(more.fix), server = more.server or self.server,
  }
end


--- What a query says; a failure is a finding, and nil the answer.
function case_methods:ask(check, db, sql, ...)
  local rows, err = db:query({ sql = sql, params = { ... },
                               timeout_ms = self.timeout_ms })
  if rows then return rows end
  self:add("warning", check, "could not look: " .. err.message, {
    why = "this check was left out",
  })
  return nil
end


-- modules, in their order; "connect" calls those that ask a server
local CHECKS = { "config", "versions", "folders", "connect" }


--- Looks at everything; call it in a task.
---@param given table  config (a table, as the configuration file returns it, but
--- for its migrations), migrations, path (of the file), url (where there is no
--- config), timeout_ms (10000, of each question), clock (ms since 1970)
---@return mtenant.doctor.finding[] findings
function M.run(given)
  local case = setmetatable({
    given = given.config, path = given.path or "the configuration",
    migrations = given.migrations, url = given.url, timeout_ms = given.timeout_ms or 10000,
    clock = given.clock or function() return (require "mtenant.core".clock()) end,
    findings = {},
  }, case_mt)
  for _, check in ipairs(CHECKS) do
    local ok, err = pcall(require("mtenant.doctor." .. check).run, case)
    if not ok then
      case:add("error", check, "the check itself failed: "
               .. errors.text_of(err))
    end
    if not mtenant.sleep(0) then break end -- it is to stop
  end
  return case.findings
end


--- How many findings there are of each level.
---@param findings mtenant.doctor.finding[]
---@return table  ok, info, warning, error
function M.count(findings)
  local n = { ok = 0, info = 0, warning = 0, error = 0 }
  for _, one in ipairs(findings) do n[one.level] = n[one.level] + 1 end
  return n
end


return M
