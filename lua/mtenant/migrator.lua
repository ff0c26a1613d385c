--- The migrator: brings the schemas of all tenants to what a folder of
-- migrations says. This file has its options, the reading of states and the
-- runs; what else it can do is in mtenant/migrator/.

local apply = require "mtenant.migrator.apply"
local config = require "mtenant.config"
local core = require "mtenant.core"
local each = require "mtenant.each"
local errors = require "mtenant.errors"
local files = require "mtenant.migrator.files"
local ids_of = require "mtenant.migrator.ids"
local lazy = require "mtenant.migrator.lazy"
local locks = require "mtenant.migrator.locks"
local plan_of = require "mtenant.migrator.plan"
local records = require "mtenant.migrator.records"
local results_of = require "mtenant.migrator.results"
local rings = require "mtenant.migrator.rings"
local run = require "mtenant.migrator.run"
local schema = require "mtenant.schema"
local state = require "mtenant.migrator.state"
local targets = require "mtenant.migrator.targets"
local task = require "mtenant.task"
local tenants = require "mtenant.migrator.tenants"


local format, ipairs = string.format, ipairs


local FORMATS = { "auto", "name", "hash", "drizzle-kit" }
local NEW_FORMATS = { "name", "hash", "drizzle-kit" }
local READERS = 2
local MOST_CONNECTIONS = 16
local SHARED = run.SHARED


local options = schema.new({
  name = "create_migrator",
  prefix = "migrations.",
  { "migrations_folder", kind = "string" },
  { "tenant_folder", kind = "string" },
  { "migrations_table", kind = "string", default = "__drizzle_migrations" },
  { "tenant_discovery", kind = "function" },
  { "hooks.before_tenant", kind = "function" },
  { "hooks.after_tenant", kind = "function" },
  { "hooks.before_migration", kind = "function" },
  { "hooks.after_migration", kind = "function" },
  { "table_format", kind = "string", enum = FORMATS, default = "auto" },
  { "default_format", kind = "string", enum = NEW_FORMATS, default = "name" },
  { "shared_folder", kind = "string" },
  { "shared_migrations_folder", kind = "string" },
  { "shared_table", kind = "string" },
  { "shared_migrations_table", kind = "string" },
  { "shared_hooks.before_migration", kind = "function" },
  { "shared_hooks.after_migration", kind = "function" },
  { "shared_table_format", kind = "string", enum = FORMATS },
  { "shared_default_format", kind = "string", enum = NEW_FORMATS },
  { "url", kind = "string" },
  { "lock_timeout_ms", kind = "number", min = 1 },
  { "statement_timeout_ms", kind = "number", min = 1 },
  { "lock_wait_ms", kind = "number", min = 0, default = 60000 },
  { "substitute", kind = { "boolean", "table" }, default = false },
  { "allow_out_of_order", kind = "boolean", default = false },
  { "allow_duplicates", kind = "boolean", default = false },
  { "allow_unnumbered", kind = "boolean", default = false },
  { "allow_edited", kind = "boolean", default = false },
  { "checksums", kind = "boolean", default = true },
  { "migrate", kind = "string", enum = { "manual", "on_connect" },
    default = "manual" },
})


local function check_concurrency(value)
  if value == "auto" or value == nil then return nil end
  if type(value) ~= "number" or value ~= value or value < 1 or value > 1000
    or value ~= math.floor(value) then
    return '%s must be "auto" or an integer from 1 to 1000'
  end
end


local function check_manager(value)
  if value ~= nil and (type(value.pause) ~= "function"
                       or type(value.resume) ~= "function") then
    return "%s must be a manager"
  end
end


local run_options = schema.new({
  name = "migrate",
  { "concurrency", default = "auto", check = check_concurrency },
  { "dry_run", kind = "boolean", default = false },
  { "mark_applied", kind = "boolean", default = false },
  { "stop_on_error", kind = "boolean", default = false },
  { "phase", kind = "string", enum = { "expand", "contract" } },
  { "on_progress", kind = "function" },
  { "on_error", kind = "function" },
  { "steps", kind = "integer", min = 1 },
  { "to", kind = "string" },
  { "name", kind = "string" },
  { "tenants", kind = "strings" },
  { "rings", kind = "table" },
  { "gate", kind = "function" },
  { "max_failure_ratio", kind = "number", min = 0, max = 1 },
  { "pause", kind = "table", check = check_manager },
})


---@class mtenant.Migrator
local methods = {}
local mt = { __name = "mtenant.migrator", __index = methods }


-- ---- what is there ------------------------------------------------------------

-- The files of one kind; read anew each time, so that what has changed counts.
local function load_files(self, kind)
  local folder = kind == SHARED and self.opts.shared_folder
    or kind ~= SHARED and self.opts.migrations_folder
  if not folder then
    return nil, errors.new("policy", kind == SHARED
      and "shared migrations are not configured: set shared_folder"
      or "migrations are not configured: set migrations_folder")
  end
  return files.load(folder, self.opts)
end


-- A schema to work on, as apply.lua takes it.
local function new_unit(self, id, target, name, kind)
  local opts, shared = self.opts, kind == SHARED
  return {
    id = id, schema = name, target = target,
    tracking = shared and opts.shared_table or opts.migrations_table,
    format = shared and opts.shared_table_format or opts.table_format,
    default_format = shared and opts.shared_default_format
      or opts.default_format,
    search_path = shared and { "$tenant" } or self.config.isolation.search_path,
    opts = opts, done = {}, checksums = false,
  }
end


local function missing(unit)
  return errors.new("tenant_not_found", format('schema "%s" does not exist',
    unit.schema), { tenant_id = unit.id,
                    hint = "create_tenant, or `mtenant create`, makes it" })
end


-- Reads the chunks of one database over a few connections, and what is known
-- of the files' checksums.
local function read_target(self, target, units, migrations)
  local found, cache, chunks, plans = {}, {}, {}, {}
  local tracking = units[1].tracking
  for i, unit in ipairs(units) do
    local n = math.floor((i - 1) / state.CHUNK) + 1
    chunks[n] = chunks[n] or {}
    table.insert(chunks[n], unit.schema)
  end
  local _, errs = each(chunks, READERS, function(names)
    return state.read_chunk(target.db, names, tracking, found, cache)
  end)
  if errs then return nil, errs.code and errs or errs[next(errs)] end
  local has, err = false, nil
  if self.opts.checksums then has, err = state.has_checksums(target.db) end
  if err then return nil, err end
  if has then
    local ok
    ok, err = state.read_edited(target.db, migrations, tracking, found,
                                #units <= 20 and chunks[1] or nil)
    if not ok then return nil, err end
  end
  for _, unit in ipairs(units) do
    unit.migrations, unit.checksums = migrations, has
    local s = found[unit.schema]
    local ok
    if s then
      unit.lock = locks.of_schema(tracking, s.oid)
      ok, unit.error = apply.set_state(unit, s, plans)
      if ok then unit.error = nil end
    else
      unit.error = missing(unit)
    end
  end
  return true
end


-- The units of tenants, with their states; those that can't be done have an
-- error. `by_target` keeps their order.
local function read_units(self, ids, kind, migrations)
  local units, by_target, order = {}, {}, {}
  for i, id in ipairs(ids) do
    local target, name
    if kind == SHARED then target, name = self.targets:shared() else
      target, name = self.targets:find(id)
    end
    if kind == SHARED and target then name = "public" end
    if target then
      units[i] = new_unit(self, id, target, name, kind)
      if not by_target[target] then
        by_target[target] = {}
        order[#order + 1] = target
      end
      table.insert(by_target[target], units[i])
    else
      units[i] = { id = id, schema = "", error = name, done = {} }
    end
    local now = task.current()
    if now.cancelled then return nil, now.cancelled end
  end
  for _, target in ipairs(order) do
    local ok, err = read_target(self, target, by_target[target], migrations)
    if not ok then return nil, err end
  end
  return units
end


--- Asks `tenant_discovery`.
---@return string[]|nil ids
---@return mtenant.error|nil err
function methods:discover()
  return ids_of.discover(self)
end


-- ---- runs ------------------------------------------------------------

local CHECKSUMS_SQL = [[
  SELECT pg_catalog.pg_advisory_xact_lock(%d, 0);
  CREATE SCHEMA IF NOT EXISTS mtenant;
  CREATE TABLE IF NOT EXISTS mtenant.checksums (
    schema_name text NOT NULL, table_name text NOT NULL, name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (schema_name, table_name, name))]]


-- The side table of checksums, once per database.
local function ensure_checksums(self, queue)
  if not self.opts.checksums then return true end
  local there = true
  for _, job in ipairs(queue) do there = there and job.unit.checksums end
  if there then return true end
  local ok, err = queue.db:transaction(function(tx)
    local _, why = tx:exec(format(CHECKSUMS_SQL,
                                  locks.of_run("mtenant.checksums")[1]))
    return not why or nil, why
  end)
  if not ok then
    if err.sqlstate == "42501" then
      err = errors.new("policy", "the schema mtenant, for checksums, can't be "
        .. "made (checksums = false goes without): " .. err.message,
        { sqlstate = err.sqlstate, cause = err })
    end
    return nil, err
  end
  for _, job in ipairs(queue) do job.unit.checksums = true end
  return true
end


local function choose_pending(o)
  return function(plan)
    if plan.problem and #plan.pending > 0 then return nil, plan.problem end
    if plan.problem and #plan.edited > 0 then return nil, plan.problem end
    return plan_of.take(plan, o.phase)
  end
end


-- Runs what is pending of units that have been read.
local function bring_up(self, units, o, kind, started)
  local choose = choose_pending(o)
  return run.execute(self, units, o, {
    started = started, kind = kind or "tenant",
    prepare = function(queue) return ensure_checksums(self, queue) end,
    select = function(unit) return choose(unit.plan) end,
    action = function(session, unit)
      return apply.run(session, unit, choose, "up")
    end,
  })
end


-- Migrates the tenants; or, where it is asked to, only records.
local function migrate(self, ids, o, kind)
  local started = core.now_ms()
  local migrations, err = load_files(self, kind)
  if not migrations then return nil, err end
  local units
  units, err = read_units(self, ids, kind, migrations)
  if not units then return nil, err end
  if not o.mark_applied then return bring_up(self, units, o, kind, started) end
  return run.execute(self, units, o, records.mark(o.name, function(queue)
    return ensure_checksums(self, queue)
  end, kind))
end


local function in_rings(self, ids, o)
  if not o.rings then return migrate(self, ids, o) end
  return rings.run(ids, o, function(some) return migrate(self, some, o) end)
end


-- the result of a single one
local function first(results, err)
  if not results then return nil, err end
  local result = results.details[1]
  if result.skipped and results.error then result.error = results.error end
  return result
end


--- Brings one tenant up to date; never raises for what is wrong with it.
---@param id string
---@param o? table  dry_run, on_progress, phase, mark_applied
---@return table result  see docs/migrations.md
function methods:migrate_tenant(id, o)
  local result, err = first(migrate(self, ids_of.one(id, "migrate_tenant"),
                                    run_options:check(o or {}, 2)))
  return result or results_of.failed(id, err)
end


--- Brings tenants up to date, several at a time.
---@param ids string[]
---@param o? table  concurrency, dry_run, on_progress, on_error, stop_on_error,
--- phase, mark_applied, rings, gate, max_failure_ratio, pause
---@return table|nil results  total, succeeded, failed, skipped, details
---@return mtenant.error|nil err  what concerns them all
function methods:migrate_tenants(ids, o)
  return in_rings(self, ids_of.check(ids, "migrate_tenants"),
                  run_options:check(o or {}, 2))
end


--- As migrate_tenants, with all that `tenant_discovery` finds.
function methods:migrate_all(o)
  o = run_options:check(o or {}, 2)
  local ids, err = self:discover()
  if not ids then return nil, err end
  return in_rings(self, ids, o)
end


--- Brings the shared schema up to date.
---@param o? table  dry_run, mark_applied, on_progress(status, name)
---@return table result
function methods:migrate_shared(o)
  o = run_options:check(o or {}, 2)
  local tell = o.on_progress
  if tell then
    o.on_progress = function(_, status, name, result)
      return tell(status, name, result)
    end
  end
  local result, err = first(migrate(self, { SHARED }, o, SHARED))
  return result or results_of.failed(SHARED, err)
end


--- First the shared schema, then all tenants; these not if that failed.
---@return table { shared = result, tenants = results }
function methods:migrate_all_with_shared(o)
  local shared = self:migrate_shared({ dry_run = o and o.dry_run })
  if shared.success then
    local results, err = self:migrate_all(o)
    if not results then return nil, err end
    return { shared = shared, tenants = results }
  end
  local ids, err = self:discover()
  if not ids then return nil, err end
  return { shared = shared,
           tenants = results_of.all_skipped(ids, shared.error) }
end


--- The migrations of the folder, in order.
---@return table[]|nil list  { name, number, kind, path, checksum, transaction,
--- has_down }
function methods:get_migrations()
  local list, err = load_files(self)
  if not list then return nil, err end
  local out = {}
  for i, m in ipairs(list) do
    out[i] = { name = m.name, number = m.number, kind = m.kind, path = m.path,
               checksum = m.checksum, transaction = m.transaction,
               phase = m.phase, has_down = m.down ~= nil }
  end
  return out
end


--- Closes the migrator's connections; waits. Idempotent.
---@param timeout_ms? number  as for a manager's
function methods:dispose(timeout_ms)
  self.targets:dispose(timeout_ms)
  if self.seeder then self.seeder:dispose(timeout_ms) end
  self.seeder = nil
end


local M = {}


--- Makes a migrator; no I/O. Raises misuse for wrong options.
---@param cfg table  the configuration of a manager
---@param opts table  see docs/migrations.md
---@return mtenant.Migrator
function M.create(cfg, opts)
  task.prepare()
  opts = options:check(opts or {}, 2)
  opts.migrations_folder = opts.migrations_folder or opts.tenant_folder
  opts.shared_folder = opts.shared_folder or opts.shared_migrations_folder
  opts.shared_table = opts.shared_table or opts.shared_migrations_table
    or "__drizzle_shared_migrations"
  opts.shared_table_format = opts.shared_table_format or opts.table_format
  opts.shared_default_format = opts.shared_default_format or opts.default_format
  opts.connections = MOST_CONNECTIONS
  local self = setmetatable({ opts = opts }, mt)
  self.config = config.define(cfg, { level = 3 })
  opts.route_of = function(id) return lazy.route_of(self, id) end
  self.targets = targets.new(self.config, opts, setmetatable({}, {
    __index = function(_, key)
      if key ~= "shared" then return nil end
      local target = self.targets:shared()
      return target and target.db
    end,
  }))
  return self
end


local inside = { load_files = load_files, read_units = read_units,
                 execute = run.execute, ensure_checksums = ensure_checksums,
                 bring_up = bring_up,
                 first = first, check_ids = ids_of.check,
                 run_options = run_options,
                 check_concurrency = check_concurrency, new_unit = new_unit,
                 SHARED = SHARED }
records.install(methods, inside)
tenants.install(methods, inside)
lazy.install(methods, inside)


return M
