--- db:listen and db:notify: who hears what, and what becomes of it in an outage.

local env = require "tests.support.env"
local mtenant = require "mtenant"

local in_task = env.in_task


-- what a handle's function was called with, in its order
local function ear()
  local heard = {}
  return heard, function(payload, event)
    heard[#heard + 1] = event and "(" .. event .. ")" or payload
  end
end


local function hears(heard, ...)
  local wanted = { ... }
  env.eventually("all is heard", function() return #heard >= #wanted end)
  assert.same(wanted, heard)
end


local function listeners(server)
  return env.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE "
    .. "'%LISTEN %' AND application_name = '" .. env.APPLICATION .. "'", server)
end


describe("db:listen", function()
  setup(function() env.tenants({ "acme", "globex", "initech" }) end)
  after_each(env.assert_nothing_left)

  it("hears the tenant's own channel, in order", in_task(function()
    local manager = env.manager()
    local acme, globex = manager:get_db("acme"), manager:get_db("globex")
    local heard, fn = ear()
    local others, other_fn = ear()
    assert(acme:listen("news", fn))
    assert(globex:listen("news", other_fn))
    for i = 1, 5 do assert.is_true(acme:notify("news", "n" .. i)) end
    assert.is_true(globex:notify("news"))
    hears(heard, "n1", "n2", "n3", "n4", "n5")
    hears(others, "")
    assert.equal("1", listeners())
  end))

  it("goes by the schema's name, for triggers to know", in_task(function()
    local manager = env.manager()
    local heard, fn = ear()
    assert(manager:get_db("acme"):listen("news", fn))
    env.sql("SELECT pg_notify('t_acme.news', 'from outside')")
    env.sql("SELECT pg_notify('news', 'nobody')")
    hears(heard, "from outside")
    heard, fn = ear()
    assert(manager:get_shared_db():listen("news", fn))
    env.sql("SELECT pg_notify('public.news', 'shared')")
    hears(heard, "shared")
  end))

  it("shortens names that are too long, and hears them", in_task(function()
    local db = env.manager():get_db("acme")
    local long = ("x"):rep(200)
    local heard, fn = ear()
    assert(db:listen(long, fn))
    assert(db:notify(long .. "y", "another"))
    assert(db:notify(long, "this one"))
    hears(heard, "this one")
  end))

  it("does not hear a transaction that is rolled back", in_task(function()
    local db = env.manager():get_db("acme")
    local heard, fn = ear()
    assert(db:listen("news", fn))
    db:transaction(function(tx)
      tx:query("SELECT pg_notify('t_acme.news', 'never')")
      return nil, "no"
    end)
    assert(db:notify("news", "done"))
    hears(heard, "done")
  end))

  it("may be closed, the last one with its connection", in_task(function()
    local db = env.manager():get_db("acme")
    local heard, fn = ear()
    local first = assert(db:listen("news", fn))
    local second = assert(db:listen("news", function() end))
    first:close()
    first:close()
    assert.is_true(first.closed)
    assert(db:notify("news", "too late"))
    second:close()
    env.eventually("its connection is gone", function()
      return listeners() == "0"
    end)
    assert.same({}, heard)
    local again, again_fn = ear()
    assert(db:listen("news", again_fn))
    assert(db:notify("news", "again"))
    hears(again, "again")
  end))

  it("may be closed before it has begun to connect", in_task(function()
    local db = env.manager():get_db("acme")
    db:value("SELECT 1")
    local listening = mtenant.spawn(function()
      return mtenant.with_deadline(0, function()
        return db:listen("news", function() end)
      end)
    end)
    local handle, err = listening:await()
    assert.is_nil(handle)
    assert.equal("timeout", err.code)
    local heard, fn = ear()
    assert(db:listen("news", fn))
    assert(db:notify("news", "n"))
    hears(heard, "n")
  end))

  it("hears what is sent right after another handle was closed",
     in_task(function()
    local db = env.manager():get_db("acme")
    local keep = assert(db:listen("other", function() end))
    for i = 1, 20 do
      local heard, fn = ear()
      local first = assert(db:listen("news", function() end))
      first:close()
      local second = assert(db:listen("news", fn))
      assert(db:notify("news", "n" .. i))
      hears(heard, "n" .. i)
      second:close()
    end
    keep:close()
  end))

  it("calls a function that may wait, and goes on when one raises",
     in_task(function()
    local db = env.manager():get_db("acme")
    local heard = {}
    assert(db:listen("news", function(payload)
      if payload == "bad" then error("on purpose") end
      heard[#heard + 1] = db:value("SELECT $1::text || '!'", payload)
    end))
    assert(db:notify("news", "bad"))
    assert(db:notify("news", "good"))
    hears(heard, "good!")
  end))

  it("connects again, and says that some may be lost", in_task(function()
    local db = env.manager():get_db("acme")
    local heard, fn = ear()
    assert(db:listen("news", fn))
    for i = 1, 3 do
      env.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
        .. "query LIKE '%LISTEN %' AND application_name = '" .. env.APPLICATION
        .. "'")
      env.eventually("it is back", function() return #heard == 2 * i - 1 end)
      assert(db:notify("news", "n" .. i))
      env.eventually("it hears", function() return #heard == 2 * i end)
    end
    assert.same({ "(reconnected)", "n1", "(reconnected)", "n2", "(reconnected)",
                  "n3" }, heard)
  end))

  it("fails where there is no such tenant", in_task(function()
    local manager = env.manager()
    local handle, err = manager:get_db("nobody"):listen("news", function() end)
    assert.is_nil(handle)
    assert.equal("tenant_not_found", err.code)
    assert.equal("0", listeners())
  end))

  it("works where the pool has one connection only", in_task(function()
    local manager = env.manager({ connection = { max_connections = 1 } })
    local db = manager:get_db("acme")
    local heard, fn = ear()
    assert(db:listen("news", fn))
    assert(db:transaction(function(tx)
      return tx:query("SELECT pg_notify('t_acme.news', 'one')")
    end))
    hears(heard, "one")
  end))

  it("ends with its manager", in_task(function()
    local manager = env.manager()
    local db = manager:get_db("acme")
    local handle = assert(db:listen("news", function() end))
    manager:dispose()
    env.eventually("its connection is gone", function()
      return listeners() == "0"
    end)
    env.eventually("the handle is closed", function() return handle.closed end)
    local again, err = db:listen("news", function() end)
    assert.is_nil(again)
    assert.equal("disposed", err.code)
  end))

  it("follows a tenant that moves", in_task(function()
    local place = "t_acme"
    local manager = env.manager({ resolve = function(id)
      return { schema = id == "acme" and place or "t_" .. id }
    end })
    local db = manager:get_db("acme")
    local heard, fn = ear()
    assert(db:listen("news", fn))
    place = "t_initech"
    assert.is_true(manager:invalidate("acme"))
    hears(heard, "(reconnected)")
    env.sql("SELECT pg_notify('t_acme.news', 'the old place')")
    assert(db:notify("news", "the new place"))
    hears(heard, "(reconnected)", "the new place")
  end))

  it("keeps tenants of one schema apart", in_task(function()
    local manager = env.manager({
      isolation = { strategy = "row", schema = "t_acme",
                    tenant_setting = "app.tenant_id" },
    })
    local heard, fn = ear()
    local a, b = manager:get_db("a"), manager:get_db("b.c")
    assert(a:listen("news", fn))
    assert(b:notify("news", "b's"))
    assert(a:notify("news", "a's"))
    hears(heard, "a's")
  end))

  it("says what is wrong with its arguments", in_task(function()
    local db = env.manager():get_db("acme")
    for _, args in ipairs({ { 5, print }, { "", print }, { "a\0b", print },
                            { "news" }, { "news", 5 } }) do
      local ok, err = pcall(db.listen, db, args[1], args[2])
      assert.is_false(ok)
      assert.equal("misuse", err.code)
    end
    assert.is_false(pcall(db.notify, db, 5))
  end))

  it("loses what a slow function leaves, and says so", in_task(function()
    local db = env.manager():get_db("acme")
    local heard, fn = ear()
    local go
    assert(db:listen("news", function(payload, event)
      while not go do mtenant.sleep(1) end
      fn(payload, event)
    end))
    for _ = 1, 11 do
      db:query("SELECT pg_notify('t_acme.news', i::text) FROM "
        .. "generate_series(1, 1000) i")
    end
    local done = false
    assert(db:listen("end", function() done = true end))
    assert(db:notify("end"))
    env.eventually("all has come", function() return done end)
    go = true
    env.eventually("it is told", function()
      return heard[2] == "(overflow)"
    end)
  end))
end)
