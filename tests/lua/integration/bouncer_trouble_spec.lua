--- A real PgBouncer in transaction mode that is set up wrongly, has no server,
--- or is busy: refused at connect, and never served from `public`.

local bouncer = require "tests.support.bouncer"
local env = require "tests.support.env"
local mtenant = require "mtenant"

local SELECT, INSERT = bouncer.SELECT, bouncer.INSERT
local check, expect = bouncer.check, bouncer.expect
local manager_of = bouncer.manager_of


describe("a wrong setting behind PgBouncer", function()
  setup(bouncer.set_up(bouncer.IGNORING))
  teardown(bouncer.tear_down)
  before_each(function() bouncer.server:psql(bouncer.GUARD) bouncer.pooler:admin("RECONNECT") end)
  after_each(bouncer.nothing_left)

  local function set(what)
    bouncer.server:psql("ALTER ROLE mtenant IN DATABASE mtenant " .. what)
    bouncer.pooler:admin("RECONNECT")
  end

  local function refused(pattern)
    local manager = manager_of()
    local function see(_, err)
      expect(err, "policy")
      assert.is_false(err.retryable or err.ambiguous)
      assert.matches(pattern, err.message, 1, true)
      assert.matches("docs/pgbouncer.md", err.hint, 1, true)
    end
    see(manager:get_db_async("red"))
    local db = assert(manager:get_db("red"))
    see(db:query(SELECT))
    see(db:query(INSERT, "red", 1))
    see(db:exec("CREATE TABLE never (n int)"))
    see(db:transaction(function(tx) return tx:query(SELECT) end))
    local shared = assert(manager:get_shared_db())
    see(shared:query(SELECT))
    manager:dispose()
    assert.equal("1", bouncer.server:psql("SELECT count(*) FROM t_red.items"))
  end

  it("without ALTER ROLE is refused", env.in_task(function()
    set("RESET search_path")
    refused("search_path behind the pooler is not empty")
  end))

  it("of backslashes in strings is refused", env.in_task(function()
    set("SET standard_conforming_strings = off")
    refused("standard_conforming_strings is off")
    set("RESET standard_conforming_strings")
  end))

  it("that another client leaves on the session is not inherited",
     env.in_task(function()
    local manager = manager_of()
    local db = assert(manager:get_db_async("red"))
    check({ id = "red" }, env.must(db:query(SELECT)))
    bouncer.pooler:psql("SET search_path = public")
    local _, err = db:query(SELECT)
    expect(err, "policy")
    check({ id = "red" }, env.must(db:transaction(function(tx)
      return tx:query(SELECT)
    end) or {}))
    bouncer.pooler:admin("RECONNECT")
    local rows = env.eventually("the right setting", function()
      return (db:query(SELECT))
    end)
    check({ id = "red" }, rows)
  end))
end)


describe("when the server behind PgBouncer", function()
  setup(bouncer.set_up())
  teardown(bouncer.tear_down)
  after_each(bouncer.nothing_left)

  it("restarts, tenants come back and nothing is written twice",
     env.in_task(function()
    local manager = manager_of({
      connection = { retry = { max_attempts = 100, initial_delay_ms = 20,
                               max_delay_ms = 50 } },
    })
    local db = assert(manager:get_db_async("red"))
    local sure, unsure, over = 0, 0, false
    local writer = mtenant.spawn(function()
      local n = 0
      while not over do
        n = n + 1
        local rows, err = db:query(INSERT, "red", n)
        if rows then
          sure = sure + #check({ id = "red" }, rows)
        elseif err.ambiguous then
          unsure = unsure + 1
        end
        if err then mtenant.sleep(5) end
      end
    end)
    mtenant.sleep(30)
    bouncer.server:restart("fast")
    assert(manager:get_db_async("red"))
    local before = sure
    env.eventually("more rows", function() return sure > before + 20 end)
    over = true
    writer:await()
    local found = tonumber(bouncer.server:psql("SELECT count(*) - 1 FROM t_red.items"))
    assert.is_true(found >= sure and found <= sure + unsure,
      ("%d rows, %d acknowledged, %d unknown"):format(found, sure, unsure))
    assert.equal("1", bouncer.server:psql(
      "SELECT max(c) FROM (SELECT count(*) c FROM t_red.items WHERE n > 0 "
      .. "GROUP BY n) x"))
  end))

  it("is busy, a statement waits and then says why", env.in_task(function()
    local manager = manager_of({
      connection = { pool = { connect_timeout_ms = 200 },
                     retry = { max_attempts = 1 } },
    })
    local other = io.popen(("psql -XAtq '%s' -c 'SELECT pg_sleep(1)'"):format(
      bouncer.pooler.url))
    env.eventually("the other client", function()
      return bouncer.pooler:clients() == 1
    end)
    local _, err = manager:get_db_async("red")
    expect(err, "timeout")
    assert.is_true(err.retryable)
    other:close()
    assert(manager:get_db_async("red"))
  end))
end)
