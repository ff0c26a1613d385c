--- db:session with a random program in it: everything a session can keep.

local context = require "leaks.context"
local ledger = require "leaks.ledger"
local probe = require "leaks.probe"

local M = {}


local function run(c, s, sql, allowed)
  local rows, err = s:query(sql)
  if not rows then c:fail(err, allowed) end
  return rows
end


local SETTINGS = {
  "SET work_mem = '1MB'", "SET work_mem = '64MB'",
  "SET datestyle = 'German'", "SET datestyle = 'SQL, DMY'",
  "SET TimeZone = 'Pacific/Auckland'", "SET TIME ZONE 3",
  "SET statement_timeout = '20s'", "SET lock_timeout = '25s'",
  "SET default_transaction_isolation = 'serializable'",
  "SET default_transaction_deferrable = on",
  "SET client_min_messages = error", "SET extra_float_digits = 0",
  "SET bytea_output = 'escape'", "SET intervalstyle = 'iso_8601'",
  "SET enable_seqscan = off", "SET row_security = off",
  "SET standard_conforming_strings = off", "SET application_name = 'mine'",
  "SET client_encoding = 'LATIN1'", "SET jit = off",
  "SET idle_in_transaction_session_timeout = '50s'",
  "SET app.who = 'somebody'", "SET xmloption = document",
  "SET client_connection_check_interval = 0",
  "SET plan_cache_mode = force_generic_plan",
  "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
  "SELECT set_config('work_mem', '2MB', false)",
  "SELECT set_config('app.tenant', 'somebody', false)",
  "SELECT set_config('TimeZone', 'UTC', false)",
}

-- what leaves the tenant's own scope: then its reads are its own affair
local MOVES = {
  "SET search_path = public", "SET search_path = ''", "SET search_path = '$user'",
  "SELECT set_config('search_path', 'public', false)",
  "RESET search_path", "RESET ALL", "RESET ROLE", "SET ROLE mtenant",
  "SET ROLE r_4", "SET ROLE r_8", "SELECT set_config('role', 'r_4', false)",
  "SET SESSION AUTHORIZATION mtenant", "RESET SESSION AUTHORIZATION",
  "DISCARD ALL", "SET default_transaction_read_only = on",
}

local OBJECTS = {
  "CREATE TEMP TABLE items AS SELECT 'temp'::text AS owner, 'x'::text AS home",
  "CREATE TEMP TABLE me AS SELECT 'temp'::text AS owner",
  "CREATE TEMP TABLE keep (n serial PRIMARY KEY)",
  "CREATE TEMP VIEW temp_me AS SELECT * FROM me",
  "CREATE TEMP SEQUENCE counter", "SELECT 'temp'::text AS owner INTO TEMP t1",
  "CREATE TABLE pg_temp.t2 AS SELECT 'temp'::text AS owner",
  "LISTEN news", "LISTEN \"other news\"", "UNLISTEN *",
  "SELECT pg_advisory_lock(%d)", "SELECT pg_advisory_lock_shared(%d)",
  "SELECT pg_try_advisory_lock(%d, 1)",
  "PREPARE mine AS SELECT 'mine'::text", "PREPARE read AS SELECT * FROM me",
  "DECLARE mine CURSOR WITH HOLD FOR SELECT * FROM me",
  "DECLARE \"Mine 2\" SCROLL CURSOR WITH HOLD FOR SELECT 1",
  "DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES", "DEALLOCATE ALL",
  "CLOSE ALL",
}

-- the same thing twice, or two tenants' roles: of no interest here
local TWICE = "42P07 42P03 42P05 42501 22023 42704"


local function steps_of(s, state)
  local how = "session"
  -- a program that has left its own scope may meet any error
  local function free() return state.moved and "any" or nil end
  return {
    function(c)
      if state.moved then return run(c, s, "SELECT 1", "any") end
      c:read(s, how)
    end,
    function(c)
      if state.moved then return end
      c:write(s, how, "25006")
    end,
    function(c) run(c, s, c.rand:pick(SETTINGS), free()) end,
    function(c) run(c, s, c.rand:pick(SETTINGS), free()) end,
    function(c)
      run(c, s, (c.rand:pick(OBJECTS):gsub("%%d", c.index)), free() or TWICE)
    end,
    function(c)
      run(c, s, (c.rand:pick(OBJECTS):gsub("%%d", c.index)), free() or TWICE)
    end,
    function(c)
      state.moved = true
      run(c, s, c.rand:pick(MOVES), "any")
    end,
    function(c) run(c, s, "SELECT 1 / 0", "22012") end,
    function(c) s:backend_pid() c.world:count("backend_pid") end,
    function(c)
      if state.moved then return end
      local id = c:new_id()
      local undo = c.rand:chance(50)
      local ok, err = s:transaction(function(tx)
        local rows, failed = tx:query("INSERT INTO items (owner, id) VALUES "
          .. "($1, $2) RETURNING owner, home", c.t.mark, id)
        if not rows then return nil, failed end
        c:check_rows(rows, "transaction in a session")
        if undo then return nil, "undo" end
        return true
      end)
      ledger.enter(c, id, ok, type(err) == "table" and err or nil)
      if not ok and err ~= "undo" then c:fail(err, "25006") end
    end,
    function(c)
      local rows, err = s:exec("SET work_mem = '5MB'; CREATE TEMP TABLE IF NOT "
        .. "EXISTS several AS SELECT 1; SELECT pg_advisory_lock("
        .. c.index .. ")")
      if not rows then c:fail(err, free()) end
    end,
    function(c)
      c:guard(state.moved and "any" or nil, function()
        for row in s:rows("SELECT g FROM generate_series(1, 300) AS g") do
          if row.g == 150 then break end
        end
      end)
    end,
  }
end


-- how a session may end
local ENDS = {
  { "return", 50, function() return true end },
  { "nothing", 10, function() return nil, "enough" end },
  { "raise", 10, function() error("raised in a session", 0) end },
  { "open transaction", 15, function(c, s, state)
    local id = c:new_id()
    local ok, err = s:exec(("BEGIN; INSERT INTO items (owner, id) VALUES "
      .. "('%s', %d); CREATE TEMP TABLE in_tx AS SELECT 1"):format(c.t.mark, id))
    if not ok then c:fail(err, state.moved and "any" or "25006") end
    return true -- never committed: must not be there
  end },
  { "failed transaction", 8, function(c, s)
    local _, err = s:exec("BEGIN; SET work_mem = '7MB'; SELECT 1 / 0")
    if err then c:fail(err, "22012") end
    return true
  end },
  { "own end", 4, function(c, s)
    local _, err = s:query("SELECT pg_terminate_backend(pg_backend_pid())")
    if err then c:fail(err, "57P01 42501") end
    return true
  end },
  { "own cancel", 4, function(c, s)
    local _, err = s:query("SELECT pg_cancel_backend(pg_backend_pid()), "
      .. "pg_sleep(1)")
    if err then c:fail(err, "any") end
    return true
  end },
  { "timeout", 8, function(c, s)
    local _, err = s:query { sql = "SELECT pg_sleep(1)",
                             timeout_ms = c.rand:int(6) }
    if err then c:fail(err, "timeout") end
    return true
  end },
}
local ends = require "leaks.random".weighted(ENDS)


local function session(c)
  local ended = c.rand:pick_weighted(ends)
  local ok, first, err = pcall(c.db.session, c.db, function(s)
    if not probe.run(c, s, "session") then return nil, "enough" end
    local state = {}
    local steps = steps_of(s, state)
    for _ = 1, c.rand:int(5) do
      c.rand:pick(steps)(c)
      if c.world.stopped then break end
    end
    return ended.run(c, s, state)
  end)
  if not ok then
    if first ~= "raised in a session" then error(first, 0) end
  elseif not first and err ~= "enough" then
    c:fail(err)
  end
end


M.operations = { { "session", 60, context.on_session(session) } }


return M
