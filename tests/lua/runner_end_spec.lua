--- How runs of mtenant-run end: signals, the throwaway server of --pg. Every
-- test ends by asserting that no process and no directory of it is left.

local pg = require "tests.support.pg"
local program = require "tests.support.program"

local assert_nothing_left = program.assert_nothing_left
local assert_run, leftovers = program.assert_run, program.leftovers
local await_output, await_status = program.await_output, program.await_status
local quote, read, sh = program.quote, program.read, program.sh
local run, signal, start = program.run, program.signal, program.start
local wait_for, write = program.wait_for, program.write


describe("mtenant-run", function()
  before_each(program.set_up)
  after_each(program.tear_down)

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
      assert.equal("1",
        server:psql("SELECT string_agg(a::text, ',') FROM t_sig.x"))
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
        print(psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'mtenant'"))
        print(psql("CREATE SCHEMA t; CREATE TABLE t.x (a int); SELECT 1"))
        print(psql("SHOW fsync"), psql("SHOW listen_addresses"),
          psql("SHOW server_encoding"), psql("SHOW max_connections"))
        return 3
      ]])
      -- what is set for another server must not matter
      local result = run("--pg s.lua",
        { env = "PGPORT=1 DATABASE_URL=nowhere" })
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
      local _, group = start("--pg -e " .. READY)
      await_output("ready")
      signal("INT", -group)
      assert.equal(130, await_status())
      assert.equal("", leftovers())
    end)

    it("leaves nothing when stopped while it starts", function()
      for _, name in ipairs({ "TERM", "KILL" }) do
        local pid = start("--pg -e " .. READY)
        wait_for("the directory", function()
          local names = sh("ls " .. quote(program.scratch()))
          return names:find("mtenant-pg-", 1, true)
        end)
        signal(name, pid)
        assert.equal(name == "TERM" and 143 or 137, await_status())
        assert_nothing_left()
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
end)
