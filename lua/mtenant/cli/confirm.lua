--- Asking before something is lost.

local lines = require "mtenant.runner.lines"
local mtenant = require "mtenant"
local terminal = require "mtenant.cli.terminal"

local M = {}


--- Ends the command when it can't ask and was not told --force.
function M.check(run)
  local can_ask = terminal.is_terminal(0) and terminal.is_terminal(2)
  if not (run.opts.force or can_ask) then
    run:usage("--force is needed where there is no terminal to ask on")
  end
end


--- Ends the command unless `answer` is typed or --force was given.
---@param run table
---@param what string what is about to happen, a sentence
---@param answer string
function M.ask(run, what, answer)
  if run.opts.force then
    return
  end
  run.console:warn(what)
  io.stderr:write(("Type %s to go on: "):format(answer))
  local line = lines.reader()()
  run:must(mtenant.sleep(0))
  if line ~= answer then
    run:fail("not confirmed, nothing was done")
  end
end


return M
