--- Tenants come and go, and get their first rows. Part of the migrator.

local core = require "mtenant.core"
local each = require "mtenant.each"
local errors = require "mtenant.errors"
local locks = require "mtenant.migrator.locks"
local manager = require "mtenant.manager"
local markers = require "mtenant.markers"
local results_of = require "mtenant.migrator.results"
local schema = require "mtenant.schema"


local format, ident = string.format, core.quote_ident


local SEEDS_AT_ONCE = 10 -- also for "auto"
local LOCKS_AT_ONCE = 2000 -- at most, of one DROP


local create_options = schema.new({
  name = "create_tenant",
  { "migrate", kind = "boolean", default = true },
})

local drop_options = schema.new({
  name = "drop_tenant",
  { "cascade", kind = "boolean", default = true },
})

local M = {}


local EXISTS_SQL = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace "
  .. "WHERE nspname = $1::pg_catalog.name)"

-- What a schema has that DROP locks: partitions ahead of their tables, and what
-- each takes of the lock table, its indexes, sequences, TOAST and constraints
-- included.
local RELATIONS_SQL = [[
  SELECT c.relname::pg_catalog.text AS name,
    CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
      WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END
      AS kind,
    (SELECT pg_catalog.count(*) + 4 FROM pg_catalog.pg_index i
     WHERE i.indrelid = c.oid)
    + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_depend d
       WHERE d.refobjid = c.oid
         AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
         AND d.deptype IN ('n', 'a', 'i')) AS locks
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $1::pg_catalog.name
    AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    -- neither an extension's nor a column's sequence
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
      WHERE d.objid = c.oid
        AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
  ORDER BY c.relkind <> 'v', c.relkind <> 'm', NOT c.relispartition,
    c.relkind = 'S', 1]]

-- A quarter of the lock table: others need some of it, too.
local ROOM_SQL = [[
  SELECT pg_catalog.current_setting('max_locks_per_transaction')::pg_catalog.int8
    * (pg_catalog.current_setting('max_connections')::pg_catalog.int8
       + pg_catalog.current_setting('max_prepared_transactions')
           ::pg_catalog.int8) / 4]]

local OID_SQL = "SELECT oid::pg_catalog.int8 FROM pg_catalog.pg_namespace "
  .. "WHERE nspname = $1::pg_catalog.name"

local LIST_SQL = "SELECT nspname::pg_catalog.text AS name FROM "
  .. "pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname NOT IN "
  .. "('information_schema', 'mtenant') AND ($1::pg_catalog.text IS NULL OR "
  .. "nspname LIKE $1) ORDER BY 1"


local function drop_sql(schema_name, kind, names)
  local list = {}
  for i, name in ipairs(names) do list[i] = ident(schema_name) .. "." .. ident(name) end
  return format("DROP %s IF EXISTS %s CASCADE", kind, table.concat(list, ", "))
end


-- The statements that empty a schema, each with no more locks than there is
-- room for; none where one DROP SCHEMA has room.
local function drops(schema_name, rows, room)
  local out, names, kind, locks_taken, all = {}, {}, nil, 0, 0
  local function flush()
    if #names > 0 then out[#out + 1] = drop_sql(schema_name, kind, names) end
    names, locks_taken = {}, 0
  end
  for _, row in ipairs(rows) do
    if row.kind ~= kind or locks_taken + row.locks > room then flush() end
    kind, locks_taken = row.kind, locks_taken + row.locks
    all = all + row.locks
    names[#names + 1] = row.name
  end
  flush()
  return all > room and out or {}
end


-- A schema with more in it than the server's lock table has room for goes in
-- several transactions; who is interrupted drops the rest the next time.
local function drop_relations(session, name)
  local room, err = session:value(ROOM_SQL)
  if err then return nil, err end
  local rows
  rows, err = session:query(RELATIONS_SQL, name)
  if not rows then return nil, err end
  for _, sql in ipairs(drops(name, rows, math.min(room, LOCKS_AT_ONCE))) do
    local _
    _, err = session:query(sql)
    if err then return nil, err end
  end
  return true
end


local function forget_checksums(session, name)
  local there, err = session:value("SELECT pg_catalog.to_regclass("
    .. "'mtenant.checksums') IS NOT NULL")
  if err then return nil, err end
  if not there then return true end
  local _
  _, err = session:query("DELETE FROM mtenant.checksums WHERE schema_name = $1",
                         name)
  return not err or nil, err
end


local function drop(session, unit, cascade, tracking)
  local oid, err = session:value(OID_SQL, unit.schema)
  if err then return nil, err end
  if oid then
    local keys = locks.of_schema(tracking, oid)
    local got
    got, err = session:value("SELECT pg_catalog.pg_try_advisory_lock($1, $2)",
                             keys[1], keys[2])
    if err then return nil, err end
    if not got then
      return nil, errors.new("timeout", format('schema "%s" is being migrated '
        .. "by %s", unit.schema, locks.holder(session, keys)),
        { tenant_id = unit.id })
    end
    if cascade then
      local ok
      ok, err = drop_relations(session, unit.schema)
      if not ok then return nil, err end
    end
    local _
    _, err = session:query(format("DROP SCHEMA IF EXISTS %s %s",
      ident(unit.schema), cascade and "CASCADE" or "RESTRICT"))
    if err then return nil, err end
  end
  return forget_checksums(session, unit.schema)
end


-- ---- seeds ------------------------------------------------------------

local function seed_result(id, started, schema_name, err)
  return { tenant_id = id, schema_name = schema_name or "", error = err,
           success = err == nil, applied_migrations = {},
           duration_ms = core.now_ms() - started }
end


-- In a transaction: a seed that fails leaves nothing behind.
local function seed(own, id, fn, shared)
  local started = core.now_ms()
  local db, err
  if shared then db, err = own:get_shared_db_async()
  else db, err = own:get_db_async(id) end
  if not db then return seed_result(id, started, nil, err) end
  local ok, done, why = pcall(db.transaction, db, function(tx)
    local value, problem = fn(tx, id)
    if value == nil and problem ~= nil then return nil, problem end
    return true
  end)
  if not ok then done, why = nil, done end
  return seed_result(id, started, db:schema(),
    not done and errors.wrap(why, "query") or nil)
end


local function progress(o, id, status, result)
  if o.on_progress then pcall(o.on_progress, id, status, nil, result) end
end


--- Adds the methods to a migrator's.
---@param inside table  what migrator.lua shares
function M.install(methods, inside)

  local seed_options = schema.new({
    name = "seed",
    { "concurrency", default = SEEDS_AT_ONCE, check = inside.check_concurrency },
    { "on_progress", kind = "function" },
    { "on_error", kind = "function" },
  })

  local function where(self, id)
    local target, name = self.targets:find(id)
    if not target then return nil, name end
    return target, inside.new_unit(self, id, target, name)
  end


  --- Makes a tenant's schema, and brings it up to date.
  ---@param id string
  ---@param o? table  migrate = true
  ---@return table result  of the migration; not a success where it has failed
  function methods:create_tenant(id, o)
    o = create_options:check(o or {}, 2)
    local started = core.now_ms()
    if o.migrate then -- what is wrong with the files is known before
      local ok, err = inside.load_files(self)
      if not ok then return results_of.failed(id, err) end
    end
    local target, unit = where(self, id)
    if not target then return results_of.failed(id, unit) end
    local _, err = target.db:query("CREATE SCHEMA IF NOT EXISTS "
                                   .. ident(unit.schema))
    if err then return results_of.failed(id, err) end
    if o.migrate then return self:migrate_tenant(id) end
    return { tenant_id = id, schema_name = unit.schema, success = true,
             applied_migrations = {},
             duration_ms = core.now_ms() - started }
  end


  --- Drops a tenant's schema with all that is in it, and what is remembered of
  --- its migrations. A schema that is not there is no error.
  ---@param o? table  cascade = true
  ---@return boolean|nil ok
  ---@return mtenant.error|nil err
  function methods:drop_tenant(id, o)
    o = drop_options:check(o or {}, 2)
    local target, unit = where(self, id)
    if not target then return nil, unit end
    self.targets:forget(id)
    return target.db:session(function(session)
      return drop(session, unit, o.cascade, unit.tracking)
    end)
  end


  --- Is the tenant's schema there?
  ---@return boolean|nil
  function methods:tenant_exists(id)
    local target, unit = where(self, id)
    if not target then return nil, unit end
    return target.db:value(EXISTS_SQL, unit.schema)
  end


  --- The schemas of the database, but the server's and mtenant's own.
  ---@param like? string  a pattern of LIKE
  ---@return string[]|nil
  function methods:list_schemas(like)
    local target, err = self.targets:shared()
    if not target then return nil, err end
    local rows
    rows, err = target.db:query(LIST_SQL, like or markers.null)
    if not rows then return nil, err end
    local out = {}
    for i, row in ipairs(rows) do out[i] = row.name end
    return out
  end


  -- the manager of seeds: they run in the tenants' own scope
  local function seeds(self)
    if self.seeder then return self.seeder end
    local err
    local cfg = {}
    for key, value in pairs(self.config) do cfg[key] = value end
    cfg.migrations = nil
    self.seeder, err = manager.create(cfg)
    return self.seeder, err
  end


  --- Calls fn(db, id) for a tenant, in a transaction of its.
  ---@return table result
  function methods:seed_tenant(id, fn)
    local own, err = seeds(self)
    if not own then return results_of.failed(id, err) end
    return seed(own, id, fn)
  end


  --- As seed_tenant, for several at a time.
  ---@param o? table  concurrency = 10, on_progress, on_error
  ---@return table|nil results
  function methods:seed_tenants(ids, fn, o)
    o = seed_options:check(o or {}, 2)
    ids = inside.check_ids(ids, "seed_tenants")
    local own, err = seeds(self)
    if not own then return nil, err end
    local started, aborted = core.now_ms(), false
    local at_a_time = tonumber(o.concurrency) or SEEDS_AT_ONCE
    local details, errs = each(ids, at_a_time, function(id)
      if aborted then
        local skipped = results_of.skipped(id)
        progress(o, id, "skipped", skipped)
        return skipped
      end
      progress(o, id, "starting")
      local result = seed(own, id, fn)
      progress(o, id, result.success and "completed" or "failed", result)
      if not result.success and o.on_error then
        local ok, answer = pcall(o.on_error, id, result.error)
        aborted = aborted or not ok or answer == "abort"
      end
      return result
    end)
    if not details then return nil, errs end
    details.n = nil
    return results_of.sum(details, core.now_ms() - started)
  end

  function methods:seed_all(fn, o)
    local ids, err = self:discover()
    if not ids then return nil, err end
    return self:seed_tenants(ids, fn, o)
  end


  --- Calls fn(db) for the shared schema, in a transaction.
  function methods:seed_shared(fn)
    local own, err = seeds(self)
    if not own then return results_of.failed(inside.SHARED, err) end
    return seed(own, inside.SHARED, fn, true)
  end

  function methods:seed_all_with_shared(shared_fn, fn, o)
    local shared = self:seed_shared(shared_fn)
    if not shared.success then
      return { shared = shared, tenants = results_of.sum({}, 0) }
    end
    local results, err = self:seed_all(fn, o)
    if not results then return nil, err end
    return { shared = shared, tenants = results }
  end
end


return M
