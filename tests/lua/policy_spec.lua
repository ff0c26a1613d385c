--- Policies by themselves: what is one, its own tests, the tenant of a request.

local config = require "mtenant.config"
local errors = require "mtenant.errors"
local mtenant = require "mtenant"
local policies = require "mtenant.policy"
local routing = require "mtenant.routing"


local DOWN = "postgresql://mtenant@127.0.0.1:1/mtenant" -- nobody listens there


local function with_file(text, fn)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  local ok, value, err = pcall(fn, path)
  os.remove(path)
  if not ok then error(value, 0) end
  return value, err
end


local function load_text(text)
  return with_file(text, policies.load)
end


local function resolve() return { schema = "x" } end


describe("a policy", function()
  it("is a table with resolve, or that function", function()
    assert.equal(resolve, policies.load(resolve).resolve)
    local policy = assert(policies.load { resolve = resolve, ttl_ms = 5,
                                          version = "1", _mine = true })
    assert.equal("policy", policy.name)
    assert.equal(5, policy.ttl_ms)
    assert.is_nil(policy._mine)
    policy.close()
    assert.is_nil(policy.stats())
  end)

  it("that is none is refused, with the field named", function()
    local cases = {
      { 5, "policy must be a function or a table with resolve, got number" },
      { {}, "policy.resolve is required" },
      { { resolve = 1 }, "policy.resolve must be a function" },
      { { resolve = resolve, identfy = resolve },
        'unknown option "policy.identfy", did you mean "identify"?' },
      { { resolve = resolve, ttl_ms = -1 }, "policy.ttl_ms must be non-negative" },
      { { resolve = resolve, selftest = { { tenantId = "a" } } },
        'selftest[1]: unknown option "case.tenantId", did you mean "tenant_id"?' },
    }
    for _, case in ipairs(cases) do
      local policy, err = policies.load(case[1])
      assert.is_nil(policy)
      assert.is_true(errors.is(err, "policy"))
      assert.equal(case[2], err.message)
    end
  end)

  it("comes from a file", function()
    local policy = assert(load_text [[
      return { version = "7", resolve = function(id) return { schema = id } end }
    ]])
    assert.matches("^%x+$", policy.hash)
    assert.equal("7", policy.version)
    assert.equal("a", mtenant.run(policy.resolve, "a", {}).schema)
    assert.is_number(policy.stats().memory_bytes)
    policy.close()
  end)

  it("is refused when its file is bad", function()
    for text, says in pairs {
      ["retrun {}"] = ":1:",
      ["return 5"] = "",
      ["return {}"] = "resolve",
      ["error('no')"] = "no",
      [""] = "is empty",
      ["return { resolve = function() end, ttl = 5 }"] = "ttl",
    } do
      local policy, err = load_text(text)
      assert.is_nil(policy, text)
      assert.equal("policy", err.code, text)
      assert.is_truthy(err.message:find(says, 1, true), err.message)
    end
    local _, err = policies.load("/no/such/file.lua")
    assert.equal("policy", err.code)
    assert.matches("^no policy file: /no/such/file.lua", err.message)
    _, err = policies.load("/")
    assert.equal("policy", err.code)
  end)

  it("tests itself", function()
    local policy = assert(policies.load {
      identify = function(request) return request.host:match("^(%w+)%.") end,
      resolve = function(id, ctx)
        if id == "boom" then error("boom") end
        local row, err = ctx.shared:one("SELECT schema FROM t WHERE id = $1", id)
        if not row then return nil, err or "unknown" end
        return { schema = row.schema, labels = { tier = "gold" } }
      end,
      selftest = {
        { tenant_id = "a", route = { schema = "x", labels = { tier = "gold" } },
          shared = { ["SELECT schema FROM t WHERE id = $1"] =
                     { { schema = "x" } } } },
        { name = "none", tenant_id = "b", error = "tenant_not_found",
          shared = function() return {} end },
        { tenant_id = "b", error = "unknown", shared = function() return {} end },
        { tenant_id = "boom", error = "policy" },
        { request = { host = "acme.example.com" }, tenant_id = "acme" },
        { name = "wrong", tenant_id = "a", route = { labels = { tier = "x" } },
          shared = function() return { { schema = "x" } } end },
        { name = "not found", tenant_id = "a", route = {},
          shared = function() return {} end },
        { name = "other", request = { host = "a.example.com" },
          tenant_id = "acme" },
        { name = "found", tenant_id = "a", error = true,
          shared = function() return { { schema = "x" } } end },
        { name = "unscripted", tenant_id = "a", route = { schema = "x" } },
      },
    })
    local results = assert(mtenant.run(policies.run_selftest, policy))
    assert.equal(5, results.failed)
    for i = 1, 5 do assert.is_true(results[i].ok, results[i].message) end
    local says = {
      "route.labels.tier is gold, not x", "tenant_not_found: unknown",
      'identify says "a", not "acme"',
      "an error was expected, and there is a route",
      "policy: resolve raised: .*the script of ctx.shared has no answer",
    }
    for i, text in ipairs(says) do
      assert.is_false(results[5 + i].ok)
      assert.matches(text, results[5 + i].message)
    end
    assert.equal("none", results[2].name)
  end)

  it("tests itself with servers that nobody has named", function()
    local policy = assert(policies.load {
      resolve = function() return { server = "eu1", schema = "x" } end,
      selftest = { { tenant_id = "a", route = { server = "eu1" } } },
    })
    local results = assert(mtenant.run(policies.run_selftest, policy))
    assert.equal(0, results.failed, results[1].message)
  end)

  it("whose tests never end fails", function()
    local policy = assert(policies.load {
      resolve = function(_, ctx) ctx.sleep(60000) return { schema = "x" } end,
      selftest = { { tenant_id = "a", route = {} } },
    })
    local results, err
    require("mtenant.testing").run(function()
      results, err = policies.run_selftest(policy)
    end)
    assert.is_nil(results)
    assert.equal("timeout", err.code)
  end)
end)


describe("a configuration with a policy", function()
  local function define(more)
    local all = { connection = { url = DOWN } }
    for key, value in pairs(more) do all[key] = value end
    return config.define(all)
  end

  it("needs no template, and has routing", function()
    local cfg = define { policy = "some.lua" }
    assert.equal(60000, cfg.routing.ttl_ms)
    assert.equal(100000, cfg.routing.max_entries)
    assert.is_true(cfg.routing.reload)
    assert.equal(7, define { policy = resolve, routing = { ttl_ms = 7 } }
      .routing.ttl_ms)
    assert.is_nil(define { resolve = resolve }.routing)
    assert.is_table(define { resolve = resolve, routing = {} }.routing)
  end)

  it("is refused where it is wrong", function()
    for text, more in pairs {
      ["policy and resolve exclude each other"] =
        { policy = resolve, resolve = resolve },
      ["policy must be a string, a table or a function"] = { policy = 5 },
      ["policy must name a file"] = { policy = "" },
      ["routing.ttl_ms must be non-negative"] =
        { resolve = resolve, routing = { ttl_ms = -1 } },
      ["routing.max_entries must be at least 1"] =
        { resolve = resolve, routing = { max_entries = 0 } },
      ['unknown option "routing.ttl", did you mean "ttl_ms"?'] =
        { resolve = resolve, routing = { ttl = 1 } },
    } do
      local ok, err = pcall(define, more)
      assert.is_false(ok)
      assert.is_truthy(err.message:find(text, 1, true), err.message)
    end
  end)

  it("whose policy is broken makes no manager", function()
    local manager, err = mtenant.create_tenant_manager {
      connection = { url = DOWN }, policy = "/no/such/file.lua",
    }
    assert.is_nil(manager)
    assert.equal("policy", err.code)
    mtenant.dispose_all()
  end)
end)


describe("a policy that is asked without a cache", function()
  local asked

  local function ask(id, ctx)
    asked = { id = ctx.tenant_id, servers = ctx.servers, hash = ctx.hash(id),
              shared = ctx.shared, wait = ctx.sleep(0), now = ctx.now_ms() }
    ctx.note("asked for %s", id)
    ctx.log("asked")
    return { schema = "x", database = "x_" .. id }
  end

  local function config_of()
    return { connection = { url = DOWN, retry = { max_attempts = 1 } },
             log = { level = "off" }, policy = ask,
             servers = { b = "postgresql://b", a = "postgresql://a" } }
  end

  before_each(function() asked = nil end)
  after_each(function() mtenant.dispose_all() end)

  it("gets all of its ctx where there is no manager", function()
    local log = require "mtenant.log"
    local said, before = {}, log.default()
    log.set_default { sink = function(record) said[#said + 1] = record.message end }
    finally(function() log.set_default(before) end)
    local cfg = config.define(config_of())
    mtenant.run(function()
      local shared = {}
      local route = assert(routing.resolve(cfg, "acme", { shared = shared }))
      assert.equal("x_acme", route.database)
      assert.equal(shared, asked.shared)
      assert.same({ "a", "b" }, asked.servers)
      assert.equal("acme", asked.id)
      assert.is_number(asked.hash)
      assert.is_number(asked.now)
      assert.is_true(asked.wait)
      assert(routing.resolve(cfg, "acme"))
      assert.is_nil(asked.shared)
    end)
    assert.same({ "policy policy: asked", "policy policy: asked" }, said)
  end)

  it("gets all of its ctx when a database is made", function()
    local manager = assert(mtenant.create_tenant_manager(config_of()))
    mtenant.run(function()
      local _, err = manager:create_database("acme")
      assert.equal("refused", err.code)
    end)
    assert.same({ "a", "b" }, asked.servers)
    assert.equal(manager:get_shared_db(), asked.shared)
  end)
end)


describe("a policy of a manager", function()
  after_each(function() mtenant.dispose_all() end)

  it("and its hook speak in the manager's log", function()
    local said = {}
    local manager = assert(mtenant.create_tenant_manager {
      connection = { url = DOWN },
      policy = {
        resolve = function(id, ctx)
          ctx.log("asked for " .. id)
          return { schema = id }
        end,
        on_event = function() error("not that", 0) end,
      },
      hooks = { on_policy_event = function() error("nor this", 0) end },
      log = { sink = function(record)
        said[#said + 1] = record.level .. ": " .. record.message
      end },
    })
    mtenant.run(function()
      assert(policies.explain(manager, "acme").route)
      assert.is_nil(manager:reload_policy("/no/such/file.lua"))
    end)
    assert.same({ "info: policy policy: asked for acme",
                  "warn: error in hooks.on_policy_event: nor this",
                  "warn: error in policy.on_event: not that" }, said)
  end)

  it("gives way though one who waited for that was stopped", function()
    local function slow()
      return {
        resolve = function(_, ctx)
          ctx.sleep(20)
          return { schema = "x" }
        end,
        selftest = { { tenant_id = "a", route = { schema = "x" } } },
      }
    end
    local manager = assert(mtenant.create_tenant_manager {
      connection = { url = DOWN }, policy = resolve,
    })
    mtenant.run(function()
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = mtenant.spawn(manager.reload_policy, manager, slow())
      end
      mtenant.sleep(5)
      tasks[2]:cancel()
      local done = mtenant.with_deadline(5000, function()
        assert.is_true(tasks[1]:await())
        local _, err = tasks[2]:await()
        assert.equal("cancelled", err.code)
        return tasks[3]:await()
      end)
      assert.is_true(done)
    end)
    assert.equal(3, manager:get_policy_status().version)
  end)
end)


describe("the tenant of a request", function()
  local function manager_of(identify)
    return assert(mtenant.create_tenant_manager {
      connection = { url = DOWN },
      policy = { resolve = resolve, identify = identify },
    })
  end

  after_each(function() mtenant.dispose_all() end)

  it("is what the policy says, if that can be an id", function()
    local answer, reason
    local manager = manager_of(function(request)
      assert.equal("h", request.host)
      if answer == "raise" then error("oops") end
      return answer, reason
    end)
    local function identify(value, why)
      answer, reason = value, why
      return manager:identify { host = "h" }
    end
    assert.equal("acme", identify("acme"))
    local _, err = identify(nil)
    assert.equal("invalid_tenant_id", err.code)
    assert.equal("the request names no tenant", err.message)
    _, err = identify(nil, "no subdomain")
    assert.equal("no subdomain", err.message)
    _, err = identify(nil, errors.new("auth", "bad token"))
    assert.equal("auth", err.code)
    _, err = identify("a/../b")
    assert.equal("invalid_tenant_id", err.code)
    _, err = identify(5)
    assert.equal("policy", err.code)
    _, err = identify("raise")
    assert.equal("policy", err.code)
    assert.has_error(function() manager:identify("h") end)
  end)

  it("is an error where no policy can tell", function()
    local _, err = manager_of(nil):identify {}
    assert.equal("policy", err.code)
    local plain = assert(mtenant.create_tenant_manager {
      connection = { url = DOWN }, resolve = resolve })
    assert.is_false(plain:_can_identify())
    _, err = plain:identify {}
    assert.equal("policy", err.code)
  end)

  it("is found by the middleware", function()
    local middleware = require "mtenant.middleware"
    local manager = manager_of(function(request)
      return request.host:match("^(%w+)%.example$"), "no tenant in the host"
    end)
    local context = mtenant.create_tenant_context(manager)
    local enter = middleware.new {
      context = context,
      request = function(native) return { host = native[1] } end,
    }
    mtenant.run(function()
      local task = mtenant.spawn(function()
        assert.is_true(enter { "acme.example" })
        assert.equal("acme", context:get_tenant_id())
        local ok, status = enter { "example" }
        assert.is_false(ok)
        assert.equal(400, status)
      end)
      task:await()
    end)
    local plain = manager_of(nil)
    assert.has_error(function()
      middleware.new { context = mtenant.create_tenant_context(plain) }
    end)
  end)
end)


describe("an explanation", function()
  after_each(function() mtenant.dispose_all() end)

  local function policy()
    return {
      identify = function(request) return request.host end,
      resolve = function(id, ctx)
        ctx.note("%s has %d letters", id, #id)
        if ctx.request then ctx.note("from %s", ctx.request.host) end
        if id == "nobody" then return nil, "unknown" end
        return { schema = "t_" .. id }
      end,
    }
  end

  it("has the route, and how it came about", function()
    local manager = assert(mtenant.create_tenant_manager {
      connection = { url = DOWN }, policy = policy() })
    mtenant.run(function()
      local out = policies.explain(manager, "acme")
      assert.equal("t_acme", out.route.schema)
      assert.same({ "acme has 4 letters" }, out.notes)
      assert.equal("policy", out.from)
      out = policies.explain(manager, nil, { host = "globex" })
      assert.equal("globex", out.tenant_id)
      assert.same({ "globex has 6 letters", "from globex" }, out.notes)
      out = policies.explain(manager, "nobody")
      assert.is_nil(out.route)
      assert.equal("tenant_not_found", out.error.code)
      out = policies.explain(manager, "not/an/id")
      assert.equal("invalid_tenant_id", out.error.code)
    end)
  end)

  it("is had of a configuration, too", function()
    mtenant.run(function()
      local out = policies.explain({ connection = { url = DOWN },
                                     resolve = policy().resolve }, "acme")
      assert.equal("t_acme", out.route.schema)
      out = policies.explain({ connection = { url = DOWN },
                               policy = "/no/such/file" }, "acme")
      assert.equal("policy", out.error.code)
    end)
  end)
end)
