--- Brings one schema up to date on a session: takes the tenant's lock, looks
-- whether all is as it was read, sends the files, and keeps each file and its
-- record in one transaction.
--
-- The lock is the session's, keyed with the schema's OID, so that a renamed
-- schema keeps it; it is given back when the schema is done, or by the server
-- when the session ends, however that does.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local formats = require "mtenant.migrator.formats"
local plan_of = require "mtenant.migrator.plan"
local script = require "mtenant.migrator.script"
local state = require "mtenant.migrator.state"
local task = require "mtenant.task"


local format = string.format


local BYTES_AT_ONCE = 1048576 -- files beyond that go in several texts
local LOCK_TRIES = 6
local LOCK_PAUSE_MS = 100

-- Rolled back by the server as a whole: the file may run again.
local AGAIN = { ["55P03"] = true, ["40P01"] = true, ["40001"] = true }


local M = {}


--- What `run` and `change` return when another runner has the schema.
local LOCKED = {}
M.LOCKED = LOCKED


---@class mtenant.migrator.Unit
---@field id string
---@field schema string
---@field tracking string  name of the tracking table
---@field state table  as state.lua reads it
---@field shape table  of the tracking table, there or to be made
---@field has_table boolean
---@field plan mtenant.migrator.Plan
---@field lock integer[]  two keys
---@field opts table  of the migrator
---@field search_path string[]
---@field checksums boolean
---@field migrations mtenant.Migration[]
---@field done mtenant.Migration[]  what this run has applied


-- ---- groups ------------------------------------------------------------

-- What may go in one text: files of SQL that run in transactions.
local function groups_of(list, way, alone)
  local out, last = {}, nil
  for _, m in ipairs(list) do
    local simple = m.kind == "sql" and m.transaction
    local size = simple and #m[way].text or 0
    if not (simple and last and last.simple and not alone
            and last.bytes + size <= BYTES_AT_ONCE) then
      last = { simple = simple, bytes = 0 }
      out[#out + 1] = last
    end
    last[#last + 1] = m
    last.bytes = last.bytes + size
  end
  return out
end


local function touches(list, way)
  for _, m in ipairs(list) do
    if m.kind == "lua" or not m.transaction or m[way].touches then
      return true
    end
  end
  return false
end


-- A schema that has no records yet serves nobody: its files may share one
-- transaction, as long as none of them can change what the next one runs with.
local function may_share(unit, list, way)
  if unit.has_table or way ~= "up" or touches(list, way) then return false end
  for _, m in ipairs(list) do
    if m.lock_timeout_ms or m.statement_timeout_ms then return false end
  end
  return true
end


local function each_alone(group)
  local out = {}
  for i, m in ipairs(group) do out[i] = { m } end
  return out
end


-- ---- one text ------------------------------------------------------------

-- Ends a transaction that failed, and with it nothing else.
local function roll_back(session)
  return session:exec("ROLLBACK")
end


local function note(unit, event, migration, ...)
  if unit.on then unit.on(event, migration, ...) end
end


local function mark_done(unit, list)
  for _, m in ipairs(list) do
    unit.done[#unit.done + 1] = m
    note(unit, "applied", m)
  end
end


-- Sends a script; nil, or what went wrong, an error and the migration.
local function send(session, unit, text)
  local _, err = session:exec(text:text(), { copy = text.copy })
  if not err then return nil end
  local what, why, migration = text:failure(err, unit)
  -- an answer to any statement but the guard means that it was passed
  if (what == "file" or what == "other") and err.sqlstate
    and err.statement_number then
    unit.locked = true
  end
  mark_done(unit, text:committed(err))
  return what, why, migration
end


-- A group of files in one text. `last`: nothing comes after it.
local function run_texts(session, unit, group, way, last)
  local text = script.new()
  for i, list in ipairs(unit.together and { group } or each_alone(group)) do
    text:transaction(unit, list, way, i == 1 and not unit.locked)
    unit.has_table = true
  end
  if last then text:leave(unit, unit.touched) end
  return send(session, unit, text)
end


-- ---- one file by itself ------------------------------------------------------

local function guard(session, unit)
  if unit.locked then return nil end
  local text = script.new()
  text:add("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
  text:guard(unit)
  text:add("COMMIT")
  return send(session, unit, text)
end


-- The record of a file that ran outside of a transaction.
local function note_alone(session, unit, m, way)
  local text = script.new()
  text:begin(unit, false)
  text:add(script.note(unit, { m }, way))
  text:look(unit)
  text:add("COMMIT")
  return send(session, unit, text)
end


-- Puts a session into the schema, if that is still the same; nil, or what and
-- an error.
local function enter(handle, unit, m, scope)
  local text = script.new()
  text:look(unit)
  text:add(script.settings(scope or "SESSION", unit, m))
  return send(handle, unit, text)
end


-- Is the schema still the tenant's? nil, or what and an error.
local function look(handle, unit)
  local text = script.new()
  text:look(unit)
  return send(handle, unit, text)
end


-- Outside of a transaction: each statement for itself, then the record.
local function run_statements(session, unit, m, way)
  local part, _ = m[way], nil
  local what, err = enter(session, unit, m)
  for i, s in ipairs(part.statements) do
    if not what and i > 1 then what, err = look(session, unit) end
    if what then
      session:exec(script.CLEAN)
      return what, err
    end
    local sql = part.text:sub(s.first, s.last)
    local copy = s.copy_first
      and { part.text:sub(s.copy_first, s.copy_last) } or nil
    _, err = session:exec(sql, { copy = copy })
    if err then
      session:exec(script.CLEAN)
      return "file", script.explain(err, m, i, s.line + part.line - 1, nil,
                                    sql, unit), m
    end
  end
  _, err = session:exec(script.CLEAN)
  if err then return "other", err end
  return note_alone(session, unit, m, way)
end


local function context(unit, m)
  return { tenant_id = unit.id, schema = unit.schema, migration = m.name }
end


local function failed_function(err, m, unit)
  if errors.is(err) then
    return script.explain(err, m, nil, nil, nil, nil, unit)
  end
  local out = errors.new("query", m.name .. ".lua: " .. errors.text_of(err),
                         { tenant_id = unit.id, cause = err })
  out.migration = m.name
  return out
end


-- pcall, with what stops a task let through
local function call(fn, handle, ctx)
  local ok, result, err = pcall(fn, handle, ctx)
  if not ok then return false, result end
  if result == nil and err ~= nil or result == false then
    return false, err or "it returned false"
  end
  return true
end


local function in_session(session, unit, m, way)
  local what, err = enter(session, unit, m)
  if what then return what, err end
  local ok
  session.tenant_id = unit.id
  ok, err = call(m[way], session, context(unit, m))
  session:exec(script.CLEAN)
  if not ok then return "file", failed_function(err, m, unit), m end
  return note_alone(session, unit, m, way)
end


-- What follows the function, in its transaction; nil, or what and an error.
local function note_in(tx, unit, m, way)
  local sql = script.OURSELVES .. "; " .. script.note(unit, { m }, way)
  if not unit.has_table then sql = script.create(unit) .. "; " .. sql end
  local _, err = tx:exec(sql)
  if err then return "file", err end
  return look(tx, unit)
end


local function in_transaction(session, unit, m, way)
  local what
  local done, err = session:transaction({ isolation = "read committed" },
    function(tx)
      local ok, why
      tx.tenant_id = unit.id
      what, why = enter(tx, unit, m, "LOCAL")
      if what then return nil, why end
      ok, why = call(m[way], tx, context(unit, m))
      if not ok then return nil, failed_function(why, m, unit) end
      what, why = note_in(tx, unit, m, way)
      return what == nil or nil, why
    end)
  if what and what ~= "file" then return what, err end
  if done then
    unit.has_table = true
    return nil
  end
  if not errors.is(err) or not err.migration then
    err = failed_function(err, m, unit)
  end
  return "file", err, m
end


local function run_single(session, unit, m, way)
  local what, err = guard(session, unit)
  if what then return what, err end
  unit.locked = true
  if m.kind == "sql" then return run_statements(session, unit, m, way) end
  return (m.transaction and in_transaction or in_session)(session, unit, m, way)
end


-- ---- the whole --------------------------------------------------------------

-- What is recorded now; the plan made anew. For who holds the lock.
local function reread(session, unit)
  local found = {}
  local ok, err = state.read_chunk(session, { unit.schema }, unit.tracking,
                                   found, {})
  if not ok then return nil, err end
  local s = found[unit.schema]
  if not s or s.oid ~= unit.state.oid then
    return nil, errors.new("tenant_not_found", format(
      'schema "%s" has gone, or has been made anew, meanwhile', unit.schema),
      { tenant_id = unit.id })
  end
  if unit.checksums then
    ok, err = state.read_edited(session, unit.migrations, unit.tracking, found,
                                { unit.schema })
    if not ok then return nil, err end
  end
  return M.set_state(unit, s)
end


-- Most tenants have the same records, and then the same plan.
local function plan_for(unit, s, plans)
  local function make()
    return plan_of.make(unit.migrations, unit.shape, s.records, s.edited,
                        unit.opts)
  end
  if not plans or #s.edited > 0 then return make() end
  local of_id = plans[unit.shape.id] or {}
  plans[unit.shape.id] = of_id
  of_id[s.records] = of_id[s.records] or make()
  return of_id[s.records]
end


--- Puts what was read into a unit, and makes its plan.
---@param plans? table  plans that others of these records may share
---@return boolean|nil ok
---@return mtenant.error|nil err  the table is none of ours, or of another format
function M.set_state(unit, s, plans)
  unit.state = s
  if s.columns and not s.shape then
    return nil, errors.new("policy", format(
      'the table "%s" in schema "%s" is no tracking table: it has neither name '
      .. "nor hash, or a time of an unknown type (%s)", unit.tracking,
      s.schema, s.columns), { tenant_id = unit.id })
  end
  unit.has_table = s.shape ~= nil
  local err
  unit.shape, err = formats.choose(s.shape, unit.format, unit.default_format)
  if not unit.shape then return nil, err end
  unit.plan = plan_for(unit, s, plans)
  return true
end


-- After a failure: out of the transaction, the lock given back.
local function give_up(session, unit)
  local sql = "ROLLBACK; "
  if unit.touched then sql = sql .. script.CLEAN .. "; " end
  session:exec(sql .. script.unlock(unit))
end


local function pause(unit, try)
  local wait = core.backoff(LOCK_PAUSE_MS, 5000, 2, "equal", try, core.random())
  note(unit, "waiting", nil, wait)
  return task.sleep(wait)
end


local function run_group(session, unit, group, way, last)
  if not group.simple then return run_single(session, unit, group[1], way) end
  return run_texts(session, unit, group, way, last)
end


-- Runs the files that are left of a plan; nil, or what and an error.
local function run_list(session, unit, list, way)
  local groups = groups_of(list, way, unit.alone)
  unit.touched = touches(list, way)
  for i, group in ipairs(groups) do
    for _, m in ipairs(group) do note(unit, "migrating", m) end
    local started = core.now_ms()
    local had_table = unit.has_table
    local before = #unit.done
    local what, err, failed = run_group(session, unit, group, way, i == #groups)
    if what then
      unit.has_table = had_table or #unit.done > before
      return what, err, failed
    end
    unit.has_table, unit.locked = true, true
    unit.took_ms = core.now_ms() - started
    mark_done(unit, group)
  end
  if #groups > 0 and groups[#groups].simple then
    unit.locked = false -- given back by the text
  else
    give_up(session, unit)
  end
  return nil
end


local function drop_done(list, done)
  local out, gone = {}, {}
  for _, m in ipairs(done) do gone[m] = true end
  for _, m in ipairs(list) do
    if not gone[m] then out[#out + 1] = m end
  end
  return out
end


--- Changes a schema's records alone: under its lock, by what is there now, in
-- one transaction.
---@param make fun(unit): string[]|nil, mtenant.error?  the statements
---@return boolean|table|nil  true; M.LOCKED: another runner has it
---@return mtenant.error|nil err
function M.change(session, unit, make)
  local got, err = session:value("SELECT pg_catalog.pg_try_advisory_lock($1, $2)",
                                 unit.lock[1], unit.lock[2])
  if err then return nil, err end
  if not got then return LOCKED end
  local ok, list, _
  ok, err = reread(session, unit)
  if ok then list, err = make(unit) end
  if list and #list > 0 then
    _, err = session:exec("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\n"
      .. table.concat(list, ";\n") .. ";\nCOMMIT")
  end
  give_up(session, unit)
  if err then return nil, err end
  return true
end


--- Brings a unit up to date, or takes its newest migrations back.
---@param session table  a handle of db:session
---@param unit mtenant.migrator.Unit
---@param choose fun(plan): mtenant.Migration[], mtenant.error?  what to run
---@param way "up"|"down"
---@return boolean|table|nil  true; M.LOCKED: another runner has it
---@return mtenant.error|nil err
function M.run(session, unit, choose, way)
  local try = 0
  local list, err = choose(unit.plan)
  if not list then return nil, err end
  unit.together = may_share(unit, list, way)
  while #list > 0 do
    local what, failed
    what, err, failed = run_list(session, unit, list, way)
    if not what then return true end
    if what == "locked" then
      roll_back(session)
      return LOCKED
    elseif what == "changed" then
      roll_back(session)
      unit.locked, unit.together = true, false
      local ok
      ok, err = reread(session, unit)
      if ok then list, err = choose(unit.plan) end
      if not ok or not list then
        give_up(session, unit)
        return nil, err
      end
    elseif what == "file" and unit.together and err.sqlstate
      and err.code ~= "cancelled" then
      -- each by itself: what comes before the one that fails stays
      roll_back(session)
      unit.together = false
    else
      if not (AGAIN[err.sqlstate or ""] and (not failed or failed.transaction)
              and try < LOCK_TRIES) then
        give_up(session, unit)
        unit.locked = false
        return nil, err
      end
      roll_back(session)
      local _, stop = pause(unit, try)
      if stop then return nil, stop end
      try = try + 1
      list = drop_done(list, unit.done)
    end
  end
  if unit.locked then give_up(session, unit) end
  return true
end


return M
