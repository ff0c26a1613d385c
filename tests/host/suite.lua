--- The same checks in every host: what scripts do with mtenant, done where the
-- loop and the coroutines belong to the host.
--
-- Each is a function of `t`: t.mtenant, t.manager, t.db(id), t.start(fn) (a
-- coroutine as the host makes them), t.pause(ms) (the host's own sleep),
-- t.one_request (these coroutines belong to one request, as in nginx). What
-- fails raises.

local M = {}


local function equal(wanted, seen)
  if wanted ~= seen then
    error(("%s wanted, got %s"):format(tostring(wanted), tostring(seen)), 2)
  end
end


local function must(value, err)
  if value == nil then error(tostring(err), 2) end
  return value
end


local function fails(code, value, err)
  if value ~= nil then error("no error", 2) end
  if type(err) ~= "table" or err.code ~= code then
    error(("%s wanted, got %s"):format(code, tostring(err)), 2)
  end
  return err
end


-- runs fn for 1 to n in coroutines of the host, all at once; waits for them
local function together(t, n, fn)
  local left, wrong = n, nil
  for i = 1, n do
    t.start(function()
      local ok, err = pcall(fn, i)
      if not ok then wrong = err end
      left = left - 1
    end)
  end
  local until_ms = t.mtenant.now_ms() + 20000
  while left > 0 do
    if t.mtenant.now_ms() > until_ms then error("they don't end", 2) end
    t.pause(5)
  end
  if wrong then error(tostring(wrong), 2) end
end


local CHECKS = {
  { "a value", function(t)
    equal(7, must(t.db("a"):value("SELECT 3 + $1::int", 4)))
  end },

  { "types", function(t)
    local row = must(t.db("a"):one([[SELECT 1::int8 AS i, 1.5::float8 AS f,
      true AS b, 'x' AS s, '\x0001'::bytea AS y, ARRAY[1,2] AS l,
      NULL::text AS n, '1.10'::numeric AS d]]))
    equal(1, row.i)
    equal(1.5, row.f)
    equal(true, row.b)
    equal("x", row.s)
    equal("\0\1", row.y)
    equal(2, row.l[2])
    equal(nil, row.n)
    equal("1.10", row.d)
  end },

  { "parameters", function(t)
    local text = "it's \"quoted\"; $1 \\"
    equal(text, must(t.db("a"):value("SELECT $1::text", text)))
    local sent = { sql = "SELECT $1::int IS NULL", params = { n = 1 } }
    local rows = must(t.db("a"):query(sent))
    equal(1, #rows)
  end },

  { "an error of the server", function(t)
    local err = fails("query", t.db("a"):query("SELECT 1/0"))
    equal("22012", err.sqlstate)
    equal("a", err.tenant_id)
    equal(1, must(t.db("a"):value("SELECT 1")))
  end },

  { "each tenant in its schema", function(t)
    together(t, 20, function(i)
      local id = ({ "a", "b", "c" })[i % 3 + 1]
      for _ = 1, 5 do
        equal(id, must(t.db(id):value("SELECT owner FROM me")))
      end
    end)
  end },

  { "a bad id", function(t)
    fails("invalid_tenant_id", t.manager:get_db("no such; id"))
    fails("tenant_not_found", t.manager:get_db_async("nobody"))
  end },

  { "connecting, together", function(t)
    together(t, 10, function()
      equal("b", must(t.manager:get_db_async("b")).tenant_id)
    end)
  end },

  { "statements at the same time", function(t)
    local mtenant = t.mtenant
    local started = mtenant.now_ms()
    together(t, 20, function()
      must(t.db("a"):query("SELECT pg_sleep(0.1)"))
    end)
    local took = mtenant.now_ms() - started
    if took > 1500 then error(("20 of 100 ms took %d ms"):format(took)) end
  end },

  { "a transaction", function(t)
    local db = t.db("a")
    must(db:query("DELETE FROM notes"))
    equal("done", must(db:transaction(function(tx)
      must(tx:query("INSERT INTO notes VALUES ($1)", "kept"))
      return "done"
    end)))
    fails("query", db:transaction(function(tx)
      must(tx:query("INSERT INTO notes VALUES ($1)", "lost"))
      return tx:query("SELECT 1/0")
    end))
    local ok, err = pcall(db.transaction, db, function(tx)
      must(tx:query("INSERT INTO notes VALUES ($1)", "lost"))
      error("a bug", 0)
    end)
    equal(false, ok)
    equal("a bug", err)
    equal("kept", must(db:value("SELECT string_agg(body, ',') FROM notes")))
  end },

  { "a savepoint", function(t)
    equal(1, must(t.db("a"):transaction(function(tx)
      must(tx:query("DELETE FROM notes"))
      must(tx:query("INSERT INTO notes VALUES ('outer')"))
      tx:transaction(function(inner)
        must(inner:query("INSERT INTO notes VALUES ('inner')"))
        return nil, "undo"
      end)
      return tx:value("SELECT count(*) FROM notes")
    end)))
  end },

  { "transactions at the same time", function(t)
    must(t.db("b"):query("DELETE FROM notes"))
    together(t, 12, function(i)
      must(t.db("b"):transaction(function(tx)
        must(tx:query("INSERT INTO notes VALUES ($1)", tostring(i)))
        t.pause(i % 3)
        return tx:value("SELECT count(*) FROM notes")
      end))
    end)
    equal(12, must(t.db("b"):value("SELECT count(*) FROM notes")))
  end },

  { "a session and its end", function(t)
    local db = t.db("a")
    equal("3MB", must(db:session(function(s)
      must(s:query("SET work_mem = '3MB'"))
      return s:value("SHOW work_mem")
    end)))
    for _ = 1, 10 do
      if db:value("SELECT current_setting('work_mem')") == "3MB" then
        error("the setting has stayed")
      end
    end
  end },

  { "a pipeline", function(t)
    local sum = must(t.db("a"):pipeline(function(p)
      local futures = {}
      for i = 1, 10 do futures[i] = p:query("SELECT $1::int AS n", i) end
      local total = 0
      for i = 1, 10 do total = total + must(futures[i]:await())[1].n end
      return total
    end))
    equal(55, sum)
  end },

  { "rows as they come", function(t)
    local n = 0
    for row in t.db("a"):rows("SELECT g FROM generate_series(1, 3000) AS g") do
      n = n + 1
      equal(n, row.g)
    end
    equal(3000, n)
  end },

  { "several statements", function(t)
    must(t.db("a"):exec("CREATE TABLE IF NOT EXISTS two (n int);"
      .. "INSERT INTO two VALUES (1); DROP TABLE two"))
  end },

  { "a timeout", function(t)
    local sent = { sql = "SELECT pg_sleep(5)", timeout_ms = 50 }
    fails("timeout", t.db("a"):query(sent))
    equal(1, must(t.db("a"):value("SELECT 1")))
  end },

  { "a deadline", function(t)
    local mtenant = t.mtenant
    fails("timeout", mtenant.with_deadline(50, function()
      t.db("a"):query("SELECT pg_sleep(5)")
      return t.db("a"):query("SELECT 1") -- the deadline holds
    end))
    equal(1, must(t.db("a"):value("SELECT 1")))
  end },

  { "tasks", function(t)
    local mtenant = t.mtenant
    local one = mtenant.spawn(function(n)
      mtenant.sleep(5)
      return n + t.db("a"):value("SELECT 1")
    end, 41)
    equal(42, one:await())
    local two = mtenant.spawn(function() return mtenant.sleep(60000) end)
    mtenant.sleep(5)
    two:cancel()
    fails("cancelled", two:await())
    local three = mtenant.spawn(function() error("a bug", 0) end)
    local ok, err = pcall(three.await, three)
    equal(false, ok)
    equal("a bug", err)
  end },

  { "each", function(t)
    local got, errs = t.mtenant.each({ "a", "b", "c" }, 2, function(id)
      return t.db(id):value("SELECT owner FROM me")
    end)
    equal(nil, errs)
    equal("abc", table.concat(got))
  end },

  { "retry", function(t)
    local tries = 0
    local got = must(t.mtenant.with_retry(function()
      tries = tries + 1
      if tries < 3 then return nil, "connection refused" end
      return t.db("a"):value("SELECT 'done'")
    end, { initial_delay_ms = 1, max_attempts = 5 }))
    equal("done", got.result)
    equal(3, got.attempts)
  end },

  { "the host goes on meanwhile", function(t)
    local beats, over = 0, false
    t.start(function()
      while not over do
        t.pause(5)
        beats = beats + 1
      end
    end)
    must(t.db("a"):query("SELECT pg_sleep(0.3)"))
    over = true
    if beats < 10 then error("only " .. beats .. " beats in 300 ms") end
  end },

  { "a context", function(t)
    local context = t.mtenant.create_tenant_context(t.manager)
    together(t, 9, function(i)
      local id = ({ "a", "b", "c" })[i % 3 + 1]
      context:run_with_tenant(id, function()
        t.pause(i)
        local sql = "SELECT owner FROM me"
        equal(id, must(context:get_tenant_db():value(sql)))
        equal(id, t.mtenant.spawn(function()
          return context:get_tenant_id()
        end):await())
      end)
    end)
    equal(false, context:is_in_tenant_context())
  end },

  { "a context that is entered, and by whom", function(t)
    local context = t.mtenant.create_tenant_context(t.manager)
    local entered, other
    t.start(function()
      context:enter("a")
      t.pause(50)
      entered = context:get_tenant_id()
    end)
    t.pause(10)
    t.start(function() other = context:get_tenant_id_or_null() or "none" end)
    t.pause(100)
    equal("a", entered)
    equal(t.one_request and "a" or "none", other)
    equal(t.one_request or false, context:is_in_tenant_context())
  end },

  { "a wait where none is possible", function(t)
    local ok, err = pcall(table.sort, { 2, 1 }, function()
      return t.db("a"):value("SELECT true")
    end)
    equal(false, ok)
    equal("misuse", type(err) == "table" and err.code or err)
  end },

  { "health", function(t)
    local health = must(t.manager:health_check())
    equal(true, health.healthy)
  end },

  { "an eviction", function(t)
    equal(1, must(t.db("c"):value("SELECT 1")))
    equal(true, t.manager:evict_pool("c"))
    equal("c", must(t.db("c"):value("SELECT owner FROM me")))
  end },
}


local function schema_of(id) return "t_" .. id end


local function make_tenants(manager)
  local db = must(manager:get_shared_db_async())
  for _, id in ipairs({ "a", "b", "c" }) do
    must(db:exec(([[DROP SCHEMA IF EXISTS %s CASCADE; CREATE SCHEMA %s;
      CREATE TABLE %s.me AS SELECT '%s'::text AS owner;
      CREATE TABLE %s.notes (body text)]]):format(schema_of(id), schema_of(id),
        schema_of(id), id, schema_of(id))))
  end
end


--- Runs them, in a coroutine of the host.
---@param t table  mtenant, url, start, pause; say(line) for the report
---@return integer failed
function M.run(t)
  t.manager = must(t.mtenant.create_tenant_manager({
    connection = { url = t.url, max_connections = 5 },
    isolation = { schema_name_template = schema_of },
  }))
  t.db = function(id) return must(t.manager:get_db(id)) end
  make_tenants(t.manager)
  local failed = 0
  for _, check in ipairs(CHECKS) do
    local ok, err = pcall(check[2], t)
    failed = failed + (ok and 0 or 1)
    t.say(ok and "ok " .. check[1]
      or ("FAILED %s: %s"):format(check[1], tostring(err)))
  end
  t.manager:dispose()
  t.say("end")
  return failed
end


return M
