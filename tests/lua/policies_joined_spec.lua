--- The shipped policies that ask others: the fallback and the directory.

local directory = require "mtenant.policy.directory"
local errors = require "mtenant.errors"
local fallback = require "mtenant.policy.fallback"
local policies = require "tests.support.policies"
local static = require "mtenant.policy.static"
local testing = require "mtenant.testing"
local tiers = require "mtenant.policy.tiers"


local context, resolve = policies.context, policies.resolve


describe("the shipped policies", function()
  it("are short enough to be read and copied", function()
    local names = 0
    for path in io.popen("ls lua/mtenant/policy/*.lua"):lines() do
      local lines = 0
      for _ in io.lines(path) do lines = lines + 1 end
      if not path:find("sandbox", 1, true) then
        names = names + 1
        assert.is_true(lines < 150, path)
      end
    end
    assert.is_true(names >= 9)
  end)
end)


describe("policy fallback", function()
  local known = static.new { routes = { acme = "moved" } }
  local lost = errors.new("connection_lost", "gone")
  local function broken() return nil, lost end
  local function raising() error("a bug", 0) end

  it("asks the next one when a tenant is not found", function()
    local policy = fallback.new { policies = { known, { server = "rest" } } }
    assert.equal("moved", resolve(policy, "acme").server)
    assert.equal("rest", resolve(policy, "globex").server)
    local none = fallback.new { policies = { known, static.new { routes = {} } } }
    local route, reason = resolve(none, "globex")
    assert.is_nil(route)
    assert.equal("static: no tenant of this id", reason)
    local unknown = errors.new("tenant_not_found", "no")
    local by_object = fallback.new { policies = {
      function() return nil, unknown end, function() error(unknown, 0) end,
      "rest" } }
    assert.equal("rest", resolve(by_object, "globex").server)
  end)

  it("does not take a failure for an answer", function()
    for _, failing in ipairs({ broken, function() error(lost, 0) end }) do
      local policy = fallback.new { policies = { failing, "rest" } }
      local route, err = resolve(policy, "acme")
      assert.is_nil(route)
      assert.equal(lost, err)
    end
    local ok, err = pcall(resolve, fallback.new {
      policies = { raising, "rest" } }, "acme")
    assert.is_false(ok)
    assert.equal("a bug", err)
  end)

  it("goes on after a failure when it is told to, and says why", function()
    local policy = fallback.new { policies = { broken, raising, known, "rest" },
                                  on_error = "next" }
    local ctx = context()
    assert.equal("rest", policy.resolve("globex", ctx).server)
    assert.same({ "fallback: policy 1 failed: gone",
                  "fallback: policy 2 failed: a bug",
                  "fallback: policy 3 does not know it: static: no tenant of "
                    .. "this id",
                  "fallback: policy 4 of 4 knows it" }, ctx.notes)
    assert.equal("moved", resolve(policy, "acme").server)
  end)

  it("fails, rather than not finds, when one that failed might know", function()
    local policy = fallback.new { policies = { broken, known },
                                  on_error = "next" }
    local route, err = resolve(policy, "globex")
    assert.is_nil(route)
    assert.equal(lost, err)
  end)
end)


describe("policy directory", function()
  local function known() return { server = "eu1" } end

  local SQL = 'SELECT "database" AS "database", "role" AS "role", '
    .. '"schema" AS "schema", "server" AS "server" FROM "mtenant_tenants" '
    .. 'WHERE "id" = $1'

  it("makes a route of a row", function()
    local policy = directory.new()
    local row = { server = "eu1", schema = "acme" }
    local ctx = context({ shared = testing.shared {
      [SQL] = function(id) return { id == "acme" and row or nil } end,
    } })
    testing.run(function()
      assert.same({ server = "eu1", schema = "acme" }, policy.resolve("acme", ctx))
      local route, reason = policy.resolve("globex", ctx)
      assert.is_nil(route)
      assert.equal("directory: no tenant of this id", reason)
    end)
    assert.same({ "directory: a row of mtenant_tenants" }, ctx.notes)
  end)

  it("fails when the table can't be asked", function()
    local ctx = context({ shared = testing.shared {
      [SQL] = testing.error { code = "connection_lost" },
    } })
    testing.run(function()
      local route, err = directory.new().resolve("acme", ctx)
      assert.is_nil(route)
      assert.equal("connection_lost", err.code)
    end)
  end)

  it("has tables, columns, labels and a switch of one's own", function()
    local policy = directory.new {
      table = 'app.cust"omers', id = "name", active = "enabled", label = "plan",
      columns = { schema = "db_schema" },
    }
    local asked
    local ctx = context({ shared = {
      one = function(_, sql, id)
        asked = sql
        return { schema = "s", mtenant_label = "pro",
                 mtenant_active = id == "acme" }
      end,
    } })
    assert.same({ schema = "s", labels = { plan = "pro" } },
                policy.resolve("acme", ctx))
    assert.equal('SELECT "db_schema" AS "schema", "plan" AS mtenant_label, '
      .. '"enabled" AS mtenant_active FROM "app"."cust""omers" WHERE "name" = $1',
      asked)
    local route, reason = policy.resolve("globex", ctx)
    assert.is_nil(route)
    assert.equal("directory: the tenant is not active", reason)
  end)

  it("listens, alone and inside of others, once", function()
    local source = directory.new { channel = "moves" }
    local outer = fallback.new { policies = { source, tiers.new { rest = source } } }
    for _, policy in ipairs({ source, outer }) do
      local shared, told = testing.shared {}, {}
      local ctx = context({ shared = shared, sleep = function(ms)
        shared:notify("moves", "acme")
        shared:notify("moves", "")
        shared:lose()
        assert.is_true(ms > 0)
        return nil -- the task is to stop
      end })
      testing.run(function()
        assert.is_true(policy.invalidations(ctx, function(id)
          told[#told + 1] = id or "all"
        end))
      end)
      assert.same({ "all", "acme", "all", "all" }, told)
      assert.equal(0, shared:listeners())
    end
    assert.is_nil(directory.new({ listen = false }).invalidations)
    assert.is_nil(static.new({ routes = {} }).invalidations)
  end)

  it("listens beside what a policy of one's own does, until that ends", function()
    local shared, told = testing.shared {}, {}
    local own = { resolve = known, invalidations = function(_, invalidate)
      invalidate("globex")
      shared:notify("moves", "acme")
      error("it is over", 0)
    end }
    local inner = fallback.new { policies = { directory.new { channel = "moves" },
                                              own } }
    local policy = fallback.new { policies = { inner, own } }
    testing.run(function()
      local ok, err = pcall(policy.invalidations, context({ shared = shared }),
                            function(id) told[#told + 1] = id or "all" end)
      assert.is_false(ok)
      assert.equal("it is over", err)
    end)
    assert.same({ "all", "globex", "acme" }, told)
    assert.equal(0, shared:listeners())
    assert.equal(own.invalidations,
                 fallback.new({ policies = { own } }).invalidations)
    local changed = static.new { routes = {} }
    changed.invalidations = own.invalidations
    assert.equal(own.invalidations,
                 fallback.new({ policies = { changed } }).invalidations)
  end)

  it("refuses two that do something of their own", function()
    local ok, err = pcall(function()
      local _ = fallback.new { policies = {
        { resolve = known, invalidations = function() end },
        { resolve = known, invalidations = function() end },
      } }
    end)
    assert.is_false(ok)
    assert.matches("policies_joined_spec.lua:%d+: %[mtenant%] policy: two of the "
      .. "policies have invalidations of their own", err)
  end)

  it("says so when nobody can listen", function()
    local ctx = context({ shared = {
      listen = function() return nil, "no" end,
    } })
    local ok, err = directory.new().invalidations(ctx, function() end)
    assert.is_nil(ok)
    assert.equal("no", err)
  end)

  it("refuses a channel that is too long", function()
    local ok, err = pcall(directory.sql, { channel = ("x"):rep(57) })
    assert.is_false(ok)
    assert.truthy(err:find("policy.directory: channel is longer than 56 bytes",
                           1, true), err)
  end)
end)
