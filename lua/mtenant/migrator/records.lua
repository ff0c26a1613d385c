--- Records alone: status, what is out of sync, marking without running, taking
-- records away, taking migrations back, and another format for the tables.
-- Part of the migrator.

local apply = require "mtenant.migrator.apply"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local formats = require "mtenant.migrator.formats"
local plan_of = require "mtenant.migrator.plan"
local results_of = require "mtenant.migrator.results"
local script = require "mtenant.migrator.script"


local concat, format = table.concat, string.format
local ident, literal = core.quote_ident, core.quote_literal


local M = {}


-- CREATE TABLE where there is none, then the statements.
local function with_table(unit, list)
  if #list == 0 or unit.has_table then return list end
  table.insert(list, 1, formats.create_sql(
    formats.qualified(unit.schema, unit.tracking), unit.shape))
  return list
end


local function pick(list, name)
  if not name then return list end
  for _, m in ipairs(list) do
    if m.name == name then return { m } end
  end
  return {}
end


--- How a run only records what is pending (or one migration of it).
---@param name? string
---@param prepare function  makes the side table
function M.mark(name, prepare)
  return {
    prepare = prepare,
    select = function(unit)
      if name and not unit.migrations.by_name[name] then
        return nil, errors.new("policy", format(
          "there is no migration %s", name), { tenant_id = unit.id })
      end
      return pick(unit.plan.pending, name)
    end,
    action = function(session, unit)
      return apply.change(session, unit, function()
        local picked = pick(unit.plan.pending, name)
        for _, m in ipairs(picked) do unit.done[#unit.done + 1] = m end
        local list = #picked > 0 and { script.record(unit, picked) } or {}
        return with_table(unit, list)
      end)
    end,
  }
end


-- ---- status ------------------------------------------------------------

local function status_of(unit)
  local out = { tenant_id = unit.id, schema_name = unit.schema,
                applied_count = 0, pending_count = 0,
                pending_migrations = {}, edited = {},
                status = "error", error = unit.error }
  local plan = unit.plan
  if unit.error or not plan then return out end
  out.applied_count, out.pending_count = #plan.applied, #plan.pending
  out.pending_migrations = plan_of.names(plan.pending)
  out.edited = plan.edited
  out.format = unit.has_table and unit.shape.format or nil
  out.error = plan.problem
  out.status = plan.problem and "error" or #plan.pending > 0 and "behind" or "ok"
  return out
end


local function sync_of(unit)
  local out = { tenant_id = unit.id, schema_name = unit.schema,
                missing = {}, orphans = {}, in_sync = false,
                error = unit.error }
  local plan = unit.plan
  if unit.error or not plan then return out end
  out.missing = plan_of.names(plan.pending)
  out.orphans = plan.orphans
  out.in_sync = #plan.pending == 0 and #plan.orphans == 0
  out.format = unit.has_table and unit.shape.format or nil
  return out
end


-- ---- orphans, formats ------------------------------------------------------

local CLEAN = {
  list_name = "removed_orphans",
  select = function(unit)
    local out = {}
    for i, id in ipairs(unit.plan.orphans) do out[i] = { name = id } end
    return out
  end,
  action = function(session, unit)
    return apply.change(session, unit, function()
      local orphans = unit.plan.orphans
      if #orphans == 0 then return {} end
      for _, m in ipairs(unit.wanted) do unit.done[#unit.done + 1] = m end
      return { script.forget(unit, nil, orphans) }
    end)
  end,
}


-- The table made anew in the other format, its rows in their order. A record
-- of no file can't be told in the other's terms and stays as it is: both
-- programs take a name for a hash.
local function convert_sql(unit, to)
  local where = formats.qualified(unit.schema, unit.tracking)
  local old, new = unit.shape, formats.NEW[to]
  local aside = ident(unit.tracking .. "_old")
  local id = "o." .. old.id
  local values = {}
  for _, m in ipairs(unit.migrations) do
    local from, into = m.checksum, m.name
    if new.id == "hash" then from, into = m.name, m.checksum end
    values[#values + 1] = format("(%s, %s)", literal(from), literal(into))
  end
  if old.id ~= new.id and #values > 0 then
    id = format("coalesce((SELECT v.b FROM (VALUES %s) v (a, b) WHERE v.a = %s)"
      .. ", %s)", concat(values, ", "), id, id)
  end
  local time = old.time and "o." .. old.time or "pg_catalog.now()"
  if old.time and old.ms and not new.ms then
    time = format("pg_catalog.to_timestamp(%s / 1000.0)", time)
  elseif not (old.time and old.ms) and new.ms then
    time = format("(pg_catalog.date_part('epoch', %s) * 1000)::int8", time)
  end
  -- the old one goes before the new one comes: names of its index and sequence
  return {
    format("CREATE TEMP TABLE %s ON COMMIT DROP AS SELECT * FROM %s", aside,
           where),
    "DROP TABLE " .. where,
    formats.create_sql(where, new),
    format("INSERT INTO %s (%s, %s) SELECT %s, %s FROM pg_temp.%s o ORDER BY "
      .. "o.id", where, new.id, new.time, id, time, aside),
  }
end


local function convert(to)
  return {
    list_name = "converted",
    exclusive = true,
    select = function(unit)
      if not unit.has_table or unit.shape.format == to then return {} end
      return { { name = unit.tracking, transaction = true } }
    end,
    action = function(session, unit)
      return apply.change(session, unit, function()
        if not unit.has_table or unit.shape.format == to then return {} end
        unit.touched = true -- the temporary table's
        local list = convert_sql(unit, to)
        unit.shape = formats.NEW[to]
        unit.done[1] = unit.wanted[1]
        return list
      end)
    end,
  }
end


-- ---- back ------------------------------------------------------------

-- The newest ones that are applied, newest first: so many, or down to a name.
local function choose_back(o)
  return function(plan)
    local out, found = {}, false
    for i = #plan.applied, 1, -1 do
      local m = plan.applied[i]
      if o.to and m.name == o.to then
        found = true
        break
      end
      if not o.to and #out == (o.steps or 1) then break end
      if not m.down then
        return nil, errors.new("policy", m.name .. " has no down part")
      end
      out[#out + 1] = m
    end
    if o.to and not found then
      return nil, errors.new("policy", o.to .. " has not been applied")
    end
    return out
  end
end


-- A run that was cut off must not take back more than it was to.
local function back(o)
  local choose = choose_back(o)
  return {
    list_name = "reverted_migrations",
    kind = "tenant",
    select = function(unit) return choose(unit.plan) end,
    action = function(session, unit)
      local function again(plan)
        local there, out = {}, {}
        for _, m in ipairs(plan.applied) do there[m] = true end
        for _, m in ipairs(unit.wanted) do
          if there[m] then out[#out + 1] = m end
        end
        return out
      end
      return apply.run(session, unit, again, "down")
    end,
  }
end


-- ---- methods ------------------------------------------------------------

--- Adds the methods to a migrator's.
---@param inside table  what migrator.lua shares
function M.install(methods, inside)
  local SHARED = inside.SHARED

  local function read(self, ids, kind)
    local migrations, err = inside.load_files(self, kind)
    if not migrations then return nil, err end
    return inside.read_units(self, ids, kind, migrations)
  end

  local function all_or(self, o)
    if o and o.tenants then return inside.check_ids(o.tenants, "tenants") end
    return self:discover()
  end

  local function run(self, ids, o, spec, kind)
    local units, err = read(self, ids, kind)
    if not units then return nil, err end
    return inside.execute(self, units, o, spec)
  end

  local function single(self, id, o, spec, kind)
    local result, err = inside.first(run(self, { id }, o, spec, kind))
    return result or results_of.failed(id, err)
  end

  local function checked(o) return inside.run_options:check(o or {}, 3) end


  --- How far each tenant is; reads only.
  ---@param o? table  tenants: ids instead of all
  ---@return table[]|nil list  tenant_id, schema_name, status ("ok", "behind",
  --- "error"), applied_count, pending_count, pending_migrations, edited, format
  ---@return mtenant.error|nil err
  function methods:get_status(o)
    local ids, err = all_or(self, o)
    if not ids then return nil, err end
    local units
    units, err = read(self, ids)
    if not units then return nil, err end
    local out = {}
    for i, unit in ipairs(units) do out[i] = status_of(unit) end
    return out
  end


  --- How far one tenant is.
  function methods:get_tenant_status(id)
    local units, err = read(self, { id })
    if not units then return nil, err end
    return status_of(units[1])
  end


  --- How far the shared schema is.
  function methods:get_shared_status()
    local units, err = read(self, { SHARED }, SHARED)
    if not units then return nil, err end
    return status_of(units[1])
  end


  --- Which records and files have no counterpart.
  ---@return table|nil { total, in_sync, out_of_sync, error, details }
  function methods:get_sync_status(o)
    local ids, err = all_or(self, o)
    if not ids then return nil, err end
    local units
    units, err = read(self, ids)
    if not units then return nil, err end
    local out = { total = #units, in_sync = 0, out_of_sync = 0, error = 0,
                  details = {} }
    for i, unit in ipairs(units) do
      local one = sync_of(unit)
      out.details[i] = one
      local count = one.error and "error" or one.in_sync and "in_sync"
        or "out_of_sync"
      out[count] = out[count] + 1
    end
    return out
  end


  --- Records what is pending (or one of it) without running it.
  ---@param o? table  name: of a migration
  function methods:mark_as_applied(id, o)
    o = checked(o)
    o.mark_applied = true
    return self:migrate_tenant(id, o)
  end

  function methods:mark_all_as_applied(o)
    o = checked(o)
    o.mark_applied = true
    return self:migrate_all(o)
  end

  function methods:mark_shared_as_applied(o)
    o = checked(o)
    o.mark_applied = true
    return self:migrate_shared(o)
  end


  -- drizzle-multitenant's names for the lists
  local function sync_result(result, list)
    return { tenant_id = result.tenant_id, schema_name = result.schema_name,
             success = result.success, error = result.error,
             duration_ms = result.duration_ms,
             marked_migrations = list == "marked" and result.applied_migrations
               or {},
             removed_orphans = list == "removed" and result.removed_orphans
               or {} }
  end

  local function sync_results(results, err, list)
    if not results then return nil, err end
    for i, result in ipairs(results.details) do
      results.details[i] = sync_result(result, list)
    end
    return results
  end


  --- Records files that have no record.
  function methods:mark_missing(id)
    return sync_result(self:mark_as_applied(id), "marked")
  end

  function methods:mark_all_missing(o)
    local results, err = self:mark_all_as_applied(o)
    return sync_results(results, err, "marked")
  end


  --- Takes away records that have no file.
  function methods:clean_orphans(id)
    return sync_result(single(self, id, checked(), CLEAN), "removed")
  end

  ---@param o? table  tenants: ids instead of all; concurrency, on_progress ...
  function methods:clean_all_orphans(o)
    o = checked(o)
    local ids, err = all_or(self, o)
    if not ids then return nil, err end
    local results
    results, err = run(self, ids, o, CLEAN)
    return sync_results(results, err, "removed")
  end


  local function check_format(to)
    if type(to) ~= "string" or not formats.NEW[to] then
      errors.misuse(3, 'convert_format: format must be "name", "hash" or '
        .. '"drizzle-kit"')
    end
  end


  --- Gives a tenant's tracking table another format; its records stay.
  ---@param to "name"|"hash"|"drizzle-kit"
  ---@param o? table  dry_run
  function methods:convert_format(id, to, o)
    check_format(to)
    return single(self, id, checked(o), convert(to))
  end

  ---@param o? table  tenants: ids instead of all; concurrency, dry_run ...
  function methods:convert_all_formats(to, o)
    check_format(to)
    o = checked(o)
    local ids, err = all_or(self, o)
    if not ids then return nil, err end
    return run(self, ids, o, convert(to))
  end


  --- Takes the newest migrations back by their down parts.
  ---@param o? table  steps = 1, or to: name of the one that stays
  function methods:rollback_tenant(id, o)
    o = checked(o)
    return single(self, id, o, back(o))
  end

  function methods:rollback_tenants(ids, o)
    o = checked(o)
    return run(self, inside.check_ids(ids, "rollback_tenants"), o, back(o))
  end

  function methods:rollback_all(o)
    local ids, err = self:discover()
    if not ids then return nil, err end
    return self:rollback_tenants(ids, o)
  end
end


return M
