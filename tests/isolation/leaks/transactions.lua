--- db:transaction with a random program in it that fails at every point.

local errors = require "mtenant.errors"
local ledger = require "leaks.ledger"
local mtenant = require "mtenant"
local probe = require "leaks.probe"

local M = {}

local RAISED = "raised in a transaction"
-- after a failed statement; what concurrency brings; what options forbid
local ANY_TX = "25P02 40001 40P01 25006 0A000"


local function run(c, tx, sql, allowed)
  local rows, err = tx:query(sql)
  if not rows then
    c:fail(err, ANY_TX .. " " .. (allowed or ""))
    return nil
  end
  return rows
end


local function nested(c, tx, pending)
  local fate = c.rand:int(4)
  local mine = {}
  local ok, first, err = pcall(tx.transaction, tx, function(inner)
    c:write(inner, "savepoint", ANY_TX, mine)
    c:read(inner, "savepoint", ANY_TX)
    if fate == 1 then return nil, "undo" end
    if fate == 2 then error(RAISED, 0) end
    if fate == 3 then run(c, inner, "SELECT 1 / 0", "22012") end
    return true
  end)
  if not ok then
    if first ~= RAISED then error(first, 0) end
  elseif first then
    for _, id in ipairs(mine) do pending[#pending + 1] = id end
  elseif err ~= "undo" then
    c:fail(err, ANY_TX .. " 22012 query")
  end
end


local TEXTS = {
  "SET LOCAL work_mem = '2MB'", "SET LOCAL TimeZone = 'Asia/Tokyo'",
  "SET LOCAL statement_timeout = '20s'", "SET CONSTRAINTS ALL DEFERRED",
  "SET work_mem = '6MB'", "SET datestyle = 'German'",
  "SET statement_timeout = '21s'",
  "SELECT set_config('work_mem', '3MB', true)",
  "SELECT set_config('app.tenant', 'x', true)",
  "SELECT set_config('app.tenant', 'x', false)",
  "CREATE TEMP TABLE items (owner text) ON COMMIT DROP",
  "CREATE TEMP TABLE kept AS SELECT 'temp'::text AS owner",
  "SELECT pg_advisory_xact_lock(%d)", "SELECT pg_advisory_lock(%d)",
  "LISTEN news", "NOTIFY news, 'x'",
  "DECLARE inside CURSOR FOR SELECT 1",
  "DECLARE outside CURSOR WITH HOLD FOR SELECT 1",
  "PREPARE mine AS SELECT 1", "DEALLOCATE ALL",
  "CREATE TABLE IF NOT EXISTS made_{n} (owner text)",
  "DROP TABLE IF EXISTS made_{n}",
  "DO $$ BEGIN PERFORM set_config('work_mem', '8MB', false); END $$",
  "DO $$ BEGIN EXECUTE 'LISTEN news'; END $$",
  "LOCK TABLE items IN ROW SHARE MODE",
}
local OFTEN = "42P07 42P03 42P05 23505 XX000 42P01 25001"


local function text(c, tx)
  local sql = c.rand:pick(TEXTS):gsub("%%d", c.index):gsub("{n}", c.t.n)
  run(c, tx, sql, OFTEN)
end


local STEPS = {
  function(c, tx) c:read(tx, "transaction", ANY_TX) end,
  function(c, tx) c:read(tx, "transaction", ANY_TX) end,
  function(c, tx, pending)
    c:write(tx, "transaction", ANY_TX, pending)
  end,
  function(c, tx, pending)
    c:write(tx, "transaction", ANY_TX, pending)
  end,
  nested,
  text,
  text,
  function(c, tx)
    c:guard(ANY_TX, function()
      for row in tx:rows("SELECT owner, g FROM me, "
                         .. "generate_series(1, 200) AS g") do
        c:check_rows({ row }, "rows in a transaction")
        if row.g == 100 then break end
      end
    end)
  end,
  function(c, tx)
    local rows, err = tx:exec("SELECT 1; SELECT owner FROM me")
    if rows then c:check_rows(rows, "exec in a transaction")
    else c:fail(err, ANY_TX) end
  end,
}


-- what a transaction may meet after any of its steps
local FAULTS = {
  { "undo", 30, function() return nil, "undo" end },
  { "raise", 20, function() error(RAISED, 0) end },
  { "raise error", 15, function()
    error(errors.new("policy", "raised on purpose"), 0)
  end },
  { "sql error", 30, function(c, tx)
    run(c, tx, "SELECT 1 / 0", "22012")
    return true -- and says nothing: COMMIT cannot succeed
  end },
  { "timeout", 10, function(c, tx)
    local rows, err = tx:query { sql = "SELECT pg_sleep(1)",
                                 timeout_ms = c.rand:int(6) }
    if rows then return true end
    c:fail(err, "timeout " .. ANY_TX)
    return nil, "undo"
  end },
  { "deadline", 10, function(c, tx)
    local rows, err = mtenant.with_deadline(c.rand:int(6), function()
      return tx:query("SELECT pg_sleep(1)")
    end)
    if rows then return true end
    c:fail(err, "timeout " .. ANY_TX)
    return nil, "undo"
  end },
  { "own end", 5, function(c, tx)
    run(c, tx, "SELECT pg_terminate_backend(pg_backend_pid())", "57P01 42501")
    return true
  end },
}
local faults = require "leaks.random".weighted(FAULTS)


local function options_of(c)
  local rand = c.rand
  local opts, expected = {}, {}
  if rand:chance(20) then
    opts.isolation = rand:pick { "read committed", "repeatable read",
                                 "serializable" }
    expected.isolation = opts.isolation
  end
  if rand:chance(10) then
    opts.read_only, expected.read_only = true, true
    if rand:chance(30) then opts.deferrable = true end
  end
  if rand:chance(20) then opts.retry = 2 end
  return opts, expected
end


-- how the whole may fail, by what went on inside
local OUTCOMES = "query 25P02 40001 40P01 22012 policy timeout"


local function transaction(c)
  local opts, expected = options_of(c)
  local n = c.rand:int(5)
  local fault_at = c.rand:chance(50) and c.rand:int(n + 1) - 1
  local fault = c.rand:pick_weighted(faults)
  local pending = {}
  c.in_transaction = true
  local ok, first, err = pcall(c.db.transaction, c.db, opts, function(tx)
    pending = {} -- this may be another try
    if c.rand:chance(80) then
      local fine, failed = probe.run(c, tx, "transaction", expected)
      if not fine then return nil, failed end
    end
    for i = 0, n do
      if i == fault_at then return fault.run(c, tx) end
      if i > 0 then c.rand:pick(STEPS)(c, tx, pending) end
      if c.world.stopped then break end
    end
    return true
  end)
  if not ok then
    if first ~= RAISED then error(first, 0) end
    return
  end
  ledger.enter_all(c, pending, first, type(err) == "table" and err or nil)
  if not first and err ~= "undo" then c:fail(err, OUTCOMES) end
end


M.operations = { { "transaction", 100, transaction } }


return M
