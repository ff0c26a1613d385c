--- What `mtenant-run` does once its options are known: compile, run as a task,
-- unwind, dispose of every manager, give the exit status.
--
-- Called once by the program, which has installed the signal handlers: the
-- first SIGINT or SIGTERM arrives here as a readable descriptor, a second one
-- (or ten seconds) ends the process without asking.
-- luacheck: std lua54, globals os.exit pcall xpcall arg

local admin = require "mtenant.runner.admin"
local commands = require "mtenant.runner.commands"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local host = require "mtenant.runner_host"
local manager = require "mtenant.manager"
local mtenant = require "mtenant"
local repl = require "mtenant.runner.repl"
local task = require "mtenant.task"

local DISPOSE_MS = 5000
local SIGHUP = 1 -- read only where a manager has a policy from a file
local LOG_FLUSH_MS = 500
local SIGNAL_NAMES = { [2] = "SIGINT", [15] = "SIGTERM" }

-- The program replaces these for scripts; this file keeps the real ones.
local pcall, xpcall = pcall, xpcall

--- Raised by os.exit. Not one of mtenant's errors, so that a transaction rolls
-- back and raises it again.
local EXIT = setmetatable({}, {
  __name = "exit",
  __tostring = function() return "the program is about to exit" end,
})

local M = {}


-- To who has started the program; and to the log that the script has set up.
local function complain(run, message)
  io.stderr:write(run.opts.name, ": ", message, "\n")
  mtenant.log._also("error", run.opts.name .. ": " .. message)
end


--- An error of any type as text. As lua does it, an object that says nothing
-- is named by its type.
local function text_of(err)
  local mt = debug.getmetatable(err)
  if type(err) == "string" or type(err) == "number" or mt and mt.__tostring then
    return tostring(err)
  elseif type(err) == "table" and type(err.message) == "string" then
    return err.message
  end
  return ("(error object is a %s value)"):format(type(err))
end


local function one_line(err)
  return (text_of(err):gsub("%s*\n%s*", " "))
end


local function stop_error(message)
  return errors.new(errors.CODE.cancelled, message)
end


local function is_cancelled(err)
  return errors.is(err, errors.CODE.cancelled)
end


--- After a signal or os.exit, on the way out.
local function is_stopping(run)
  return run.signal ~= nil or run.exit_code ~= nil
end


--- The status that a script's results ask for, and a message if it failed.
local function status_of(first, second)
  if first == nil and second ~= nil then
    return 1, one_line(second)
  end
  local status = type(first) == "number" and math.tointeger(first) or 0
  if status < 0 or status > 255 then
    return 1, "the script returned " .. status .. ", an exit status is 0 to 255"
  end
  return status
end


local function exit_code(code)
  if code == nil or code == true then
    return 0
  elseif code == false then
    return 1
  end
  local number = math.tointeger(tonumber(code))
  if not number then
    error("bad argument #1 to 'exit' (integer or boolean expected, got "
      .. type(code) .. ")", 3)
  end
  return number % 256
end


--- Lets an exit pass where a script would catch it.
local function pass_exit(ok, ...)
  if not ok and (...) == EXIT then
    error(EXIT, 0)
  end
  return ok, ...
end


--- os.exit elsewhere than in the main task: that one must be told, and what
-- is about to be raised here is no error to report.
local function leave_other_task()
  local now = task.current()
  if now then
    now.observed = true
  end
  task.cancel_all(stop_error("the program is about to exit"))
end


--- Replaces os.exit, and pcall and xpcall so that they don't stop it.
local function install_exit(run)
  function os.exit(code)
    run.exit_code = exit_code(code)
    if coroutine.running() ~= run.main and not run.ending then
      leave_other_task()
    end
    error(EXIT, 0)
  end

  _G.pcall = function(...)
    return pass_exit(pcall(...))
  end

  _G.xpcall = function(fn, handler, ...)
    local function outer(err)
      if err == EXIT then
        return err
      end
      return handler(err)
    end
    return pass_exit(xpcall(fn, handler and outer, ...))
  end
end


--- Message handler of the script: keeps the error beside its traceback,
-- without the frames of this file.
local function describe(err)
  if err == EXIT then
    return err
  end
  local trace = debug.traceback(text_of(err), 2)
  trace = trace:gsub("\n%s*%[C%]: in [^\n]*'xpcall'\n[^\n]*runner%.lua:.*$", "")
  return { err = err, trace = trace }
end


local function on_signal(run)
  local sig = host.read_signal()
  if not sig then
    return
  end
  if sig == SIGHUP then
    return manager.reload_all("signal")
  end
  run.signal = run.signal or sig
  io.stdout:flush()
  admin.stop(run)
  if not run.ending then
    task.cancel_all(stop_error("stopped by " .. (SIGNAL_NAMES[sig] or sig)))
  end
end


--- The status of a chunk that has ended, said on stderr if it failed. A
-- cancelled wait is no failure of a script that is being stopped.
local function settle(run, ok, first, second)
  local status, message = 1, nil
  if ok then
    status, message = status_of(first, second)
  elseif first ~= EXIT then
    message = first.trace
  end
  local cause = ok and second or first
  if not ok and first ~= EXIT then
    cause = first.err
  end
  if message and not (is_stopping(run) and is_cancelled(cause)) then
    complain(run, message)
  end
  return status
end


--- The main task: the chunks one after the other until one fails.
local function main_task(run)
  run.main = coroutine.running()
  run.watcher = core.watch_fd(host.signal_fd, function() on_signal(run) end,
                              true)
  local served, why = admin.start(run)
  if not served then
    complain(run, "--admin: " .. why)
    return 2
  end
  for _, chunk in ipairs(run.chunks) do
    local status = settle(run, xpcall(chunk, describe, table.unpack(run.args)))
    if status ~= 0 or is_stopping(run) then
      return status
    end
  end
  if run.opts.interactive then
    repl.run()
  end
  return 0
end


--- Runs all in a loop; returns the status without regard to signals.
local function execute(run)
  local ok, result = pcall(mtenant.run, main_task, run)
  if ok then
    return result
  end
  if result ~= EXIT then
    complain(run, tostring(result))
  end
  return 1
end


--- Ends the other tasks, then closes what the run has opened.
local function finish(run)
  run.ending = true
  admin.stop(run)
  task.cancel_all(stop_error("the program is about to exit"))
  local ran, ok, err = pcall(mtenant.run, mtenant.dispose_all, DISPOSE_MS)
  if not ran then
    complain(run, one_line(ok))
  elseif ok == nil and err ~= nil then
    complain(run, one_line(err))
  end
  if run.watcher then
    run.watcher:close()
  end
  mtenant.log.default():flush(LOG_FLUSH_MS)
end


local function load_script(run)
  local argv, index = run.opts.argv, run.opts.script
  local path = run.path or argv[index]
  -- As in lua: after `--` a script named `-` is a file.
  if path == "-" and argv[index - 1] ~= "--" then
    path = nil
  end
  return loadfile(path)
end


--- Compiles everything before any of it runs.
local function load_chunks(run)
  local chunks = {}
  for i, code in ipairs(run.opts.evals) do
    local chunk, err = load(code, "=(command line)")
    if not chunk then
      return nil, err
    end
    chunks[i] = chunk
  end
  if run.opts.script then
    local chunk, err = load_script(run)
    if not chunk then
      return nil, err
    end
    chunks[#chunks + 1] = chunk
  end
  return chunks
end


--- Sets the global `arg` as lua does; returns the script's own arguments.
local function set_arg(run)
  local argv, script = run.opts.argv, run.opts.script
  local args, list = {}, {}
  for i = 0, #argv do
    list[i - (script or 0)] = argv[i]
  end
  if run.path then
    list[0] = run.path
  end
  arg = list
  if script then
    table.move(argv, script + 1, #argv, 1, args)
  end
  return args
end


local function run_all(run)
  local err
  run.chunks, err = load_chunks(run)
  local sig = host.read_signal()
  if sig then
    return 128 + sig
  elseif not run.chunks then
    complain(run, one_line(err))
    return 1
  end
  run.args = set_arg(run)
  install_exit(run)
  local status = execute(run)
  finish(run)
  if run.signal then
    return 128 + run.signal
  end
  return run.exit_code or status
end


--- Runs what the command line asks for. `opts` is what src/run/state.c
-- makes of it; returns the exit status.
function M.main(opts)
  local run = { opts = opts }
  if opts.command then
    if opts.help then
      return commands.help(opts)
    end
    local err
    run.path, err = commands.find(opts, opts.argv[opts.script])
    if not run.path then
      complain(run, err .. "\nTry 'mtenant --help'.")
      return 2
    end
  end
  return run_all(run)
end


return M
