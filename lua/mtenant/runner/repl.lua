--- The lines of `mtenant-run -i`: each is compiled and run in the main task,
-- so any call may wait, and other tasks go on while a line is awaited.
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


--- A function that returns the next line, or nil at the end.
local function line_reader()
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


--- An expression's values are printed, `=` in front of it is allowed.
local function compile(source)
  local expression = source:match("^%s*=(.*)$") or source
  local chunk = load("return " .. expression, "=stdin")
  if chunk then
    return chunk
  end
  return load(source, "=stdin")
end


local function is_incomplete(err)
  return err:sub(-5) == "<eof>"
end


--- Reads one statement, which may take several lines.
local function read_chunk(next_line, prompt)
  prompt("> ")
  local source = next_line()
  while source do
    local chunk, err = compile(source)
    if chunk or not is_incomplete(err) then
      return chunk, err
    end
    prompt(">> ")
    local more = next_line()
    if not more then
      return nil, err
    end
    source = source .. "\n" .. more
  end
  return nil, nil
end


local function traceback(err)
  local trace = debug.traceback(tostring(err), 2)
  return (trace:gsub("\n%s*%[C%]: in [^\n]*'xpcall'.*$", ""))
end


local function show(ok, ...)
  if not ok then
    io.stderr:write((...), "\n")
  elseif select("#", ...) > 0 then
    print(...)
  end
end


--- Reads and runs lines until the end of standard input.
function M.run()
  local next_line = line_reader()
  local tty = host.isatty(STDIN)
  local function prompt(text)
    if tty then
      io.stdout:write(text)
    end
    io.stdout:flush()
  end
  while true do
    local chunk, err = read_chunk(next_line, prompt)
    if chunk then
      show(xpcall(chunk, traceback))
    elseif err then
      io.stderr:write(err, "\n")
    else
      break
    end
  end
  if tty then
    io.stdout:write("\n")
  end
end


return M
