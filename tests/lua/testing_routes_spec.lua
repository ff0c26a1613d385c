--- mtenant.testing: routes without a server.

local errors = require "mtenant.errors"
local mtenant = require "mtenant"
local testing = require "mtenant.testing"


local function template(id) return "tenant_" .. id end


-- the error that a policy ends in
local function failure(policy, id, ctx)
  local route, err = testing.resolve(policy, id, ctx)
  assert.is_nil(route)
  assert.is_true(errors.is(err))
  return err
end


local function refuses(pattern, fn, ...)
  local args = table.pack(...)
  local ok, err = pcall(function()
    fn(table.unpack(args, 1, args.n))
  end)
  assert.is_false(ok)
  assert.equal("misuse", err.code)
  assert.truthy(err.message:find(pattern), err.message)
  assert.truthy(err.message:find("testing_routes_spec.lua:%d+: "), err.message)
end


describe("testing.resolve", function()
  it("fills in what the strategies know", function()
    local cfg = {
      connection = { url = "postgresql://app@db.internal:6000/main" },
      isolation = { schema_name_template = template,
                    role_template = function(id) return "role_" .. id end },
    }
    assert.same({ strategy = "schema", schema = "tenant_acme",
                  role = "role_acme", server = "db.internal:6000" },
                testing.resolve(cfg, "acme"))
    cfg.isolation = { strategy = "database", database_template = template }
    assert.same({ strategy = "database", schema = "public",
                  database = "tenant_acme", server = "db.internal:6000" },
                testing.resolve(cfg, "acme"))
    cfg.isolation = { strategy = "row", schema = "app" }
    assert.same({ strategy = "row", schema = "app", setting = "app.tenant_id",
                  setting_value = "acme", server = "db.internal:6000" },
                testing.resolve(cfg, "acme"))
  end)

  it("needs no url and no task", function()
    assert.equal("tenant_acme", testing.resolve(
      { isolation = { schema_name_template = template } }, "acme").schema)
    mtenant.run(function()
      assert.equal("x", testing.resolve(function(id) return { schema = id } end,
                                        "x").schema)
    end)
  end)

  it("runs a resolver with the context of a manager's", function()
    local seen
    local route = testing.run(function(clock)
      return assert(testing.resolve(function(id, ctx)
        local before = ctx.now_ms()
        ctx.sleep(500)
        seen = { id, ctx.now_ms() - before, ctx.region, clock:now() }
        return { url = "postgresql://eu/app", schema = "t_" .. id,
                 labels = { tier = "gold" } }
      end, "acme", { region = "eu" }))
    end)
    assert.same({ "acme", 500, "eu", 500 }, seen)
    assert.same({ strategy = "schema", url = "postgresql://eu/app",
                  schema = "t_acme", server = "eu:5432",
                  labels = { tier = "gold" } }, route)
  end)

  it("gives the errors that a manager gives", function()
    local function answers(...)
      local n, list = select("#", ...), { ... }
      return function() return table.unpack(list, 1, n) end
    end
    assert.equal("invalid_tenant_id", failure(answers({}), "no/good").code)
    assert.equal("invalid_tenant_id", failure(answers({}), 5).code)
    local err = failure(answers(nil), "acme")
    assert.equal("tenant_not_found", err.code)
    assert.equal("acme", err.tenant_id)
    assert.equal("gone", failure(answers(nil, "gone"), "acme").message)
    local own = errors.new("starting_up", "soon")
    assert.equal(own, failure(answers(nil, own), "acme"))
    assert.equal(own, failure(function() error(own) end, "acme"))
    for policy, text in pairs {
      [answers("x")] = "must return a table or nil, it returned string",
      [answers({ shema = "x" })] = "route.shema is not a field",
      [answers({ schema = 5 })] = "route.schema must be a string, got number",
      [answers({ strategy = "x" })] = "route.strategy must be",
      [answers({})] = "the route names no schema",
      [function() error("oops") end] = "resolve raised: .*oops",
      [answers({ schema = "a", role = "none" })] = "is no role name",
    } do
      err = failure(policy, "acme")
      assert.equal("policy", err.code)
      assert.truthy(err.message:find(text), err.message)
    end
  end)

  it("checks names as the core does", function()
    local function schema_is(name)
      return failure(function() return { schema = name } end, "acme")
    end
    assert.truthy(schema_is("public").message:find("no tenant's schema"))
    assert.equal("invalid_tenant_id", schema_is("pg_catalog").code)
    assert.equal("invalid_tenant_id", schema_is("").code)
    assert.equal("invalid_tenant_id", schema_is(("x"):rep(64)).code)
    assert.equal("invalid_tenant_id", schema_is("a\0b").code)
    local err = failure(function()
      return { strategy = "database", database = "postgres" }
    end, "acme")
    assert.equal("invalid_tenant_id", err.code)
    err = failure(function() return { url = "nonsense://", schema = "a" } end,
                  "acme")
    assert.is_string(err.code)
  end)

  it("lets a template wait no more than a manager does", function()
    local err = failure({ isolation = { schema_name_template = function(id)
      mtenant.sleep(1)
      return id
    end } }, "acme")
    assert.equal("policy", err.code)
    assert.truthy(err.message:find("schema_name_template raised"))
  end)

  it("refuses a wrong configuration", function()
    refuses("schema_name_template is required", testing.resolve, {}, "acme")
    refuses("must be a table", testing.resolve, 5, "acme")
    refuses("ctx must be a table", testing.resolve, print, "acme", 5)
  end)
end)


describe("the scripted shared database", function()
  local PLAN = "SELECT plan FROM customers WHERE id = $1"

  local hybrid = {
    isolation = {
      strategy = "hybrid",
      choose = function(id, ctx)
        local plan, err = ctx.shared:value(PLAN, id)
        if err then error(err) end
        return plan == "enterprise" and "database" or "row"
      end,
      database_template = template,
    },
  }

  it("answers with rows, values, errors and functions", function()
    local function strategy(answer)
      local route, err = testing.resolve(hybrid, "acme",
                                         { shared = { [PLAN] = answer } })
      return route and route.strategy or err.code
    end
    assert.equal("database", strategy("enterprise"))
    assert.equal("row", strategy({}))
    assert.equal("database", strategy({ { plan = "enterprise" } }))
    assert.equal("database", strategy({ { "enterprise", 5 } }))
    assert.equal("connection_lost", strategy(testing.error("connection_lost")))
    assert.equal("row", strategy(function(id) return id == "acme" and "free" end))
    assert.equal("starting_up", strategy(function()
      return nil, testing.error { sqlstate = "57P03" }
    end))
  end)

  it("writes down what it was asked", function()
    local shared = testing.shared { [PLAN] = "free" }
    testing.run(function()
      assert(testing.resolve(hybrid, "acme", { shared = shared }))
      mtenant.sleep(10)
      assert(testing.resolve(hybrid, "globex", { shared = shared }))
    end)
    assert.equal(2, #shared.calls)
    assert.equal(PLAN, shared.calls[1].sql)
    assert.same({ "globex", n = 1 }, shared.calls[2].params)
    assert.equal(10, shared.calls[2].at_ms)
  end)

  it("knows query and one, options, and any white space", function()
    local shared = testing.shared {
      ["SELECT url, schema FROM t WHERE id = $1"] = function(id)
        return { { url = "postgresql://" .. id, schema = id } }
      end,
    }
    local function resolve(id, ctx)
      local rows = assert(ctx.shared:query([[
        SELECT url, schema
        FROM t WHERE id = $1;]], id))
      local one = assert(ctx.shared:one {
        sql = "SELECT url, schema FROM t WHERE id = $1", params = { id },
      })
      assert(one.url == rows[1].url)
      return one
    end
    assert.equal("postgresql://acme",
                 testing.resolve(resolve, "acme", { shared = shared }).url)
  end)

  it("may be one function", function()
    local route = testing.resolve(function(id, ctx)
      return { schema = ctx.shared:value("SELECT $1", id) }
    end, "acme", { shared = function(sql, id) return sql == "SELECT $1" and id .. "_x" end })
    assert.equal("acme_x", route.schema)
  end)

  it("says so when it has no answer", function()
    local err = failure(hybrid, "acme")
    assert.equal("policy", err.code)
    assert.truthy(err.message:find("no answer for: SELECT plan", 1, true))
  end)
end)
