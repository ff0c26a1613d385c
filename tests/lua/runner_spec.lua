--- mtenant-run as a user sees it: options, exit statuses, messages, signals,
-- the throwaway server of --pg. Every test ends by asserting that no process
-- and no directory of it is left.

local pg = require "tests.support.pg"

local RUN = os.getenv("MTENANT_RUN") or "build/release/bin/mtenant-run"

local scratch -- a directory per test, also its TMPDIR


local function sh(command)
  local pipe = assert(io.popen(command, "r"))
  local out = pipe:read("a")
  pipe:close()
  return (out:gsub("\n$", ""))
end


local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end


local function read(name)
  local file = io.open(scratch .. "/" .. name, "rb")
  local text = file and file:read("a")
  if file then
    file:close()
  end
  return text
end


local function write(name, text)
  local file = assert(io.open(scratch .. "/" .. name, "wb"))
  file:write(text)
  file:close()
  return scratch .. "/" .. name
end


local function wait_for(what, condition)
  for _ = 1, 500 do
    local value = condition()
    if value then
      return value
    end
    os.execute("sleep 0.02")
  end
  error("waited in vain for " .. what, 2)
end


if RUN:sub(1, 1) ~= "/" then
  RUN = sh("pwd") .. "/" .. RUN
end


--- Runs the program to its end. `args` are shell words; opts: input, env, run.
local function run(args, opts)
  opts = opts or {}
  write("stdin", opts.input or "")
  local command = ("cd %s && TMPDIR=%s %s %s %s <stdin >stdout 2>stderr")
    :format(quote(scratch), quote(scratch), opts.env or "",
      quote(opts.run or RUN), args)
  local _, how, status = os.execute(command)
  return {
    status = how == "exit" and status or 128 + status,
    out = read("stdout"),
    err = read("stderr"),
  }
end


--- Starts it in a process group of its own. Its `status` file tells the end.
local function start(args)
  write("wrapper", ([[
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
]]):format(quote(scratch), quote(scratch), quote(RUN), args))
  os.execute(("setsid sh %s/wrapper </dev/null >/dev/null 2>&1 &"):format(
    quote(scratch)))
  return wait_for("the program", function() return tonumber(read("pid")) end)
end


local function await_output(text)
  wait_for("output " .. text, function()
    return (read("stdout") or ""):find(text, 1, true)
  end)
end


local function await_status()
  return wait_for("the end", function() return tonumber(read("status")) end)
end


local function signal(name, pid)
  os.execute(("kill -s %s -- %d"):format(name, pid))
end


local function mentions_scratch(path)
  local file = io.open(path, "rb")
  local text = file and file:read("a") or ""
  if file then
    file:close()
  end
  return text:find(scratch, 1, true) ~= nil
end


--- What this test has left: directories of servers, processes that know them.
local function leftovers()
  local found = {}
  for name in sh("ls " .. quote(scratch)):gmatch("mtenant%-pg%-%S+") do
    found[#found + 1] = name
  end
  for pid in sh("ls /proc"):gmatch("%d+") do
    local proc = "/proc/" .. pid
    if mentions_scratch(proc .. "/cmdline")
      or mentions_scratch(proc .. "/environ") then
      found[#found + 1] = sh("tr '\\0' ' ' <" .. proc .. "/cmdline")
    end
  end
  return table.concat(found, "; ")
end


local function assert_nothing_left()
  local left
  local ok = pcall(wait_for, "a clean end", function()
    left = leftovers()
    return left == ""
  end)
  assert.is_true(ok, "left behind: " .. tostring(left))
end


local function assert_run(expected, result)
  assert.same(expected,
    { status = result.status, out = result.out, err = result.err })
end


describe("mtenant-run", function()
  before_each(function()
    scratch = sh("mktemp -d /tmp/mtenant-runner-XXXXXX")
    os.execute("chmod 1777 " .. quote(scratch)) -- for the server's user
  end)

  after_each(function()
    local pid = tonumber(read("pid"))
    if pid and not read("status") then
      signal("KILL", pid)
    end
    local ok, err = pcall(assert_nothing_left)
    os.execute("rm -rf " .. quote(scratch))
    if not ok then
      error(err, 0)
    end
  end)

  describe("options", function()
    it("print the version", function()
      local result = run("--version")
      assert.equal(0, result.status)
      assert.matches("^mtenant%-run %d+%.%d+%.%d+, Lua 5%.4%.%d+\n$", result.out)
    end)

    it("explain themselves", function()
      local result = run("--help")
      assert.equal(0, result.status)
      for _, option in ipairs({ "-e code", "-i ", "--pg", "--version", "--help",
                                "-h,", "130" }) do
        assert.truthy(result.out:find(option, 1, true), option)
      end
      assert.same(result, run("-h"))
    end)

    it("that are wrong give status 2, one line and a hint", function()
      local cases = {
        [""] = "the script is missing",
        ["--pgg x.lua"] = "unknown option '--pgg'",
        ["-x"] = "unknown option '-x'",
        ["-e"] = "code is missing after '-e'",
        ["--"] = "the script is missing",
      }
      for args, message in pairs(cases) do
        assert_run({
          status = 2,
          out = "",
          err = "mtenant-run: " .. message .. "\nTry 'mtenant-run --help'.\n",
        }, run(args))
      end
    end)

    it("end at the script, whose arguments are its own", function()
      write("s.lua", "print(arg[-2], arg[-1], arg[0], arg[1], arg[2], #arg)\n"
        .. "print(select('#', ...), ...)")
      local result = run("-e 'x = 1' s.lua --version -e")
      assert.equal("-e\tx = 1\ts.lua\t--version\t-e\t2\n2\t--version\t-e\n",
        result.out)
      write("-x.lua", "print(arg[0])")
      assert.equal("-x.lua\n", run("-- -x.lua").out)
    end)
  end)

  describe("runs", function()
    it("code of -e before the script, in one global environment", function()
      write("s.lua", "print(x, y)")
      assert_run({ status = 0, out = "1\t2\n", err = "" },
        run("-e 'x = 1' -e'y = x + 1' s.lua"))
    end)

    it("a script from standard input", function()
      assert_run({ status = 3, out = "-\ta\n", err = "" },
        run("- a", { input = "print(arg[0], ...) return 3" }))
    end)

    it("as a task that may wait", function()
      assert_run({ status = 0, out = "true\n", err = "" },
        run("-e 'print(require\"mtenant\".sleep(1))'"))
    end)

    it("lines of -i, on a pipe without prompts", function()
      local result = run("-i -e 'x = 20'", { input = table.concat({
        "x + 1",
        "= x + 2, nil",
        "y = 5",
        "for i = 1, 2 do",
        "  io.write(i, ' ')",
        "end",
        "require 'mtenant'.sleep(1)",
        "pcall(error)",
        "print(y)",
      }, "\n") })
      assert_run({
        status = 0,
        out = "21\n22\tnil\n1 2 true\nfalse\tnil\n5\n",
        err = "",
      }, result)
    end)

    it("further lines after one that fails", function()
      local result = run("-i", { input = "error('no')\nx x\nfor\n" })
      assert.equal(0, result.status)
      assert.matches("^stdin:1: no\nstack traceback:\n", result.err)
      assert.matches("\nstdin:1: syntax error near 'x'\n", result.err)
      assert.matches("near <eof>\n$", result.err)
      assert_run({ status = 4, out = "1\n", err = "" },
        run("-i", { input = "1\nos.exit(4)\n2" }))
    end)
  end)

  describe("ends with", function()
    local function status_of(code)
      return run("-e " .. quote(code)).status
    end

    it("what the script returns", function()
      assert.equal(0, status_of("return"))
      assert.equal(0, status_of("return nil"))
      assert.equal(0, status_of("return 'text', 'more'"))
      assert.equal(7, status_of("return 7"))
      assert.equal(255, status_of("return 255"))
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: the script returned 256, an exit status is 0 to "
          .. "255\n",
      }, run("-e 'return 256'"))
    end)

    it("1 and one line for nil, err", function()
      assert_run({ status = 1, out = "", err = "mtenant-run: one two\n" },
        run("-e 'return nil, \"one\\ntwo\"'"))
      local result = run("-e 'local e = require \"mtenant\".errors "
        .. "return nil, e.new(\"timeout\", \"too late\")'")
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: [mtenant] timeout: too late\n",
      }, result)
    end)

    it("1 and a traceback for an error", function()
      write("s.lua", "local function f()\n  error('boom')\nend\nf()")
      local result = run("s.lua")
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: s.lua:2: boom\nstack traceback:\n"
          .. "\t[C]: in function 'error'\n"
          .. "\ts.lua:2: in local 'f'\n"
          .. "\ts.lua:4: in main chunk\n",
      }, result)
      assert.matches("^mtenant%-run: %(error object is a table value%)\n",
        run("-e 'error({})'").err)
    end)

    it("1 and one line for a script that does not compile", function()
      write("s.lua", "local x = 1\n\nx x")
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: s.lua:3: syntax error near 'x'\n",
      }, run("-e 'print(1)' s.lua"))
    end)

    it("1 and one line for a script that cannot be read", function()
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: cannot open none.lua: No such file or directory\n",
      }, run("none.lua"))
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: cannot read .: Is a directory\n",
      }, run("."))
    end)

    it("what os.exit says", function()
      assert.equal(0, status_of("os.exit()"))
      assert.equal(0, status_of("os.exit(true)"))
      assert.equal(1, status_of("os.exit(false)"))
      assert.equal(9, status_of("os.exit(9, true) return 1"))
      assert.equal(1, status_of("os.exit({})"))
    end)

    it("os.exit through pcall, xpcall and a task that waits", function()
      assert_run({ status = 5, out = "closed\n", err = "" }, run("-e " .. quote([[
        local mtenant = require "mtenant"
        local guard <close> = setmetatable({}, {
          __close = function() print("closed") end,
        })
        pcall(function()
          xpcall(function()
            mtenant.sleep(1)
            os.exit(5)
          end, debug.traceback)
          print("not here")
        end)
        print("nor here")
      ]])))
    end)

    it("os.exit from another task, without a complaint", function()
      assert_run({ status = 6, out = "", err = "" }, run("-e " .. quote([[
        local mtenant = require "mtenant"
        mtenant.spawn(function()
          mtenant.sleep(5)
          os.exit(6)
        end)
        mtenant.sleep(60000)
      ]])))
    end)

    it("all that was printed", function()
      local result = run("-e 'for i = 1, 20000 do print(i) end os.exit(0)'")
      assert.matches("\n20000\n$", result.out)
    end)

    it("1 when its output could not be written", function()
      local _, _, status = os.execute(("%s -e 'print(1)' >/dev/full 2>%s")
        :format(quote(RUN), quote(scratch .. "/stderr")))
      assert.equal(1, status)
      assert.equal("mtenant-run: cannot write the output\n", read("stderr"))
    end)
  end)

  describe("on a signal", function()
    local WAIT = quote([[
      local guard <close> = setmetatable({}, {
        __close = function() print("closed") end,
      })
      print("ready")
      io.stdout:flush()
      local ok, err = require "mtenant".sleep(60000)
      print(ok, err.code)
      return ok, err
    ]])

    it("unwinds, then ends with 130 or 143", function()
      for name, status in pairs({ INT = 130, TERM = 143 }) do
        local pid = start("-e " .. WAIT)
        await_output("ready")
        signal(name, pid)
        assert.equal(status, await_status())
        assert.equal("ready\nnil\tcancelled\nclosed\n", read("stdout"))
        assert.equal("", read("stderr"))
        os.remove(scratch .. "/status")
        os.remove(scratch .. "/stdout")
        os.remove(scratch .. "/pid")
      end
    end)

    it("ends at once when it is the second one", function()
      local pid = start("-e 'print(1) while true do end'")
      await_output("1")
      local began = os.time()
      signal("INT", pid)
      signal("TERM", pid)
      local status = await_status() -- they may arrive in either order
      assert.is_true(status == 130 or status == 143, status)
      assert.is_true(os.time() - began < 5)
    end)

    it("rolls back the open transaction and leaves no connection", function()
      local server = pg.shared()
      server:psql("DROP SCHEMA IF EXISTS t_sig CASCADE; CREATE SCHEMA t_sig "
        .. "AUTHORIZATION mtenant; CREATE TABLE t_sig.x (a int); "
        .. "GRANT ALL ON t_sig.x TO mtenant")
      write("s.lua", [[
        local mtenant = require "mtenant"
        local manager = mtenant.create_tenant_manager({
          connection = { url = arg[1] },
          isolation = {
            strategy = "schema",
            schema_name_template = function(id) return "t_" .. id end,
          },
        })
        local db = assert(manager:get_db_async("sig"))
        assert(db:query("INSERT INTO x VALUES (1)"))
        return db:transaction(function(tx)
          assert(tx:query("INSERT INTO x VALUES (2)"))
          print("ready")
          io.stdout:flush()
          assert(mtenant.sleep(60000))
        end)
      ]])
      local pid = start("s.lua " .. quote(server.url))
      await_output("ready")
      signal("TERM", pid)
      assert.equal(143, await_status())
      assert.equal("", read("stderr"))
      assert.equal("1", server:psql("SELECT string_agg(a::text, ',') FROM t_sig.x"))
      wait_for("the end of its connections", function()
        return server:psql("SELECT count(*) FROM pg_stat_activity "
          .. "WHERE usename = 'mtenant'") == "0"
      end)
    end)
  end)

  describe("--pg", function()
    local PSQL = [[
      local function psql(sql)
        local pipe = io.popen("psql -XAtq \"$DATABASE_URL\" 2>&1 <<'END'\n"
          .. sql .. "\nEND")
        local out = pipe:read("a")
        pipe:close()
        return (out:gsub("\n$", ""))
      end
    ]]

    local READY = quote("print('ready') io.stdout:flush() "
      .. "require 'mtenant'.sleep(60000)")

    it("gives an ordinary user a database of its own", function()
      write("s.lua", PSQL .. [[
        print(psql("SELECT current_user, current_database()"))
        print(psql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))
        print(psql("CREATE SCHEMA t; CREATE TABLE t.x (a int); SELECT 1"))
        print(psql("SHOW fsync"), psql("SHOW listen_addresses"),
          psql("SHOW server_encoding"), psql("SHOW max_connections"))
        return 3
      ]])
      -- what is set for another server must not matter
      local result = run("--pg s.lua", { env = "PGPORT=1 DATABASE_URL=nowhere" })
      assert_run({
        status = 3,
        out = "mtenant|mtenant\nf\n1\noff\t\tUTF8\t100\n",
        err = "",
      }, result)
      assert.equal("", leftovers())
    end)

    it("leaves nothing after os.exit and after an error", function()
      assert.equal(4, run("--pg -e 'os.exit(4)'").status)
      assert.equal("", leftovers())
      assert.equal(1, run("--pg -e 'error()'").status)
      assert.equal("", leftovers())
    end)

    it("leaves nothing after SIGKILL", function()
      local pid = start("--pg -e " .. READY)
      await_output("ready")
      assert.not_equal("", leftovers())
      signal("KILL", pid)
      assert.equal(137, await_status())
      assert_nothing_left()
    end)

    it("leaves nothing after Ctrl-C, which hits the whole group", function()
      start("--pg -e " .. READY)
      await_output("ready")
      signal("INT", -tonumber(read("group")))
      assert.equal(130, await_status())
      assert.equal("", leftovers())
    end)

    it("leaves nothing when stopped while it starts", function()
      for _, name in ipairs({ "TERM", "KILL" }) do
        local pid = start("--pg -e " .. READY)
        wait_for("the directory", function()
          return sh("ls " .. quote(scratch)):find("mtenant-pg-", 1, true)
        end)
        signal(name, pid)
        assert.equal(name == "TERM" and 143 or 137, await_status())
        assert_nothing_left()
        os.remove(scratch .. "/status")
        os.remove(scratch .. "/pid")
      end
    end)

    it("leaves nothing when its supervisor is killed", function()
      local pid = start("--pg -e " .. READY)
      await_output("ready")
      local supervisor = tonumber(sh("pgrep -P " .. pid))
      signal("KILL", supervisor)
      signal("TERM", pid)
      assert.equal(143, await_status())
      assert_nothing_left()
    end)

    it("says why there is no server", function()
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: --pg: PG_BINDIR (/none) has no initdb and "
          .. "postgres\n",
      }, run("--pg -e 'print(1)'", { env = "PG_BINDIR=/none" }))
    end)

    it("lets the script stop and start the server", function()
      write("s.lua", PSQL .. [[
        local throwaway = require "mtenant.throwaway"
        local server = assert(throwaway.start())
        assert(server.url == os.getenv("DATABASE_URL"))
        local function up() return psql("SELECT 1") == "1" end
        print(up(), server:stop(), up(), server:start(), up())
        print(server:restart(), up(), server:kill(), up(), server:start(), up())
      ]])
      assert_run({
        status = 0,
        out = "true\ttrue\tfalse\ttrue\ttrue\n"
          .. "true\ttrue\ttrue\tfalse\ttrue\ttrue\n",
        err = "",
      }, run("--pg s.lua"))
    end)
  end)

  describe("throwaway", function()
    it("starts a server on demand, without holding up other tasks", function()
      write("s.lua", [[
        local mtenant = require "mtenant"
        local throwaway = require "mtenant.throwaway"
        local ticks = 0
        mtenant.spawn(function()
          while mtenant.sleep(5) do ticks = ticks + 1 end
        end)
        local server = assert(throwaway.start())
        print(throwaway.available(), ticks > 10, os.getenv("DATABASE_URL"))
        os.execute("psql -XAtqc 'SELECT current_user' '" .. server.url .. "'")
        print(server:close(), server:close())
        local ok, err = server:restart()
        print(ok, err.code)
      ]])
      assert_run({
        status = 0,
        out = "true\ttrue\tnil\nmtenant\ntrue\ttrue\nnil\tunreachable\n",
        err = "",
      }, run("s.lua", { env = "DATABASE_URL= env -u DATABASE_URL" }))
    end)

    it("says why there is none", function()
      local result = run("-e 'return require \"mtenant.throwaway\".start()'",
        { env = "PG_BINDIR=/none" })
      assert_run({
        status = 1,
        out = "",
        err = "mtenant-run: [mtenant] unreachable: throwaway PostgreSQL: "
          .. "PG_BINDIR (/none) has no initdb and postgres\n",
      }, result)
    end)
  end)

  describe("called mtenant", function()
    local mtenant

    before_each(function()
      mtenant = scratch .. "/mtenant"
      os.execute(("ln -s %s %s"):format(quote(RUN), quote(mtenant)))
      os.execute("mkdir " .. quote(scratch .. "/scripts"))
      write("scripts/greet.lua", "#!/usr/bin/env mtenant-run\n"
        .. "-- Greets whoever is named.\nprint('hello', arg[0], ...)\nreturn 2")
      write("scripts/part.lua", "--- mtenant part: says goodbye\n")
    end)

    local function call(args)
      local result = run(args, {
        run = mtenant,
        env = "MTENANT_SCRIPTS=" .. quote(scratch .. "/scripts"),
      })
      return result
    end

    it("runs a command's script", function()
      assert_run({
        status = 2,
        out = "hello\t" .. scratch .. "/scripts/greet.lua\ta\t--b\n",
        err = "",
      }, call("greet a --b"))
    end)

    it("lists the commands", function()
      local result = call("--help")
      assert.equal(0, result.status)
      assert.matches("^usage: mtenant ", result.out)
      assert.matches("\n  greet +Greets whoever is named.\n", result.out)
      assert.matches("\n  part +says goodbye\n", result.out)
      assert.matches("^mtenant %d", call("--version").out)
    end)

    it("guesses what was meant", function()
      local hint = "\nTry 'mtenant --help'.\n"
      local cases = {
        geet = "unknown command 'geet'; did you mean 'greet'?",
        zzzzzzz = "unknown command 'zzzzzzz'",
        ["../greet"] = "unknown command '../greet'",
        [""] = "the command is missing",
        ["-e x"] = "unknown option '-e'",
      }
      for args, message in pairs(cases) do
        assert_run({ status = 2, out = "", err = "mtenant: " .. message .. hint },
          call(args))
      end
    end)
  end)
end)
