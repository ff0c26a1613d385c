--- Standard input line by line: other tasks go on while a line is awaited.
-- luacheck: std lua54

local core = require "mtenant.core"
local host = require "mtenant.runner_host"
local task = require "mtenant.task"

local STDIN = 0

local M = {}


--- Waits until standard input has something; false when the task must end.
local function wait_readable()
  if not host.waits(STDIN) then
    return true -- a file never blocks, and epoll refuses it
  end
  local watcher
  local ready, err = task.suspend(function(resume)
    watcher = core.watch_fd(STDIN, function()
      watcher:close()
      resume(true)
    end)
  end)
  watcher:close()
  return ready, err
end


--- A function that returns the next line, or nil at the end and when the task
-- is to stop.
---@return fun(): string|nil
function M.reader()
  local buffer, ended = "", false
  return function()
    while not ended do
      local line, rest = buffer:match("^([^\n]*)\n(.*)$")
      if line then
        buffer = rest
        return line
      end
      local ready = wait_readable()
      local data, err = "", nil
      if ready then
        data, err = host.read(STDIN)
      end
      if data == "" or err then
        ended = true
      else
        buffer = buffer .. (data or "")
      end
    end
    local last = buffer
    buffer = ""
    return last ~= "" and last or nil
  end
end


return M
