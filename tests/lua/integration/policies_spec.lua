--- The directory policy on a server: who changes the table moves tenants, whatever
-- happens to the connection that listens.

local core = require "mtenant.core"
local directory = require "mtenant.policy.directory"
local env = require "tests.support.env"

local in_task = env.in_task

local OPTIONS = { table = "places", columns = { schema = "place" },
                  active = "enabled", label = "plan", ttl_ms = 3600000,
                  negative_ttl_ms = 3600000 }


local function options()
  local out = {}
  for key, value in pairs(OPTIONS) do out[key] = value end
  return out
end


-- the same as a file: it runs in the sandbox, and hears through its wall
local function in_file()
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write([[
    return require("mtenant.policy.directory").new {
      table = "places", columns = { schema = "place" }, active = "enabled",
      label = "plan", ttl_ms = 3600000, negative_ttl_ms = 3600000,
    }
  ]])
  file:close()
  return path
end


local function as_object()
  return directory.new(options())
end


local function create_table()
  env.sql("DROP TABLE IF EXISTS places CASCADE; SET ROLE mtenant;"
    .. directory.sql(options()) .. directory.sql(options()))
end


local function schema_of(manager)
  local db, err = manager:get_db_async("acme")
  if not db then return err.code end
  local schema
  schema, err = db:value("SELECT current_schema()")
  return schema or err.code
end


local function listeners()
  return env.sql("SELECT count(*) FROM pg_stat_activity WHERE query = "
    .. [['LISTEN "public.places"']])
end


local function becomes(manager, wanted)
  env.eventually("acme is at " .. wanted, function()
    return schema_of(manager) == wanted
  end)
end


-- (while it is asked for anew there is none)
local function plan_becomes(manager, plan)
  env.eventually("the plan is " .. plan, function()
    local route = schema_of(manager) and manager:get_route("acme")
    return route and route.labels.plan == plan
  end)
end


for name, make in pairs({ ["an object"] = as_object, ["a file"] = in_file }) do
  describe("the directory policy, " .. name, function()
    local policy

    setup(function()
      env.tenants({ "acme", "globex" })
    end)

    before_each(function()
      policy = make()
      create_table()
      env.sql("INSERT INTO places VALUES ('acme', 't_acme', 'free', true)")
    end)

    after_each(function()
      -- the policy's task and the listener's hear of the end in turns of the loop
      env.eventually("the manager is gone", function()
        env.collect()
        return core.stats().managers == 0
      end)
      env.assert_nothing_left()
      if type(policy) == "string" then os.remove(policy) end
      env.sql("DROP TABLE places CASCADE")
    end)

    local function manager()
      return env.manager({ policy = policy,
                           routing = { time_ms = 500, reload = false } })
    end

    it("moves tenants when their rows change", in_task(function()
      local m = manager()
      assert.equal("t_acme", schema_of(m))
      plan_becomes(m, "free")
      env.eventually("it listens", function() return listeners() ~= "0" end)
      env.sql("UPDATE places SET place = 't_globex', plan = 'pro'")
      becomes(m, "t_globex")
      plan_becomes(m, "pro")
      env.sql("UPDATE places SET enabled = false")
      becomes(m, "tenant_not_found")
      env.sql("UPDATE places SET enabled = true")
      becomes(m, "t_globex")
      env.sql("DELETE FROM places")
      becomes(m, "tenant_not_found")
      env.sql("INSERT INTO places VALUES ('acme', 't_acme')")
      becomes(m, "t_acme")
      env.sql("TRUNCATE places")
      becomes(m, "tenant_not_found")
      m:dispose()
    end))

    it("listens no more when another one has its place", in_task(function()
      local m = manager()
      assert.equal("t_acme", schema_of(m))
      env.eventually("it listens", function() return listeners() == "1" end)
      assert.is_true(m:reload_policy(function() return { schema = "t_acme" } end))
      env.eventually("nobody listens", function() return listeners() == "0" end)
      assert.equal("t_acme", schema_of(m))
      m:dispose()
    end))

    it("asks for all again after it could not hear", in_task(function()
      local m = manager()
      assert.equal("t_acme", schema_of(m))
      env.eventually("it listens", function() return listeners() ~= "0" end)
      -- the notification comes when nobody listens
      env.sql([[
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE query = 'LISTEN "public.places"';
        UPDATE places SET place = 't_globex'
      ]])
      becomes(m, "t_globex")
      m:dispose()
    end))
  end)
end
