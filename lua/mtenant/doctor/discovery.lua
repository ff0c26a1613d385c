--- Doctor: who are the tenants, and is each one's schema there, and may its role
-- use it?

local config = require "mtenant.config"
local core = require "mtenant.core"
local errors = require "mtenant.errors"
local markers = require "mtenant.markers"
local routing = require "mtenant.routing"
local mtenant = require "mtenant"

local AT_A_TIME = 2000
local NAMED = 5 -- in a finding; the others are counted

local SCHEMAS_SQL = [[
  SELECT w.name FROM pg_catalog.unnest($1::text[]) AS w (name)
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n
                    WHERE n.nspname::text = w.name)]]

-- row by row: no such role, it may not be taken, it may not use the schema
local ROLES_SQL = [[
  SELECT w.role, w.schema, r.oid IS NULL AS missing,
    coalesce(NOT pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER'), false)
      AS refused,
    coalesce(NOT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE'), false)
      AS shut
  FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]))
    AS w (role, schema)
  LEFT JOIN pg_catalog.pg_roles r ON r.rolname::text = w.role
  LEFT JOIN pg_catalog.pg_namespace n ON n.nspname::text = w.schema
  WHERE r.oid IS NULL OR n.oid IS NOT NULL]]

local M = {}


local function some(list)
  local out = {}
  for i = 1, math.min(#list, NAMED) do out[i] = tostring(list[i]) end
  local text = table.concat(out, ", ")
  if #list > NAMED then text = text .. (" and %d more"):format(#list - NAMED) end
  return text
end


-- ---- the ids ---------------------------------------------------------------

-- What tenant_discovery returns, as it is; nil: a finding says why not.
local function discover(case, db)
  local ok, ids, why = pcall(case.migrations.tenant_discovery, db)
  if ok and type(ids) == "table" then return ids end
  local text
  if not ok then text = "raises: " .. errors.text_of(ids)
  elseif ids == nil and why ~= nil then
    text = "fails: " .. errors.text_of(why)
  else text = "returns a " .. type(ids) .. ", not a list of ids" end
  case:add("error", "discovery", "migrations.tenant_discovery " .. text, {
    why = "no command can find the tenants",
    fix = "migrations = { tenant_discovery = function(shared) ... return ids "
      .. "end }",
  })
  return nil
end


-- Those that are well-formed, each once.
local function check_ids(case, ids)
  local good, seen, doubled, bad = {}, {}, {}, {}
  for _, id in ipairs(ids) do
    local ok, err = config.valid_id(id, case.cfg.id_pattern)
    if not ok then bad[#bad + 1] = err.message
    elseif seen[id] then doubled[#doubled + 1] = id
    else
      seen[id] = true
      good[#good + 1] = id
    end
  end
  if #bad > 0 then
    case:add("error", "discovery", ("%d ids of tenants are refused: %s"):format(
      #bad, some(bad)), {
        why = "nothing runs for these",
        fix = "rename them, or id_pattern = \"...\"",
      })
  end
  if #doubled > 0 then
    case:add("warning", "discovery", ("%d ids come more than once: %s"):format(
      #doubled, some(doubled)), {
        why = "they are counted once",
        fix = "SELECT DISTINCT in migrations.tenant_discovery",
      })
  end
  if #ids == 0 then
    case:add("warning", "discovery", "there are no tenants", {
      why = "migrate --all does nothing", fix = "mtenant create ID",
    })
  end
  return good
end


-- ---- schemas and roles -----------------------------------------------------

-- Ids by schema, and roles; ids whose template fails are findings.
local function targets_of(case, ids)
  local out, failed = {}, {}
  for i, id in ipairs(ids) do
    local route, err = routing.resolve(case.cfg, id)
    if route then
      out[#out + 1] = { id = id, schema = route.schema, role = route.role }
    else
      failed[#failed + 1] = id .. " (" .. err.message .. ")"
    end
    if i % AT_A_TIME == 0 then mtenant.sleep(0) end
  end
  if #failed > 0 then
    case:add("error", "discovery", ("the template refuses %d tenants: %s")
      :format(#failed, some(failed)), {
        why = "nothing runs for these",
        fix = "isolation.schema_name_template, isolation.role_template",
      })
  end
  return out
end


local function check_schemas(case, db, targets)
  local missing = {}
  for first = 1, #targets, AT_A_TIME do
    local names, by_name = {}, {}
    for i = first, math.min(first + AT_A_TIME - 1, #targets) do
      names[#names + 1] = targets[i].schema
      by_name[targets[i].schema] = targets[i].id
    end
    local rows = case:ask("discovery", db, SCHEMAS_SQL, markers.array(names))
    if not rows then return end
    for _, row in ipairs(rows) do missing[#missing + 1] = by_name[row.name] end
  end
  if #missing == 0 then
    case:add("ok", "discovery", ("%d tenants, and the schema of each is there")
      :format(#targets))
    return
  end
  table.sort(missing)
  case:add("error", "discovery", ("%d of %d tenants have no schema: %s"):format(
    #missing, #targets, some(missing)), {
      why = "their statements fail with tenant_not_found",
      fix = "mtenant create " .. missing[1] .. ", or take them out of "
        .. "migrations.tenant_discovery",
    })
end


local ROLE_TROUBLE = {
  { "missing", "have a role that does not exist", "CREATE ROLE %s NOLOGIN" },
  { "refused", "have a role that the login may not take",
    "GRANT %s TO %s" },
  { "shut", "have a role without USAGE on their schema",
    "GRANT USAGE ON SCHEMA %s TO %s" },
}


local function fix_of(kind, row, login)
  local role = core.quote_ident(row.role)
  if kind[1] == "missing" then return kind[3]:format(role) end
  if kind[1] == "refused" then
    return kind[3]:format(role, core.quote_ident(login))
  end
  return kind[3]:format(core.quote_ident(row.schema), role)
end


-- Rows by what is wrong with each; nil where that could not be seen.
local function role_trouble(case, db, with_roles)
  local found = { missing = {}, refused = {}, shut = {} }
  for first = 1, #with_roles, AT_A_TIME do
    local roles, schemas = {}, {}
    for i = first, math.min(first + AT_A_TIME - 1, #with_roles) do
      roles[#roles + 1] = with_roles[i].role
      schemas[#schemas + 1] = with_roles[i].schema
    end
    local rows = case:ask("permissions", db, ROLES_SQL, markers.array(roles),
                          markers.array(schemas))
    if not rows then return nil end
    for _, row in ipairs(rows) do
      local kind = row.missing and "missing" or row.refused and "refused"
        or row.shut and "shut"
      if kind then table.insert(found[kind], row) end
    end
  end
  return found
end


local function check_roles(case, db, targets)
  local with_roles = {}
  for _, target in ipairs(targets) do
    if target.role then with_roles[#with_roles + 1] = target end
  end
  local found = role_trouble(case, db, with_roles)
  if not found then return end
  local bad = false
  for _, kind in ipairs(ROLE_TROUBLE) do
    local rows, names = found[kind[1]], {}
    for i, row in ipairs(rows) do names[i] = row.role end
    if #rows > 0 then
      bad = true
      case:add("error", "permissions", ("%d tenants %s: %s"):format(#rows, kind[2],
                                                                    some(names)), {
        why = "their statements fail",
        fix = fix_of(kind, rows[1], case.hello.login),
      })
    end
  end
  if #with_roles > 0 and not bad then
    case:add("ok", "permissions", "the login may take each tenant's role")
  end
end


--- Of the first server only: the others are the routes'.
function M.run(case, db)
  if not case.given or not case.first then return end
  if not case.migrations or not case.migrations.tenant_discovery then
    case:add("info", "discovery", "migrations.tenant_discovery is not set", {
      why = "the commands know tenants only by name, and their schemas were not "
        .. "looked at",
      fix = "migrations = { tenant_discovery = function(shared) ... return ids "
        .. "end }",
    })
    return
  end
  local ids = discover(case, db)
  if not ids then return end
  local good = check_ids(case, ids)
  if #good == 0 then return end
  local by_template = not case.cfg.resolve and not case.given.policy
    and case.cfg.isolation.strategy == "schema"
  if not by_template then
    case:add("ok", "discovery", ("%d tenants"):format(#good))
    case:add("info", "discovery", "where tenants are is decided elsewhere than by "
      .. "the template: their schemas were not looked at", {
        fix = "mtenant status",
      })
    return
  end
  local targets = targets_of(case, good)
  check_schemas(case, db, targets)
  check_roles(case, db, targets)
end


return M
