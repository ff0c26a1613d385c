--- The examples of scripts/examples: each answers what it should, and leaves
-- nothing when it is ended.

local env = require "tests.support.env"
local pg = require "tests.support.pg"
local program = require "tests.support.program"

local sh = program.sh


-- what the example says to the check, and its exit status
local function check(name)
  local build = os.getenv("MT_BUILD_DIR") or sh("pwd") .. "/build/release"
  return sh(("MT_BUILD_DIR=%s timeout 100 scripts/examples/run.sh %s --check 2>&1;"
    .. " echo status $?"):format(build, name))
end


describe("the example", function()
  for _, name in ipairs({ "openresty", "lua-http", "worker", "saas", "fleet",
                          "replicas" }) do
    it(name .. " answers what it should", function()
      assert.equal("status 0", check(name))
    end)
  end

  it("that is ended by a signal leaves nothing", function()
    for _, name in ipairs({ "openresty", "lua-http" }) do
      local build = os.getenv("MT_BUILD_DIR") or sh("pwd") .. "/build/release"
      local dir = sh("mktemp -d")
      local pid = sh(("MT_BUILD_DIR=%s setsid scripts/examples/run.sh %s "
        .. "> %s/out 2>&1 & echo $!"):format(build, name, dir))
      env.eventually("it runs", function()
        return sh("cat " .. dir .. "/out"):find("Ctrl-C ends it", 1, true)
      end, 30000)
      local port = sh("cat " .. dir .. "/out"):match("127%.0%.0%.1:(%d+)")
      sh("kill -TERM " .. pid)
      env.eventually("it has ended", function()
        return sh(("kill -0 %s 2>/dev/null; echo $?"):format(pid)) ~= "0"
      end, 30000)
      assert.equal("", sh(("pgrep -s %s || true"):format(pid)))
      assert.equal("7", sh(("curl -s http://127.0.0.1:%s/health; echo $?")
        :format(port)))
      sh("rm -rf " .. dir)
    end
  end)

  describe("migrate", function()
    local server

    before_each(function() server = pg.start() end)
    after_each(function() server:close() end)

    local function run()
      return sh(("DATABASE_URL=%s timeout 60 %s scripts/examples/migrate/migrate.lua "
        .. "20 2>&1; echo status $?"):format(program.quote(server.url),
        program.quote(program.path)))
    end

    local RESULT = "canary: 1 of 1 shops are up to date, %d files applied\n"
      .. "early: 1 of 1 shops are up to date, %d files applied\n"
      .. "everybody else: 18 of 18 shops are up to date, %d files applied\nstatus 0"

    it("goes ring by ring, once", function()
      assert.equal(RESULT:format(3, 3, 54), run())
      assert.equal("2", server:psql("SELECT count(*) FROM shop_s020.orders "
        .. "WHERE number LIKE '____-000_'"))
      assert.equal(RESULT:format(0, 0, 0), run())
    end)

    it("stops where a ring does not go well", function()
      run()
      server:psql("DROP TABLE shop_s001.__drizzle_migrations;"
        .. "DROP SCHEMA shop_s002 CASCADE; CREATE SCHEMA shop_s002 "
        .. "AUTHORIZATION mtenant")
      local out = run()
      assert.matches('relation "orders" already exists', out)
      assert.matches("\ncanary: 0 of 1 shops are up to date, 0 files applied\n"
        .. "stopped; [^\n]+\nstatus 1$", out)
      assert.equal("0", server:psql("SELECT count(*) FROM pg_tables "
        .. "WHERE schemaname = 'shop_s002'"))
    end)
  end)

  it("that there is none of is said", function()
    local out = sh("scripts/examples/run.sh nothing 2>&1; echo status $?")
    assert.matches("status 2$", out)
    assert.matches("run.sh NAME", out)
  end)
end)
