--- The lines of `mtenant-run -i`: each is compiled and run in the main task,
-- so any call may wait, and other tasks go on while a line is awaited.
-- luacheck: std lua54

local host = require "mtenant.runner_host"
local lines = require "mtenant.runner.lines"

local STDIN = 0

local M = {}


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
  local next_line = lines.reader()
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
