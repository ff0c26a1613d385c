--- For specs of mtenant-run: runs the program in a scratch directory of its own
-- and asserts that nothing of it is left afterwards. Needs busted.
--
--     local program = require "tests.support.program"
--     before_each(program.set_up)
--     after_each(program.tear_down)
--     local result = program.run("--version")

local assert = require "luassert"

local M = {}


--- Output of a shell command, without the last newline.
function M.sh(command)
  local pipe = assert(io.popen(command, "r"))
  local out = pipe:read("*a")
  pipe:close()
  return (out:gsub("\n$", ""))
end


--- A word for the shell.
function M.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end


local sh, quote = M.sh, M.quote

--- The program under test.
M.path = os.getenv("MTENANT_RUN") or "build/release/bin/mtenant-run"
if M.path:sub(1, 1) ~= "/" then
  M.path = sh("pwd") .. "/" .. M.path
end

local scratch -- a directory per test, also its TMPDIR


local function read_file(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then
    file:close()
  end
  return text
end


--- The text of a file in the scratch directory, nil when there is none.
function M.read(name)
  return read_file(scratch .. "/" .. name)
end


function M.write(name, text)
  local file = assert(io.open(scratch .. "/" .. name, "wb"))
  file:write(text)
  file:close()
end


--- Where files of the test go.
function M.scratch()
  return scratch
end


--- Waits until condition() is true, up to ten seconds; returns its value.
function M.wait_for(what, condition)
  for _ = 1, 500 do
    local value = condition()
    if value then
      return value
    end
    os.execute("sleep 0.02")
  end
  error("waited in vain for " .. what, 2)
end


--- Runs the program to its end. `args` are shell words; opts: `input`, `env`
-- (assignments before the command), `path` (another program).
function M.run(args, opts)
  opts = opts or {}
  M.write("stdin", opts.input or "")
  local command = "cd %s && TMPDIR=%s %s %s %s <stdin >stdout 2>stderr; echo $?"
  local status = sh(command:format(quote(scratch), quote(scratch),
    opts.env or "", quote(opts.path or M.path), args))
  return {
    status = tonumber(status),
    out = M.read("stdout"),
    err = M.read("stderr"),
  }
end


function M.assert_run(expected, result)
  assert.same(expected,
    { status = result.status, out = result.out, err = result.err })
end


local WRAPPER = [[
trap : INT
ulimit -t 30 # should the test die, a busy script does, too
cd %s
export TMPDIR=%s
echo $$ >group
%s %s </dev/null >stdout 2>stderr &
pid=$!
echo $pid >pid.new && mv pid.new pid
wait $pid
status=$?
while kill -0 $pid 2>/dev/null; do wait $pid; status=$?; done
echo $status >status.new && mv status.new status
]]


--- Starts it, or another program, in a process group of its own; returns its
-- pid and the group's.
function M.start(args, path)
  for _, name in ipairs({ "pid", "status", "stdout", "stderr" }) do
    os.remove(scratch .. "/" .. name)
  end
  M.write("wrapper", WRAPPER:format(quote(scratch), quote(scratch),
    quote(path or M.path), args))
  os.execute(("setsid sh %s/wrapper </dev/null >/dev/null 2>&1 &"):format(
    quote(scratch)))
  local pid = M.wait_for("the program", function()
    return tonumber(M.read("pid"))
  end)
  return pid, tonumber(M.read("group"))
end


function M.await_output(text)
  M.wait_for("output " .. text, function()
    return (M.read("stdout") or ""):find(text, 1, true)
  end)
end


--- The exit status of what was started, once it has ended.
function M.await_status()
  return M.wait_for("the end", function()
    return tonumber(M.read("status"))
  end)
end


--- `pid` may be the negative number of a group.
function M.signal(name, pid)
  os.execute(("kill -s %s -- %d"):format(name, pid))
end


local function mentions_scratch(path)
  return (read_file(path) or ""):find(scratch, 1, true) ~= nil
end


--- What the test has left: directories of servers, processes that know them;
-- "" when there is nothing.
function M.leftovers()
  local found = {}
  for name in sh("ls " .. quote(scratch)):gmatch("mtenant%-pg%-%S+") do
    found[#found + 1] = name
  end
  for pid in sh("ls /proc"):gmatch("%d+") do
    local proc = "/proc/" .. pid
    if mentions_scratch(proc .. "/cmdline")
      or mentions_scratch(proc .. "/environ") then
      local line = read_file(proc .. "/cmdline") or ""
      found[#found + 1] = pid .. ": " .. line:gsub("%z", " ")
    end
  end
  return table.concat(found, "; ")
end


--- For what ends by itself a little later.
function M.assert_nothing_left()
  local left
  local ok = pcall(M.wait_for, "a clean end", function()
    left = M.leftovers()
    return left == ""
  end)
  assert.is_true(ok, "left behind: " .. tostring(left))
end


function M.set_up()
  scratch = sh("mktemp -d /tmp/mtenant-runner-XXXXXX")
  os.execute("chmod 1777 " .. quote(scratch)) -- for the server's user
end


function M.tear_down()
  local pid = tonumber(M.read("pid"))
  if pid and not M.read("status") then
    M.signal("KILL", pid)
  end
  local ok, err = pcall(M.assert_nothing_left)
  os.execute("rm -rf " .. quote(scratch))
  if not ok then
    error(err, 0)
  end
end


return M
