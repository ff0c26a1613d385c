--- Roles: what `isolation.role_template` needs to find on the server.
--
-- `create` gives a tenant a role with rights on its schema alone, `drop` takes
-- it away, `check` looks for what would make roles worthless. They work on any
-- handle whose login may do such things (the owner of the schemas, with
-- CREATEROLE), compare what is there with what is wanted, and run only what
-- makes a difference, in one transaction. They never drop a tenant's data.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local markers = require "mtenant.markers"
local review = require "mtenant.roles_check"
local schema = require "mtenant.schema"
local task = require "mtenant.task"


local array, null = markers.array, markers.null
local concat, format, ident = table.concat, string.format, core.quote_ident


local NAME_MAX = 63 -- the server cuts longer ones off, without an error
local TRIES = 8
local PAUSE_MS = 10

-- Somebody else has made the same role, or touched the same row of a catalog
-- (XX000: "tuple concurrently updated"; catalogs wait for no snapshot).
local SOMEBODY_ELSE = { ["23505"] = true, ["42710"] = true, ["40001"] = true,
                        ["40P01"] = true, ["XX000"] = true }

local NONE = { table = {}, sequence = {}, routine = {}, schema = {} }

-- No TRIGGER, REFERENCES or TRUNCATE: who may add a trigger to a table runs
-- code as whoever writes to it.
local WANTED = {
  ro = {
    table = { "SELECT" },
    sequence = { "SELECT" },
    routine = { "EXECUTE" },
  },
  rw = {
    table = { "SELECT", "INSERT", "UPDATE", "DELETE" },
    sequence = { "USAGE", "SELECT", "UPDATE" },
    routine = { "EXECUTE" },
  },
}

local KINDS = { "schema", "table", "sequence", "routine" } -- in this order

local create_options = schema.new({
  name = "roles.create",
  { "role", kind = "string", required = true },
  { "schema", kind = "string", required = true },
  { "login", kind = { "string", "strings" } },
  { "tables", kind = "string", enum = { "rw", "ro" }, default = "rw" },
  { "create", kind = "boolean", default = false },
  { "owner", kind = "string" },
})

local drop_options = schema.new({
  name = "roles.drop",
  { "role", kind = "string", required = true },
  { "schema", kind = "string" },
})

local check_options = schema.new({
  name = "roles.check",
  { "login", kind = "string", required = true },
  { "common", kind = "strings",
    default = function() return { "public" } end },
})


local ROLE_SQL = [[
  SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication
  FROM pg_catalog.pg_roles WHERE rolname = $1::name]]

local OWNER_SQL = [[
  SELECT r.rolname::text FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
  WHERE n.nspname = $1::name]]

-- inherit_option and set_option are there from PostgreSQL 16 on
local MEMBER_SQL = [[
  SELECT pg_catalog.count(*) AS n,
    pg_catalog.bool_or(coalesce((pg_catalog.to_jsonb(m)
      ->> 'inherit_option')::boolean, false)) AS inherits,
    pg_catalog.bool_or(coalesce((pg_catalog.to_jsonb(m)
      ->> 'set_option')::boolean, true)) AS may_set
  FROM pg_catalog.pg_auth_members m
  JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
  JOIN pg_catalog.pg_roles l ON l.oid = m.member
  WHERE r.rolname = $1::name AND l.rolname = $2::name]]

-- Everything in a schema ($2) on which a role's ($1) rights are not those that
-- are wanted ($3 to $6, by kind), and the rights that PUBLIC has on the schema.
-- `owner` is set where it is about what that owner will make: for $7, or for
-- all who have default privileges there.
local DIFFERENCE_SQL = [[
  WITH me AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1::name),
  ns AS (SELECT oid, nspname, nspowner, coalesce(nspacl,
           pg_catalog.acldefault('n', nspowner)) AS acl
         FROM pg_catalog.pg_namespace WHERE nspname = $2::name),
  kinds (kind, objtype, wanted) AS (
    VALUES ('schema', NULL, $3::text[]), ('table', 'r', $4::text[]),
           ('sequence', 'S', $5::text[]), ('routine', 'f', $6::text[])),
  objects (kind, name, owner, owned_by, acl) AS (
    SELECT 'schema', pg_catalog.quote_ident(nspname), NULL::name, nspowner, acl
    FROM ns
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END,
      pg_catalog.format('%I.%I', ns.nspname, c.relname), NULL, c.relowner,
      c.relacl
    FROM ns JOIN pg_catalog.pg_class c ON c.relnamespace = ns.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'routine', p.oid::regprocedure::text, NULL, p.proowner, p.proacl
    FROM ns JOIN pg_catalog.pg_proc p ON p.pronamespace = ns.oid
    UNION ALL
    SELECT k.kind, '', r.rolname, r.oid, d.defaclacl
    FROM ns CROSS JOIN kinds k CROSS JOIN pg_catalog.pg_roles r
    LEFT JOIN pg_catalog.pg_default_acl d ON d.defaclnamespace = ns.oid
      AND d.defaclrole = r.oid AND d.defaclobjtype::text = k.objtype
    WHERE k.objtype IS NOT NULL
      AND (r.rolname = $7::name OR ($7 IS NULL AND d.oid IS NOT NULL)))
  SELECT o.kind, o.name, o.owner::text AS owner,
    NOT k.wanted <@ g.granted AS missing, NOT g.granted <@ k.wanted AS extra
  FROM objects o JOIN kinds k USING (kind) CROSS JOIN me
  CROSS JOIN LATERAL (SELECT ARRAY(
    SELECT a.privilege_type FROM pg_catalog.aclexplode(o.acl) a
    WHERE a.grantee = me.oid) AS granted) g
  WHERE o.owned_by <> me.oid
    AND NOT (k.wanted <@ g.granted AND g.granted <@ k.wanted)
  UNION ALL
  SELECT 'public', '', NULL, false, true FROM ns
  WHERE EXISTS (SELECT FROM pg_catalog.aclexplode(ns.acl) a
                WHERE a.grantee = 0)
  ORDER BY 1, 2, 3]]


-- ---- names ------------------------------------------------------------------------

local function name_problem(name, reserved)
  if name == "" then return "it is empty" end
  if #name > NAME_MAX then return "it is longer than 63 bytes" end
  if not pcall(ident, name) then return "it is not valid UTF-8" end
  if name:sub(1, 3) == "pg_" or reserved[name] then return "it is reserved" end
  return nil
end


-- GRANT ... TO "public" is TO PUBLIC, quoted or not.
local RESERVED_ROLES = { public = true, none = true }
local RESERVED_SCHEMAS = { public = true, information_schema = true }


-- Names are made of tenant ids: a bad one is news of the world, not misuse.
local function role_error(name, what)
  local problem = name_problem(name, RESERVED_ROLES)
  if not problem then return nil end
  return errors.new("policy", format('%s: "%s" is no role name: %s', what,
                                     schema.printable(name, 80), problem))
end


local function schema_error(name)
  local problem = name_problem(name, RESERVED_SCHEMAS)
  if not problem then return nil end
  return errors.new("invalid_tenant_id", format(
    '"%s" is no schema of a tenant: %s', schema.printable(name, 80), problem))
end


local function check_handle(db, what)
  if type(db) ~= "table" or type(db.transaction) ~= "function" then
    errors.misuse(3, "%s: db must be a database handle, got %s", what,
                  type(db))
  end
end


-- ---- a run: statements on a transaction ----------------------------------------------

local run_methods = {}
local run_mt = { __index = run_methods }


-- raises its error: the transaction returns it
local function must(value, err)
  if err ~= nil then error(err, 0) end
  return value
end


function run_methods:one(sql, ...)
  return must(self.tx:one(sql, ...))
end


function run_methods:change(fmt, ...)
  local sql = format(fmt, ...)
  must(self.tx:query(sql))
  self.changes[#self.changes + 1] = sql
end


-- Two runs on one role, or on one schema, follow each other. Always in this
-- order, so that they don't wait in a circle; gone with the transaction.
function run_methods:lock(...)
  for i = 1, select("#", ...) do
    must(self.tx:query("SELECT pg_catalog.pg_advisory_xact_lock("
      .. "pg_catalog.hashtextextended($1, 0))", (select(i, ...))))
  end
end


-- In a transaction; again when somebody else was at it in the same moment, from
-- another database, say, where the locks are others.
local function run(db, fn)
  for try = 1, TRIES do
    local changes, err = db:transaction(function(tx)
      local self = setmetatable({ tx = tx, changes = {} }, run_mt)
      fn(self)
      return self.changes
    end)
    if changes then return changes end
    if try == TRIES or not SOMEBODY_ELSE[err.sqlstate or ""] then
      return nil, err
    end
    local slept, stop = task.sleep(PAUSE_MS * try)
    if not slept then return nil, stop end
  end
end


-- ---- rights -----------------------------------------------------------------------------

-- By kind and owner: what lacks something, what has too much.
local function difference(self, role, name, wanted, owner)
  local groups, public, n = {}, false, 0
  local rows = must(self.tx:query(DIFFERENCE_SQL, role, name,
    array(wanted.schema), array(wanted.table), array(wanted.sequence),
    array(wanted.routine), owner or null))
  for _, row in ipairs(rows) do
    if row.kind == "public" then
      public = true
    else
      local key = row.kind .. (row.owner and " " .. row.owner or "")
      local group = groups[key]
      if not group then
        group = { kind = row.kind, owner = row.owner, missing = {}, extra = {} }
        groups[key] = group
      end
      n = n + 1
      if row.extra then group.extra[#group.extra + 1] = row.name end
      -- what is revoked has to be granted anew
      group.missing[#group.missing + 1] = row.name
    end
  end
  return groups, public, n
end


local function sorted(groups)
  local order, out = {}, {}
  for i, kind in ipairs(KINDS) do order[kind] = i end
  for _, group in pairs(groups) do out[#out + 1] = group end
  table.sort(out, function(a, b)
    if a.kind ~= b.kind then return order[a.kind] < order[b.kind] end
    return (a.owner or "") < (b.owner or "")
  end)
  return out
end


local function change_objects(self, group, privileges, role)
  local kind = group.kind:upper()
  if #group.extra > 0 then
    self:change("REVOKE ALL ON %s %s FROM %s", kind, concat(group.extra, ", "),
                role)
  end
  if privileges ~= "" then
    self:change("GRANT %s ON %s %s TO %s", privileges, kind,
                concat(group.missing, ", "), role)
  end
end


local function change_defaults(self, group, privileges, role, name)
  local head = format("ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %s",
                      ident(group.owner), name)
  local kinds = group.kind:upper() .. "S"
  if #group.extra > 0 then
    self:change("%s REVOKE ALL ON %s FROM %s", head, kinds, role)
  end
  if privileges ~= "" then
    self:change("%s GRANT %s ON %s TO %s", head, privileges, kinds, role)
  end
end


local function change_rights(self, role, name, wanted, groups)
  for _, group in ipairs(sorted(groups)) do
    local privileges = concat(wanted[group.kind], ", ")
    if group.owner then
      change_defaults(self, group, privileges, ident(role), ident(name))
    else
      change_objects(self, group, privileges, ident(role))
    end
  end
end


-- Where the handle's login has no right to give, the server may just warn.
local function verify(self, role, name, wanted, owner)
  local groups, _, n = difference(self, role, name, wanted, owner)
  if n == 0 then return end
  local key, group = next(groups)
  error(errors.new("policy", format(
    'the rights of role "%s" on %d objects in schema "%s" cannot be set, '
    .. "%s %s first: they belong to somebody else", role, n, name, key,
    group.missing[1])), 0)
end


local function set_rights(self, opts, wanted, owner)
  local role, name = opts.role, opts.schema
  local groups, public, n = difference(self, role, name, wanted, owner)
  if public and wanted ~= NONE then
    self:change("REVOKE ALL ON SCHEMA %s FROM PUBLIC", ident(name))
  end
  if n == 0 then return end
  change_rights(self, role, name, wanted, groups)
  verify(self, role, name, wanted, owner)
end


-- ---- create, drop, check -------------------------------------------------------------------

-- A tenant's role is an ordinary one: a login of its own is fine (dedicated
-- mode), what reaches beyond its rights is not.
local POWERS = { "rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb",
                 "rolreplication" }


local function find_role(self, role)
  local row = self:one(ROLE_SQL, role)
  for _, power in ipairs(row and POWERS or {}) do
    if row[power] then
      error(errors.new("policy", format('role "%s" is no tenant\'s role: it is '
        .. "%s", role, power:sub(4):upper())), 0)
    end
  end
  return row ~= nil
end


local function grant_to(self, role, login)
  local row = self:one(MEMBER_SQL, role, login)
  if row.n > 0 and row.may_set and not row.inherits then return end
  local version = must(self.tx:value(
    "SELECT pg_catalog.current_setting('server_version_num')::int"))
  self:change("GRANT %s TO %s%s", ident(role), ident(login),
              version >= 160000 and " WITH INHERIT FALSE, SET TRUE" or "")
end


local function wanted_of(opts)
  local kinds = WANTED[opts.tables]
  return {
    table = kinds.table, sequence = kinds.sequence, routine = kinds.routine,
    schema = opts.create and { "USAGE", "CREATE" } or { "USAGE" },
  }
end


local function no_schema(name)
  return errors.new("tenant_not_found",
                    format('schema "%s" does not exist', name))
end


local function create(self, opts, logins)
  self:lock("mtenant schema " .. opts.schema, "mtenant role " .. opts.role)
  local owner = must(self.tx:value(OWNER_SQL, opts.schema))
  if not owner then error(no_schema(opts.schema), 0) end
  if not find_role(self, opts.role) then
    self:change("CREATE ROLE %s NOLOGIN NOINHERIT", ident(opts.role))
  end
  set_rights(self, opts, wanted_of(opts), opts.owner or owner)
  for _, login in ipairs(logins) do grant_to(self, opts.role, login) end
end


local function create_name_error(opts, logins)
  local err = role_error(opts.role, "role") or schema_error(opts.schema)
    or opts.owner and role_error(opts.owner, "owner")
  for _, login in ipairs(logins) do
    err = err or role_error(login, "login")
    if login == opts.role then
      err = err or errors.new("policy", format(
        'login "%s" is the role itself', login))
    end
  end
  return err or nil
end


local M = {}


--- Waits. Makes a tenant's role, NOLOGIN and NOINHERIT, or sets the rights of
-- one that is there: to use the schema, its tables, sequences and routines,
-- and what its owner makes in it later. PUBLIC loses its rights on the schema.
-- Run again it changes nothing; two at once are fine.
---@param db mtenant.Db  the schema's owner, with CREATEROLE
---@param opts table  { role =, schema =, login = string or list (is granted
--  the role), tables = "rw"|"ro", create = false (CREATE on the schema),
--  owner = (default: the schema's) whose later tables it may use }
---@return string[]|nil changes  the statements that were run
---@return mtenant.error|nil err
function M.create(db, opts)
  check_handle(db, "roles.create")
  opts = create_options:check(opts, 2)
  local logins = opts.login or {}
  if type(logins) == "string" then logins = { logins } end
  local err = create_name_error(opts, logins)
  if err then return nil, err end
  return run(db, function(self) create(self, opts, logins) end)
end


--- Waits. Takes a role's rights in a schema away, and drops the role. Fails
-- (2BP01), changing nothing, when it owns something or has other rights. No
-- such role, or no such schema any more: nothing to do there.
---@param db mtenant.Db
---@param opts table  { role =, schema = }
---@return string[]|nil changes  the statements that were run
---@return mtenant.error|nil err
function M.drop(db, opts)
  check_handle(db, "roles.drop")
  opts = drop_options:check(opts, 2)
  local err = role_error(opts.role, "role")
    or opts.schema and schema_error(opts.schema)
  if err then return nil, err end
  return run(db, function(self)
    if opts.schema then self:lock("mtenant schema " .. opts.schema) end
    self:lock("mtenant role " .. opts.role)
    if not find_role(self, opts.role) then return end
    if opts.schema then set_rights(self, opts, NONE, nil) end
    self:change("DROP ROLE %s", ident(opts.role))
  end)
end


--- Waits. What makes the roles of tenants worthless, or weaker, for the login
-- that a program uses. No findings: an empty list.
---@param db mtenant.Db  any handle on the database
---@param opts table  { login =, common = { "public" } (schemas that all may
--  use) }
---@return mtenant.roles.finding[]|nil findings
---@return mtenant.error|nil err
function M.check(db, opts)
  check_handle(db, "roles.check")
  opts = check_options:check(opts, 2)
  return review.run(db, opts.login, opts.common)
end


return M
