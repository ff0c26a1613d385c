--- mtenant-run as a user sees it: options, exit statuses, messages. Signals and
-- servers of its own are in runner_end_spec.lua. Every test ends by asserting
-- that no process and no directory of it is left.

local program = require "tests.support.program"

local assert_run, quote, read = program.assert_run, program.quote, program.read
local run, write = program.run, program.write


describe("mtenant-run", function()
  before_each(program.set_up)
  after_each(program.tear_down)

  describe("options", function()
    it("print the version", function()
      local result = run("--version")
      assert.equal(0, result.status)
      assert.matches("^mtenant%-run %d+%.%d+%.%d+, Lua 5%.4%.%d+\n$",
        result.out)
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

  it("says why a script has failed in the script's log, too", function()
    write("s.lua", "require('mtenant').log.set_default { path = 'app.log', "
      .. "format = 'json' }\nerror('broken')")
    local result = run("s.lua")
    assert.equal(1, result.status)
    assert.matches("^mtenant%-run: s.lua:2: broken\n", result.err)
    assert.matches('^{"time":"[^"]+","level":"error","message":'
      .. '"mtenant%-run: s.lua:2: broken\\n[^\n]+}\n$', read("app.log"))
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
      local result = run("-e " .. quote([[
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
      ]]))
      assert_run({ status = 5, out = "closed\n", err = "" }, result)
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
        :format(quote(program.path), quote(program.scratch() .. "/stderr")))
      assert.equal(1, status)
      assert.equal("mtenant-run: cannot write the output\n", read("stderr"))
    end)
  end)

  describe("called mtenant", function()
    local mtenant

    before_each(function()
      mtenant = program.scratch() .. "/mtenant"
      os.execute(("ln -s %s %s"):format(quote(program.path), quote(mtenant)))
      os.execute("mkdir " .. quote(program.scratch() .. "/scripts"))
      write("scripts/greet.lua", "#!/usr/bin/env mtenant-run\n"
        .. "-- Greets whoever is named.\nprint('hello', arg[0], ...)\nreturn 2")
      write("scripts/part.lua", "--- mtenant part: says goodbye\n")
    end)

    local function call(args)
      local result = run(args, {
        path = mtenant,
        env = "MTENANT_SCRIPTS=" .. quote(program.scratch() .. "/scripts"),
      })
      return result
    end

    it("runs a command's script", function()
      assert_run({
        status = 2,
        out = "hello\t" .. program.scratch() .. "/scripts/greet.lua\ta\t--b\n",
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
        assert_run({
          status = 2,
          out = "",
          err = "mtenant: " .. message .. hint,
        }, call(args))
      end
    end)
  end)
end)
