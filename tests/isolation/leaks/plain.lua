--- Operations that need no connection of their own: plain statements,
-- pipelines, streams, several statements at once, DDL and blocks.

local context = require "leaks.context"
local ledger = require "leaks.ledger"
local probe = require "leaks.probe"

local M = {}


local function read(c)
  c:read(c.db, "query")
end


local function write(c)
  c:write(c.db, "query")
end


local function check(c)
  probe.run(c, c.db, "query")
end


local UPDATE = [[
  UPDATE items SET n = n + 1
  WHERE id = (SELECT max(id) FROM items) RETURNING owner, home]]


local function update(c)
  local rows, err = c.db:query(UPDATE)
  if not rows then return c:fail(err) end
  c:check_rows(rows, "update")
end


local FAILING = {
  { "SELECT 1 / (n - n) FROM items, me", "22012" },
  { "SELECT owner::int FROM me", "22P02" },
  { "SELECT nothing FROM me", "42703" },
  { "SELECT * FROM not_there", "42P01" },
  { "INSERT INTO items (owner, id) SELECT owner, id FROM items", "23505" },
  { "INSERT INTO items (id) VALUES (-1)", "23502" },
  { "SELECT FROM WHERE", "42601" },
  { "SELECT set_config('work_mem', 'wrong', false)", "22023" },
  { "SELECT pg_terminate_backend(pg_backend_pid()), owner FROM me",
    "57P01 42501" }, -- one's own backend: another role may not
}


local function fail(c)
  local case = c.rand:pick(FAILING)
  local rows, err = c.db:query(case[1])
  if rows then c:check_rows(rows, case[1]) else c:fail(err, case[2]) end
end


local function time_out(c)
  local rows, err = c.db:query {
    sql = "SELECT pg_sleep(1)::text, owner FROM me",
    timeout_ms = c.rand:int(6),
  }
  if rows then c:check_rows(rows, "slow") else c:fail(err, "timeout") end
end


local function pipeline(c)
  local reads = {}
  c.db:pipeline(function(p)
    for i = 1, 1 + c.rand:int(5) do
      reads[i] = p:query(c.rand:chance(20) and "SELECT 1 / 0 AS owner"
                         or "SELECT owner, home FROM items LIMIT 5")
    end
    reads[#reads + 1] = p:query(
      "SELECT owner, current_schema() AS schema, current_user AS role FROM me")
    if c.rand:chance(10) then -- not plain: on a connection of its own
      reads[#reads + 1] = p:query("SET work_mem = '9MB'")
    end
    for _, future in ipairs(reads) do
      local rows, err = future:await()
      if rows then c:check_rows(rows, "pipeline")
      else c:fail(err, "22012") end
    end
    return true
  end)
end


local function atomic(c)
  local ids, broken = {}, c.rand:chance(40)
  local ok, err = c.db:pipeline({ atomic = true }, function(p)
    for i = 1, 3 do
      ids[i] = c:new_id()
      p:query("INSERT INTO items (owner, id) VALUES ($1, $2)", c.t.mark, ids[i])
    end
    if broken then p:query("SELECT 1 / 0") end
    return true
  end)
  ledger.enter_all(c, ids, ok, err)
  if not ok then c:fail(err, broken and "22012" or nil) end
end


local function rows(c)
  local leave = c.rand:chance(60) and c.rand:int(400)
  c:guard(nil, function()
    local n = 0
    for row in c.db:rows("SELECT owner, current_user AS role, g "
                         .. "FROM me, generate_series(1, 500) AS g") do
      c:check_rows({ row }, "rows")
      n = n + 1
      if n == leave then break end
    end
  end)
end


local function exec(c)
  local id = c:new_id()
  local broken = c.rand:chance(30)
  local got, err = c.db:exec(([[
    CREATE TEMP TABLE items AS SELECT 'temp of %s'::text AS owner;
    INSERT INTO items (owner, id) VALUES ('%s', %d);
    SET TimeZone = 'Asia/Tokyo';
    %s;
    SELECT owner, home, current_schema() AS schema FROM items LIMIT 5]]):format(
    c.t.mark, c.t.mark, id, broken and "SELECT 1 / 0" or "SELECT 2"))
  ledger.enter(c, id, got ~= nil, err)
  if got then c:check_rows(got, "exec")
  else c:fail(err, broken and "22012" or nil) end
end


-- statements that stay on their session, as single queries
local LASTING = {
  "SET work_mem = '3MB'", "SET datestyle = 'German'",
  "SET TimeZone = 'Pacific/Auckland'", "SET statement_timeout = 12345",
  "SET search_path = public", "SET default_transaction_read_only = on",
  "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
  "SELECT set_config('work_mem', '2MB', false)",
  "SELECT set_config('app.tenant', 'me', false)",
  "CREATE TEMP TABLE me AS SELECT 'temp'::text AS owner",
  "CREATE TEMP VIEW items AS SELECT 'temp'::text AS owner",
  "SELECT 'temp'::text AS owner INTO TEMP me",
  "LISTEN news", "SELECT pg_advisory_lock(%d)",
  "SELECT pg_try_advisory_lock_shared(%d)",
  "PREPARE mine AS SELECT 1", "SET ROLE mtenant", "RESET ROLE",
  "DECLARE mine CURSOR WITH HOLD FOR SELECT 1", "DISCARD ALL",
  "DEALLOCATE ALL", "RESET ALL", "SET client_encoding = 'LATIN1'",
  "SET standard_conforming_strings = off", "SET application_name = 'x'",
}


local function lasting(c)
  local sql = c.rand:pick(LASTING):gsub("%%d", c.index)
  local got, err = c.db:query(sql)
  if not got then c:fail(err) end
end


local BLOCK = [[
DO $$ BEGIN
  PERFORM set_config('work_mem', '4MB', false);
  EXECUTE 'LISTEN block';
  PERFORM pg_advisory_lock(%d);
  CREATE TEMP TABLE IF NOT EXISTS block AS SELECT 1 AS n;
  INSERT INTO items (owner, id) SELECT owner, %d FROM me;
  %s
END $$]]


local function block(c)
  local id, broken = c:new_id(), c.rand:chance(30)
  local got, err = c.db:query(BLOCK:format(c.index, id,
    broken and "RAISE 'no'; " or ""))
  ledger.enter(c, id, got ~= nil, err)
  if not got then c:fail(err, broken and "P0001" or nil) end
end


-- two of a tenant at the same time may meet each other in the catalogs
local MET = "23505 42P07 42P01 42701 42703 42704 42710 42723 XX000 40P01 42883"


local function ddl(c)
  local name = ("extra_%d_%d"):format(c.t.n, c.rand:int(3))
  local statements = c.rand:pick {
    { "CREATE TABLE IF NOT EXISTS %s (owner text)",
      "INSERT INTO %s SELECT owner FROM me", "SELECT owner FROM %s",
      "DROP TABLE IF EXISTS %s" },
    { "ALTER TABLE items ADD COLUMN IF NOT EXISTS %s int",
      "SELECT * FROM items LIMIT 3",
      "ALTER TABLE items DROP COLUMN IF EXISTS %s",
      "SELECT * FROM items LIMIT 3" },
    { "CREATE OR REPLACE VIEW v_%s AS SELECT owner FROM me",
      "SELECT owner FROM v_%s", "DROP VIEW IF EXISTS v_%s" },
  }
  for _, sql in ipairs(statements) do
    local got, err = c.db:query((sql:gsub("%%s", name)))
    if got then c:check_rows(got, sql) else c:fail(err, MET .. " 42809 0A000") end
  end
end


local PROCEDURE = [[
CREATE OR REPLACE PROCEDURE touch() LANGUAGE plpgsql AS $$ BEGIN
  PERFORM set_config('statement_timeout', '77777', false);
  EXECUTE 'CREATE TEMP TABLE touched AS SELECT 1 AS n';
END $$]]


local function call(c)
  local got, err = c.db:query(PROCEDURE)
  if got then got, err = c.db:query("CALL touch()") end
  if not got then c:fail(err, MET) end
end


local function notify(c)
  local ok, err = c.db:notify("news", c.t.mark)
  if not ok then c:fail(err) end
end


local function connect(c)
  local db, err = c.world.manager:get_db_async(c.t.id)
  if c.t.shared then db, err = c.world.manager:get_shared_db_async() end
  if db then c:read(db, "get_db_async") else c:fail(err, "tenant_not_found") end
end


M.operations = {
  { "read", 260, read },
  { "probe", 180, check },
  { "write", 130, write },
  { "update", 50, update },
  { "failing query", 40, fail },
  { "timeout", 8, time_out },
  { "pipeline", 30, pipeline },
  { "atomic pipeline", 15, atomic },
  { "rows", 20, rows },
  { "exec", 15, context.on_session(exec) },
  { "lasting query", 30, lasting },
  { "block", 12, block },
  { "ddl", 8, ddl },
  { "call", 4, call },
  { "notify", 10, notify },
  { "get_db_async", 10, connect },
}


return M
