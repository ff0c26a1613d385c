--- mtenant doctor before a real PgBouncer: is it seen, in which mode, and does
--- the configuration fit.

local bouncer = require "tests.support.bouncer"
local doctor = require "mtenant.doctor"
local env = require "tests.support.env"


local function examine(url, pooler)
  return doctor.run { timeout_ms = 10000, config = {
    connection = { url = url, pooler = pooler, statement_timeout_ms = 30000 },
    isolation = { schema_name_template = function(id) return "t_" .. id end },
  } }
end


local function poolers(findings)
  local out = {}
  for _, one in ipairs(findings) do
    if one.check == "pooler" then
      out[#out + 1] = one.level .. ": " .. one.what
      if one.level ~= "ok" then assert.is_truthy(one.fix) end
    end
  end
  return table.concat(out, "\n")
end


local SEEN = "error: there is a pooler, and connection.pooler is not set"
local AS_CONFIGURED = "ok: a pooler in transaction mode, as configured"
local NONE = "warning: connection.pooler is set, and there is no pooler"


-- Whatever PgBouncer does with the startup option, it is recognized.
for name, settings in pairs {
  ["that refuses options"] = { default_pool_size = 2 },
  ["that drops options"] = { ignore_startup_parameters = "options",
                             default_pool_size = 2 },
  ["with one connection"] = { ignore_startup_parameters = "options" },
} do
  describe("before PgBouncer " .. name .. " the doctor", function()
    setup(bouncer.set_up(settings))
    teardown(bouncer.tear_down)
    after_each(bouncer.nothing_left)

    it("sees it, and that the configuration does not know", env.in_task(function()
      local said = poolers(examine(bouncer.pooler.url))
      assert.equal(SEEN .. "\n" .. AS_CONFIGURED, said)
    end))

    it("finds all well where it is configured", env.in_task(function()
      local findings = examine(bouncer.pooler.url, "transaction")
      assert.equal(AS_CONFIGURED, poolers(findings))
      local connected = false
      for _, one in ipairs(findings) do
        assert.are_not.equal("error", one.level, one.what)
        connected = connected or one.check == "connect"
      end
      assert.is_true(connected)
    end))

    it("finds one configured that is not there", env.in_task(function()
      assert.equal(NONE, poolers(examine(bouncer.server.url, "transaction")))
      assert.equal("ok: none: a direct connection",
                   poolers(examine(bouncer.server.url)))
    end))

    it("sees what the server logs", env.in_task(function()
      for _, one in ipairs(examine(bouncer.pooler.url, "transaction")) do
        if one.what:find("log_statement = all", 1, true) then
          assert.equal("warning", one.level)
          return
        end
      end
      error("log_statement was not seen")
    end))
  end)
end


describe("the doctor finds a PgBouncer", function()
  teardown(bouncer.tear_down)

  it("whose login has no empty search_path", env.in_task(function()
    bouncer.set_up({ ignore_startup_parameters = "options" })()
    bouncer.server:psql(
      "ALTER ROLE mtenant IN DATABASE mtenant RESET search_path")
    bouncer.pooler:admin("RECONNECT")
    local findings = examine(bouncer.pooler.url, "transaction")
    assert.is_truthy(poolers(findings):find(
      "error: the search_path behind the pooler is not empty", 1, true))
    for _, one in ipairs(findings) do
      if one.check == "pooler" then
        assert.is_truthy(one.fix:find("ALTER ROLE", 1, true))
      end
    end
    bouncer.server:close()
  end))

  for mode, level in pairs { session = "warning", statement = "error" } do
    it("in " .. mode .. " mode", env.in_task(function()
      bouncer.set_up({ ignore_startup_parameters = "options", pool_mode = mode,
                       default_pool_size = 3 })()
      local said = poolers(examine(bouncer.pooler.url, "transaction"))
      assert.equal(level .. ": the pooler is in " .. mode .. " mode", said)
      bouncer.server:close()
    end))
  end
end)
