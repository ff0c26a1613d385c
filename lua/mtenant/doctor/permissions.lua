--- Doctor: may the login too much, or too little?

local core = require "mtenant.core"
local roles_check = require "mtenant.roles_check"

local M = {}


local RIGHTS_SQL = [[
  SELECT pg_catalog.has_database_privilege(pg_catalog.current_database()::text,
                                           'CREATE') AS may_create,
    pg_catalog.to_regclass('mtenant.checksums') IS NULL
      OR pg_catalog.has_table_privilege('mtenant.checksums', 'SELECT, INSERT')
      AS may_record]]

-- What roles_check finds, by code: level where tenants have roles of their own,
-- level where they have not (nil: that is as it should be there), why, and how
-- it is mended.
local WEIGHT = {
  superuser = { "warning", "warning", "no role, no policy and no grant binds it",
                "ALTER ROLE %s NOSUPERUSER" },
  bypassrls = { "warning", "warning", "row-level security does not bind it",
                "ALTER ROLE %s NOBYPASSRLS" },
  createrole = { "warning", "info", "it can give itself other roles",
                 "ALTER ROLE %s NOCREATEROLE" },
  replication = { "warning", "info", "it can read all of the server",
                  "ALTER ROLE %s NOREPLICATION" },
  inherit = { "warning", nil, "it has the rights of all tenants without SET "
              .. "ROLE", "ALTER ROLE %s NOINHERIT" },
  create_schema = { "info", nil, "it may make a schema that a tenant to come "
                    .. "will have", "REVOKE CREATE ON DATABASE ... FROM %s" },
  schema_rights = { "warning", nil, "a statement without its role reaches it",
                    "REVOKE ALL ON SCHEMA ... FROM %s, and let the tenant's "
                      .. "role own it" },
  admin_option = { "warning", "info", "it may give the role away",
                   "REVOKE ADMIN OPTION FOR ... FROM %s" },
  powerful_role = { "warning", "warning", "SET ROLE takes it there",
                    "REVOKE ... FROM %s" },
  several_schemas = { "warning", nil, "two tenants with one role can reach each "
                      .. "other", "a role per tenant, see docs/security.md" },
}


local function add_all(case, findings, with_roles, bound)
  local login = core.quote_ident(case.hello.login)
  local said = {}
  for _, one in ipairs(findings) do
    local w = WEIGHT[one.code]
    local level
    if w then level = with_roles and w[1] or not with_roles and w[2] end
    if level and bound and (one.code == "superuser" or one.code == "bypassrls")
    then
      level = "error" -- strategy row is nothing else than that
    end
    said[one.code] = (said[one.code] or 0) + 1
    if level and said[one.code] <= 5 then
      case:add(level, "permissions", one.message, {
        why = w[3], fix = w[4]:format(login),
      })
    end
  end
end


local function check_rights(case, db, with_roles)
  local rows = case:ask("permissions", db, RIGHTS_SQL)
  if not rows then return end
  local login = core.quote_ident(case.hello.login)
  if not rows[1].may_create and not with_roles and case.given then
    case:add("warning", "permissions", "the login may not create schemas in this "
      .. "database", {
        why = "mtenant create fails",
        fix = ("GRANT CREATE ON DATABASE %s TO %s"):format(
          core.quote_ident(case.hello.database), login),
      })
  end
  if not rows[1].may_record then
    case:add("error", "permissions", "the login may not write the records of "
      .. "migrations (mtenant.checksums)", {
        why = "mtenant migrate fails",
        fix = "GRANT USAGE ON SCHEMA mtenant TO " .. login .. "; GRANT ALL ON "
          .. "mtenant.checksums TO " .. login,
      })
  end
end


function M.run(case, db)
  local before = #case.findings
  local isolation = case.cfg.isolation
  local with_roles = isolation.role_template ~= nil
  local common = { "mtenant" }
  for i, name in ipairs(isolation.search_path) do
    if i > 1 then common[#common + 1] = name end -- the first is the tenant's
  end
  local findings, err = roles_check.run(db, case.hello.login, common)
  if findings then
    add_all(case, findings, with_roles, isolation.strategy == "row")
  else
    case:add("warning", "permissions", "could not look: " .. err.message)
  end
  check_rights(case, db, with_roles)
  if #case.findings == before then
    case:add("ok", "permissions", ("login %s may what it needs, and no more")
      :format(case.hello.login))
  end
end


return M
