--- What every command of `mtenant` does: its command line, its configuration,
-- its migrator, its tenants, its end.
--
--     return cli.run("migrate", function(run)
--       ...
--       return 0
--     end)

local config = require "mtenant.cli.config"
local console = require "mtenant.cli.console"
local errors = require "mtenant.errors"
local mtenant = require "mtenant"
local parser = require "mtenant.cli.parser"
local report = require "mtenant.cli.report"
local task = require "mtenant.task"

local CODE = errors.CODE

local FAILED, USAGE = 1, 2

local STOP = {} -- the metatable of what ends a command: { status =, text = }

local run_methods = {}
local run_mt = { __name = "mtenant.cli.run", __index = run_methods }

local M = {}


--- Ends the command: one line, exit status 1. Does not return.
---@param text string
---@param status? integer  another one
function run_methods:fail(text, status) -- luacheck: no self
  error(setmetatable({ status = status or FAILED, text = text }, STOP), 0)
end


--- Ends the command: one line and where help is, exit status 2. Does not
-- return.
---@param text string
function run_methods:usage(text)
  local hint = ("\nTry 'mtenant %s --help'."):format(self.name)
  error(setmetatable({ status = USAGE, text = text .. hint }, STOP), 0)
end


--- A result, or the end of the command when it is `nil, err`.
function run_methods:must(value, err)
  if value ~= nil or err == nil then
    return value
  elseif type(err) == "string" then
    self:fail(err)
  end
  error(err, 0)
end


--- The configuration file, loaded once.
function run_methods:settings()
  self._settings = self._settings or self:must(config.load(self.opts))
  return self._settings
end


--- The migrator of the configuration, made once.
function run_methods:migrator()
  self._migrator = self._migrator or self:must(config.migrator(self:settings()))
  return self._migrator
end


local function named(opts)
  local ids, there = {}, {}
  for _, list in ipairs({ opts.tenant or {}, opts.tenants or {} }) do
    for _, id in ipairs(list) do
      if not there[id] then
        there[id] = true
        ids[#ids + 1] = id
      end
    end
  end
  return ids
end


--- Are tenants named on the command line?
function run_methods:has_tenants()
  return self.opts.all or #named(self.opts) > 0
end


--- Makes sure that tenants are named: before the configuration is asked for
-- anything.
function run_methods:need_tenants()
  if not self:has_tenants() then
    self:usage("say which tenants: --all, --tenant ID or --tenants ID,ID")
  end
end


--- The ids that --all, --tenant and --tenants name; all without any of them.
---@return string[]
function run_methods:tenants()
  local ids = named(self.opts)
  if #ids > 0 then
    return ids
  end
  local settings = self:settings()
  if not settings.migrations.tenant_discovery then
    self:fail(settings.path .. ": migrations.tenant_discovery is missing, and "
      .. "only that knows all tenants")
  end
  return self:must(config.discover(settings, self:migrator()))
end


--- The folder of the migrations.
---@param which string tenant or shared
function run_methods:folder(which)
  return self:must(config.folder(self:settings(), which))
end


local function abort()
  return "abort"
end


-- Is it only because the program is to stop that a tenant was left alone, or
-- not finished?
local function is_cut_short(result)
  local now = task.current()
  return now and now.cancelled and (result.skipped
    or errors.is(result.error, CODE.cancelled))
end


--- Does something to tenants with progress, and says how it went.
---@param ids string[]
---@param words table see mtenant.cli.report
---@param start fun(o: table): table|nil, any  calls the migrator with o, which
--- has concurrency, on_error and on_progress; returns its results
---@return integer status
function run_methods:batch(ids, words, start)
  words.verbose = self.opts.verbose
  local lines = report.new(self.console, #ids, words)
  self.report = lines
  local results, err = start({
    concurrency = self.opts.concurrency,
    on_error = self.opts.stop_on_error and abort or nil,
    on_progress = function(_, _, _, result)
      if result and not is_cut_short(result) then
        lines:take(result)
      end
    end,
  })
  self:must(results, err)
  self:must(mtenant.sleep(0)) -- raises what has stopped this task
  for _, result in ipairs(results.details) do
    lines:take(result)
  end
  self.report = nil
  return lines:finish()
end


local function complain(name, text)
  io.stdout:flush()
  io.stderr:write("mtenant ", name, ": ", text, "\n")
end


--- The exit status of a command that did not return one.
local function conclude(run, err)
  local lines = run.report
  run.console:hide()
  if getmetatable(err) == STOP then
    complain(run.name, err.text)
    return err.status
  elseif not errors.is(err) then
    error(err, 0)
  elseif err.code ~= CODE.cancelled then
    complain(run.name, tostring(err))
  elseif lines then
    lines:interrupt(err)
  else
    complain(run.name, err.message)
  end
  return FAILED
end


local function keep_trace(err)
  return type(err) == "table" and err or debug.traceback(tostring(err), 2)
end


--- Runs a command; for its script to return.
---@param name string
---@param main fun(run: table): integer|nil, any  an exit status, or nil and an
--- error
---@return integer status
function M.run(name, main)
  if not parser.available() then
    complain(name, "lua-argparse is not installed")
    return FAILED
  end
  local opts, wrong = parser.parse(name, arg)
  if not opts then
    complain(name, ("%s\nTry 'mtenant %s --help'."):format(wrong, name))
    return USAGE
  elseif opts.help then
    io.stdout:write(opts.help)
    return 0
  end
  local run = setmetatable({ name = name, opts = opts,
                             console = console.new(opts) }, run_mt)
  local ok, status, err = xpcall(main, keep_trace, run)
  if not ok or status == nil and err ~= nil then
    status = conclude(run, ok and err or status)
  end
  if run._migrator then
    run._migrator:dispose()
  end
  return status or 0
end


return M
