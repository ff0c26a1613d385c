--- The tenant context: whose it is, who inherits it, and where it ends.

local env = require "tests.support.env"
local mtenant = require "mtenant"


local function refuses(pattern, fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.equal("misuse", err.code)
  assert.matches(pattern, err.message)
end


describe("a tenant context", function()
  local manager, context

  before_each(function()
    env.tenants({ "acme", "globex" })
    manager = env.manager()
    context = mtenant.create_tenant_context(manager)
  end)
  after_each(function()
    manager, context = nil, nil
    env.assert_nothing_left()
  end)

  it("gives the tenant's handle, and ends with the call", env.in_task(function()
    assert.is_false(context:is_in_tenant_context())
    assert.is_nil(context:get_tenant_id_or_null())
    assert.is_nil(context:get_tenant_or_null())
    local schema = context:run_with_tenant("acme", function()
      assert.is_true(context:is_in_tenant_context())
      assert.equal("acme", context:get_tenant_id())
      assert.equal("acme", context:get_tenant().tenant_id)
      return context:get_tenant_db():value("SELECT current_schema()")
    end)
    assert.equal("t_acme", schema)
    assert.is_false(context:is_in_tenant_context())
    assert.equal("public",
                 context:get_shared_db():value("SELECT current_schema()"))
  end))

  it("carries what else was given", env.in_task(function()
    local given = { tenant_id = "acme", user = "ann" }
    context:run_with_tenant(given, function()
      given.user = "bob"
      assert.same({ tenant_id = "acme", user = "ann" }, context:get_tenant())
    end)
  end))

  it("gives way to an inner one, and comes back, also after an error",
     env.in_task(function()
    context:run_with_tenant("acme", function()
      local ok, err = pcall(context.run_with_tenant, context, "globex", function()
        assert.equal("globex", context:get_tenant_id())
        error("gone wrong", 0)
      end)
      assert.is_false(ok)
      assert.equal("gone wrong", err)
      assert.equal("acme", context:get_tenant_id())
    end)
    assert.is_false(context:is_in_tenant_context())
  end))

  it("is inherited by tasks, as it was when they were spawned",
     env.in_task(function()
    local late
    context:run_with_tenant("acme", function()
      late = mtenant.spawn(function()
        mtenant.sleep(20)
        return context:get_tenant_id()
      end)
      local seen = mtenant.each({ 1, 2, 3 }, 3, function()
        return context:get_tenant_id()
      end)
      assert.same({ "acme", "acme", "acme", n = 3 }, seen)
    end)
    assert.equal("acme", late:await())
    local outer = mtenant.spawn(function()
      return context:get_tenant_id_or_null() or "none"
    end)
    assert.equal("none", outer:await())
  end))

  it("of one task is none of another's, however they interleave",
     env.in_task(function()
    local tasks = {}
    for i = 1, 20 do
      local id = i % 2 == 0 and "acme" or "globex"
      tasks[i] = mtenant.spawn(context.run_with_tenant, context, id, function()
        for _ = 1, 5 do
          local seen = context:get_tenant_db():value("SELECT current_schema()")
          assert.equal("t_" .. id, seen)
          mtenant.sleep(i % 3)
          assert.equal(id, context:get_tenant_id())
        end
      end)
    end
    for i = 1, #tasks do tasks[i]:await() end
  end))

  it("may be entered to the end of a task", env.in_task(function()
    mtenant.spawn(function()
      context:enter("acme")
      mtenant.sleep(1)
      assert.equal("acme", context:get_tenant_id())
    end):await()
    assert.is_false(context:is_in_tenant_context())
  end))

  it("is one of its manager", env.in_task(function()
    local other = mtenant.create_tenant_context(env.manager())
    context:run_with_tenant("acme", function()
      assert.is_false(other:is_in_tenant_context())
      other:run_with_tenant("globex", function()
        assert.equal("acme", context:get_tenant_id())
        assert.equal("globex", other:get_tenant_id())
      end)
    end)
  end))

  it("works where nothing waits", function()
    local seen = context:run_with_tenant("acme", function()
      return context:get_tenant_id()
    end)
    assert.equal("acme", seen)
    assert.is_false(context:is_in_tenant_context())
    refuses("enter: call it in a task", context.enter, context, "acme")
    manager:dispose()
  end)

  it("says what is missing", env.in_task(function()
    for _, name in ipairs({ "get_tenant", "get_tenant_id", "get_tenant_db" }) do
      refuses(name .. ": no tenant context found", context[name], context)
    end
    local run = context.run_with_tenant
    refuses("tenant_id is required", run, context, nil, print)
    refuses("tenant_id is required", run, context, {}, print)
    refuses("tenant_id is required", run, context, "", print)
    refuses("must be a string", run, context, 5, print)
    refuses("fn must be a function", run, context, "acme")
    refuses("must be a tenant manager", mtenant.create_tenant_context, {})
    local db, err = context:run_with_tenant("no such: id", function()
      return context:get_tenant_db()
    end)
    assert.is_nil(db)
    assert.equal("invalid_tenant_id", err.code)
  end))
end)
