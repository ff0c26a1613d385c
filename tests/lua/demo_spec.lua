--- The demo as somebody sees it who runs it: piped, on a terminal, twice on one
-- server, interrupted, and when something is wrong. Every test ends by
-- asserting that no process and no directory of it is left.

local pg = require "tests.support.pg"
local program = require "tests.support.program"

local quote, sh = program.quote, program.sh

local ROOT = sh("pwd")
local DEMO = ROOT .. "/scripts/demo.lua"
local SMALL = " --tenants 6 --tasks 4 --seconds 1"
local FILES = tonumber(sh("ls " .. quote(ROOT)
  .. "/scripts/demo/migrations/*.sql | wc -l"))


--- Runs the demo (or a copy of it) with `url` as DATABASE_URL, or without.
local function demo(args, url, script)
  local env = url and "env DATABASE_URL=" .. quote(url)
    or "env -u DATABASE_URL"
  return program.run(quote(script or DEMO) .. " " .. args, { env = env })
end


--- The value of a row of the summary.
local function value(result, name)
  local text = ("\n" .. result.out):match("\n" .. name:gsub("%-", "%%-")
    .. " +([%d,.]+)")
  return text and tonumber((text:gsub(",", "")))
end


local function assert_status(status, result)
  assert.equal(status, result.status, result.out .. result.err)
end


local function assert_good(result)
  assert_status(0, result)
  assert.equal("", result.err)
  assert.equal(0, value(result, "unanswered reads"))
  assert.equal(0, value(result, "wrong-tenant rows"))
end


--- No escape code, nothing but ASCII, no line that is drawn again.
local function assert_plain(text)
  assert.is_nil(text:find("[^\n\32-\126]"), text)
end


local function assert_shows(result, text)
  assert.truthy(result.out:find(text, 1, true), result.out .. result.err)
end


describe("the demo", function()
  before_each(program.set_up)
  after_each(program.tear_down)

  it("explains its options", function()
    local result = demo("--help")
    assert.equal(0, result.status)
    for _, option in ipairs({ "--tenants N", "--tasks N", "--seconds N",
                              "--plain", "--drop", "--help" }) do
      assert_shows(result, option)
    end
  end)

  it("refuses options that are wrong, in one line and a hint", function()
    local cases = {
      ["--tenant 3"] = "unknown option '--tenant'",
      ["x"] = "unknown option 'x'",
      ["--plain=1"] = "unknown option '--plain=1'",
      ["--tenants"] = "--tenants needs a number",
      ["--tenants 1.5"] =
        "--tenants takes a whole number from 1 to 10000, not '1.5'",
      ["--tasks=0"] = "--tasks takes a whole number from 1 to 1000, not '0'",
      ["--seconds nan"] =
        "--seconds takes a number from 1 to 3600, not 'nan'",
    }
    for args, message in pairs(cases) do
      program.assert_run({
        status = 2, out = "", err = "demo: " .. message .. "\nTry --help.\n",
      }, demo(args))
    end
  end)

  it("restarts a server of its own, and every read is answered", function()
    local result = demo(SMALL)
    assert_good(result)
    assert_plain(result.out)
    assert_shows(result, "started for this run; user mtenant, not a superuser")
    assert_shows(result, "the server is stopped")
    assert_shows(result, "the server is up again")
    assert_shows(result, "4 of 4 tasks finished")
    assert.equal(6, value(result, "tenants"))
    assert.equal(6 * FILES, value(result, "migrations"))
    local reads = tonumber((result.out:match("  ([%d,]+) reads, ")
      :gsub(",", "")))
    assert.is_true(reads > 0 and value(result, "queries") > reads)
    assert.is_true(value(result, "retries") > 0)
    assert.is_true(value(result, "server connections") > 0)
    assert.is_true(value(result, "time") > 1)
  end)

  describe("on a terminal", function()
    -- long enough to be seen on the way
    local VISIBLE = " --tenants 40 --tasks 4 --seconds 1"

    local function on_terminal(args, env)
      local command = ("env -u DATABASE_URL -u NO_COLOR TERM=xterm %s %s %s %s")
        :format(env, quote(program.path), quote(DEMO), args)
      local result = program.run("-qec " .. quote(command) .. " typescript",
                                 { path = "script" })
      result.out = result.out:gsub("\r", "")
      return result
    end

    it("draws progress, a chart and a table", function()
      local result = on_terminal(VISIBLE, "LC_ALL=C.UTF-8")
      assert_status(0, result)
      for _, text in ipairs({ "tenants migrated", "━", "\27[36m", "\27[1A",
                              "▁", "4 tasks read", " reads/s", "╭", "╯",
                              "4 of 4 tasks finished" }) do
        assert_shows(result, text)
      end
    end)

    it("keeps to ASCII where the locale is not UTF-8", function()
      local result = on_terminal(SMALL, "LC_ALL=C")
      assert_status(0, result)
      assert_shows(result, "\27[36m")
      assert.is_nil(result.out:find("[\128-\255]"))
    end)

    it("leaves colour out when NO_COLOR is set", function()
      local result = on_terminal(VISIBLE, "LC_ALL=C.UTF-8 NO_COLOR=1")
      assert_status(0, result)
      assert_shows(result, "━")
      assert.is_nil(result.out:find("\27%[[%d;]*m"))
    end)

    it("is plain on demand", function()
      local result = on_terminal("--plain" .. SMALL, "LC_ALL=C.UTF-8")
      assert_status(0, result)
      assert_plain(result.out)
    end)
  end)

  describe("with DATABASE_URL", function()
    local server

    before_each(function() server = pg.start() end)
    after_each(function() server:close() end)

    local function connections_left()
      return server:psql("SELECT count(*) FROM pg_stat_activity "
        .. "WHERE application_name LIKE 'mtenant demo%'")
    end

    local function assert_no_connection_left()
      program.wait_for("the end of its connections", function()
        return connections_left() == "0"
      end)
    end

    it("ends its own connections, and a second run migrates nothing", function()
      local first = demo(SMALL, server.url)
      assert_good(first)
      assert_plain(first.out)
      assert_shows(first, "of DATABASE_URL; user mtenant, not a superuser")
      assert_shows(first, "pg_terminate_backend ends every server connection")
      assert.equal(6 * FILES, value(first, "migrations"))
      assert_no_connection_left()

      local records = server:psql("SELECT name, applied_at "
        .. "FROM demo_eu_free_amber_bakery.migrations ORDER BY name")
      assert.equal(FILES, select(2, (records .. "\n"):gsub("\n", "")))
      local second = demo("--tenants 7 --tasks 4 --seconds 1", server.url)
      assert_good(second)
      assert_shows(second, ("of %d files; %d were applied already"):format(
        FILES, 6 * FILES))
      assert.equal(FILES, value(second, "migrations"))
      local third = demo("--tenants 7 --tasks 4 --seconds 1", server.url)
      assert_good(third)
      assert_shows(third, "nothing to migrate")
      assert.equal(0, value(third, "migrations"))
      assert.equal(records, server:psql("SELECT name, applied_at "
        .. "FROM demo_eu_free_amber_bakery.migrations ORDER BY name"))

      local drop = demo("--drop", server.url)
      assert_status(0, drop)
      assert_shows(drop, "7 tenants removed")
      assert.equal("", server:psql("SELECT nspname FROM pg_namespace "
        .. "WHERE nspname LIKE 'demo%' OR nspname LIKE 'mtenant%'"))
      assert_shows(demo("--drop", server.url), "0 tenants removed")
      assert_no_connection_left()
    end)

    it("fails when a row is another tenant's", function()
      assert_good(demo(SMALL, server.url))
      server:psql("UPDATE demo_eu_free_amber_bakery.shop "
        .. "SET tenant_id = 'birch-bakery'")
      local result = demo(SMALL, server.url)
      assert_status(1, result)
      assert.is_true(value(result, "wrong-tenant rows") > 0)
    end)

    it("says which file failed for which tenant, and leaves no part of it",
      function()
        sh(("cp -r %s/scripts/demo.lua %s/scripts/demo %s"):format(quote(ROOT),
          quote(ROOT), quote(program.scratch())))
        program.write("demo/migrations/0006_bad.sql",
                      "CREATE TABLE half (); SELECT 1/0;")
        local result = demo("--tenants 1", server.url,
                            program.scratch() .. "/demo.lua")
        assert_status(1, result)
        assert.truthy(result.err:find(
          "^%[mtenant%] query: 0006_bad%.sql: division by zero.*amber%-bakery"
          .. "[^\n]*\n$"), result.err)
        assert.equal("shop", server:psql("SELECT relname FROM pg_class "
          .. "WHERE relkind = 'r' "
          .. "AND relnamespace = 'demo_eu_free_amber_bakery'::regnamespace"))
        assert_no_connection_left()
      end)
  end)

  it("says in one line why there is no server", function()
    local cases = {
      nonsense = "^%[mtenant%] unreachable: DATABASE_URL: [^\n]+\n$",
      ["postgresql://a:secret@127.0.0.1:1/b"] = "^%[mtenant%] refused: [^\n]+\n$",
    }
    for url, pattern in pairs(cases) do
      local result = demo("", url)
      assert_status(1, result)
      assert.matches(pattern, result.err)
      assert.is_nil(result.err:find("secret", 1, true))
    end
  end)

  -- A busy machine takes its time to make a server.
  local function await_output(text)
    return pcall(program.await_output, text) or program.await_output(text)
  end

  it("says where it stands when it is interrupted", function()
    local stages = {
      ["user mtenant"] = "\nstopped: %d+ of 600 tenants made\n$",
      ["600 tenants"] = "\nstopped: %d+ of 600 tenants migrated\n$",
    }
    for text, pattern in pairs(stages) do
      local pid = program.start(quote(DEMO) .. " --tenants 600")
      await_output(text)
      program.signal("INT", pid)
      assert.equal(130, program.await_status())
      assert.matches(pattern, program.read("stdout"))
      assert.equal("", program.read("stderr"))
      program.assert_nothing_left()
    end
    local pid = program.start(quote(DEMO) .. SMALL:gsub("1$", "60"))
    await_output("tasks read random tenants")
    program.signal("TERM", pid)
    assert.equal(143, program.await_status())
    assert.matches("\nstopped while reading: [%d,]+ reads were answered, "
      .. "0 retries, 0 wrong rows\n$", program.read("stdout"))
    assert.equal("", program.read("stderr"))
  end)
end)
