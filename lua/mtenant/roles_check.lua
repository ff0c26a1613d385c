--- The review of a login: what makes the roles of tenants worthless for it.
-- Reads catalogs only. Used by roles.lua.

local errors = require "mtenant.errors"
local markers = require "mtenant.markers"


local format = string.format


---@class mtenant.roles.finding
---@field code string  "superuser", "bypassrls", "createrole", "replication",
--- "inherit", "create_schema", "schema_rights", "admin_option", "powerful_role"
--- or "several_schemas"
---@field role string  the login, or the role that it may take
---@field schema? string
---@field message string


local LOGIN_SQL = [[
  SELECT rolsuper, rolbypassrls, rolcreaterole, rolreplication,
    rolinherit OR EXISTS (
      SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid
      AND (pg_catalog.to_jsonb(m) ->> 'inherit_option')::boolean) AS inherits,
    pg_catalog.has_database_privilege(r.oid,
      pg_catalog.current_database()::text, 'CREATE') AS may_create
  FROM pg_catalog.pg_roles r WHERE rolname = $1::name]]

-- Schemas of tenants, each with whom it lets in: owners, grantees, 0 for all.
local DOORS = [[
  doors AS (
    SELECT n.nspname, d.role
    FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL (
      SELECT n.nspowner AS role
      UNION SELECT a.grantee FROM pg_catalog.aclexplode(n.nspacl) a) d
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND n.nspname::text <> ALL ($2::text[]))]]

local OWN_SQL = "WITH " .. DOORS .. [[
  SELECT d.nspname::text AS schema, pg_catalog.bool_and(d.role = 0) AS as_public
  FROM doors d WHERE d.role = 0 OR d.role = (
    SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1::name)
  GROUP BY 1 ORDER BY 1]]

-- Every role that the login may take (top), and what that one may take in turn.
local REACH_SQL = "WITH RECURSIVE " .. DOORS .. [[,
  reach (top, role) AS (
    SELECT m.roleid, m.roleid FROM pg_catalog.pg_auth_members m
    JOIN pg_catalog.pg_roles l ON l.oid = m.member
    WHERE l.rolname = $1::name
    UNION
    SELECT reach.top, m.roleid FROM reach
    JOIN pg_catalog.pg_auth_members m ON m.member = reach.role)
  SELECT t.rolname::text AS role,
    pg_catalog.bool_or(r.rolsuper OR r.rolbypassrls OR r.rolcreaterole
      OR r.rolreplication OR r.rolname ~ '^pg_') AS powerful,
    pg_catalog.count(DISTINCT d.nspname) AS schemas,
    EXISTS (SELECT FROM pg_catalog.pg_auth_members m
      JOIN pg_catalog.pg_roles l ON l.oid = m.member
      WHERE l.rolname = $1::name AND m.roleid = t.oid AND m.admin_option)
      AS admin
  FROM reach JOIN pg_catalog.pg_roles t ON t.oid = reach.top
  JOIN pg_catalog.pg_roles r ON r.oid = reach.role
  LEFT JOIN doors d ON d.role = reach.role
  GROUP BY t.oid, t.rolname ORDER BY 1]]


-- in the order of their weight: column, code, what is said
local ATTRIBUTES = {
  { "rolsuper", "superuser", "is a superuser: no role and no policy binds it" },
  { "rolbypassrls", "bypassrls",
    "has BYPASSRLS: row-level security does not bind it" },
  { "rolcreaterole", "createrole",
    "has CREATEROLE: it can give itself other roles" },
  { "rolreplication", "replication",
    "has REPLICATION: it can read all of the server" },
  { "inherits", "inherit", "inherits (INHERIT): it has the rights of all its "
    .. "roles at once, without SET ROLE" },
  { "may_create", "create_schema", "may create schemas in this database: "
    .. "also one of a tenant to come" },
}


local function add(findings, code, role, name, fmt, ...)
  findings[#findings + 1] = {
    code = code, role = role, schema = name, message = format(fmt, ...),
  }
end


local function add_own_rights(findings, db, login, common)
  local rows, err = db:query(OWN_SQL, login, common)
  if not rows then return err end
  for _, row in ipairs(rows) do
    add(findings, "schema_rights", login, row.schema,
        'login "%s" has rights of its own on schema "%s"%s', login, row.schema,
        row.as_public and ", by a grant to PUBLIC" or "")
  end
end


local function add_reach(findings, db, login, common)
  local rows, err = db:query(REACH_SQL, login, common)
  if not rows then return err end
  for _, row in ipairs(rows) do
    if row.powerful then
      add(findings, "powerful_role", row.role, nil, 'login "%s" may take role '
        .. '"%s", which reaches beyond a tenant', login, row.role)
    end
    if row.admin then
      add(findings, "admin_option", row.role, nil,
          'login "%s" may give role "%s" to others', login, row.role)
    end
    if row.schemas > 1 then
      add(findings, "several_schemas", row.role, nil,
          'role "%s" has rights on %d schemas', row.role, row.schemas)
    end
  end
end


local M = {}


--- See roles.check.
---@param db mtenant.Db
---@param login string
---@param common string[]  schemas that are no tenant's
---@return mtenant.roles.finding[]|nil findings
---@return mtenant.error|nil err
function M.run(db, login, common)
  local row, err = db:one(LOGIN_SQL, login)
  if err then return nil, err end
  if not row then
    return nil, errors.new("policy",
                           format('there is no role "%s"', login))
  end
  local findings = {}
  for _, attribute in ipairs(ATTRIBUTES) do
    -- a superuser has all the others, too: say the one thing to be changed
    if row[attribute[1]] and (attribute[2] == "superuser" or not row.rolsuper)
    then
      add(findings, attribute[2], login, nil, 'login "%s" %s', login,
          attribute[3])
    end
  end
  common = markers.array(common)
  err = add_own_rights(findings, db, login, common)
    or add_reach(findings, db, login, common)
  if err then return nil, err end
  return findings
end


return M
