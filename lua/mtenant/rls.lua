--- Row level security for strategy row: the policies that keep the rows of
-- tenants apart in tables that they share, made and checked.
--
-- A policy compares a column with a setting that the scope of each statement
-- has set to the tenant's id. The setting reads NULL before its first use in a
-- session and '' afterwards; nullif makes both mean "nobody".

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local schema = require "mtenant.schema"


local concat, format, ident = table.concat, string.format, core.quote_ident
local literal = core.quote_literal


local M = {}


local policy_options = schema.new({
  name = "rls.policy_sql",
  { "schema", kind = "string" },
  { "column", kind = "string", default = "tenant_id" },
  { "type", kind = "string", default = "text" },
  { "setting", kind = "string", default = "app.tenant_id" },
  { "policy", kind = "string", default = "mtenant_rows" },
  { "index", kind = "boolean", default = true },
})

local apply_options = schema.new({
  name = "rls.apply",
  { "schema", kind = "string", default = "public" },
  { "tables", kind = "strings" },
  { "column", kind = "string", default = "tenant_id" },
  { "setting", kind = "string", default = "app.tenant_id" },
  { "policy", kind = "string", default = "mtenant_rows" },
  { "index", kind = "boolean", default = true },
})

local check_options = schema.new({
  name = "rls.check",
  { "schema", kind = "string", default = "public" },
  { "except", kind = "strings", default = {} },
  { "column", kind = "string", default = "tenant_id" },
  { "setting", kind = "string", default = "app.tenant_id" },
})


-- ---- making ------------------------------------------------------------

local function needs_string(value, name, level)
  if type(value) == "string" and #value > 0 then return end
  errors.misuse(level + 1, "%s must be a non-empty string", name)
end


-- A name of at most 63 bytes that no other table's index has: a long one is cut
-- between characters and told apart by a hash (Bernstein's, of 32 bits).
local function index_name(name, column)
  local full = name .. "_" .. column .. "_rls"
  if #full <= 63 then return full end
  local hash, cut = 5381, 50
  for i = 1, #full do hash = (hash * 33 + full:byte(i)) % 4294967296 end
  while cut > 0 and full:byte(cut + 1) >= 128 and full:byte(cut + 1) < 192 do
    cut = cut - 1
  end
  return full:sub(1, cut) .. format("_%08x_rls", hash)
end


local function statements(name, opts)
  local target = (opts.schema and ident(opts.schema) .. "." or "")
    .. ident(name)
  local column, policy = ident(opts.column), ident(opts.policy)
  local tenant = format("nullif(pg_catalog.current_setting(%s, true), '')::%s",
                        literal(opts.setting), opts.type)
  local own = format("(%s = %s)", column, tenant)
  local sql = {
    format("ALTER TABLE %s ENABLE ROW LEVEL SECURITY", target),
    format("ALTER TABLE %s FORCE ROW LEVEL SECURITY", target),
    format("DROP POLICY IF EXISTS %s ON %s", policy, target),
    format("CREATE POLICY %s ON %s USING %s WITH CHECK %s", policy, target,
           own, own),
    format("ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s", target, column,
           tenant),
    format("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", target, column),
  }
  if opts.index then
    sql[#sql + 1] = format("CREATE INDEX IF NOT EXISTS %s ON %s (%s)",
      ident(index_name(name, opts.column)), target, column)
  end
  return sql
end


--- The statements that make a table's rows belong to tenants: row security
--- enabled and forced (the owner is held too), a policy for reading and for
--- writing, a default, NOT NULL, and an index on the column.
---@param table_name string  unquoted
---@param opts? table  schema; column ("tenant_id"); type of the column as SQL
--- names it ("text"); setting ("app.tenant_id"); policy, its name; index (true)
---@return string[]  to be run in this order, best in one transaction
function M.policy_sql(table_name, opts)
  needs_string(table_name, "rls.policy_sql: the table", 2)
  opts = policy_options:check(opts or {}, 2)
  if not opts.type:find("^%a[%w_ ]*$") then
    errors.misuse(2, "rls.policy_sql: type must be the name of a type")
  end
  return statements(table_name, opts)
end


local TABLES = [[
  SELECT c.relname AS name, pg_catalog.format_type(a.atttypid, NULL) AS type
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = $2
    AND NOT a.attisdropped
  WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace
                          WHERE nspname = $1)
    AND c.relkind IN ('r', 'p')
  ORDER BY 1]]


-- the tables to do: { name, type }, or nil and an error
local function tables_of(tx, opts)
  local found, err = tx:query(TABLES, opts.schema, opts.column)
  if not found then return nil, err end
  if not opts.tables then return found end
  local by_name, wanted = {}, {}
  for _, t in ipairs(found) do by_name[t.name] = t end
  for i, name in ipairs(opts.tables) do
    wanted[i] = by_name[name]
    if not wanted[i] then
      return nil, errors.new("policy", format(
        "schema %s has no table %s with a column %s", ident(opts.schema),
        ident(name), ident(opts.column)))
    end
  end
  return wanted
end


--- Makes the policies of policy_sql, in one transaction. The handle's role must
--- own the tables. May be run again.
---@param db mtenant.Db  e.g. a manager's shared handle
---@param opts? table  schema ("public"), tables (names; all that have the
--- column), column, setting, policy, index
---@return string[]|nil tables  that have them now
---@return table|nil err  code policy: a table is not there, or has no column
function M.apply(db, opts)
  opts = apply_options:check(opts or {}, 2)
  return db:transaction(function(tx)
    local tables, err = tables_of(tx, opts)
    if not tables then return nil, err end
    local done = {}
    for i, t in ipairs(tables) do
      opts.type = t.type
      for _, sql in ipairs(statements(t.name, opts)) do
        local ok
        ok, err = tx:query(sql)
        if not ok then return nil, err end
      end
      done[i] = t.name
    end
    return done
  end)
end


-- ---- checking ----------------------------------------------------------

-- One row per thing that would show a tenant the rows of others.
local PROBLEMS = [[
  WITH rel AS (
    SELECT c.*, EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = c.oid AND a.attname = $2 AND NOT a.attisdropped)
      AS has_column
    FROM pg_catalog.pg_class c
    WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace
                            WHERE nspname = $1)
      AND NOT c.relname = ANY ($4::text[])
  ), policy AS (
    SELECT p.*, rel.relname,
      coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') AS using_text,
      coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
        CASE WHEN p.polcmd IN ('*', 'w')
          THEN pg_catalog.pg_get_expr(p.polqual, p.polrelid) END, '')
        AS check_text
    FROM pg_catalog.pg_policy p JOIN rel ON rel.oid = p.polrelid
    WHERE p.polpermissive
  )
  SELECT relname AS name, 'has no column ' || $2 AS problem FROM rel
    WHERE relkind IN ('r', 'p') AND NOT has_column
  UNION ALL SELECT relname, 'row security is not enabled' FROM rel
    WHERE relkind IN ('r', 'p') AND has_column AND NOT relrowsecurity
  UNION ALL SELECT relname, 'row security is not forced: its owner sees all'
    FROM rel WHERE relkind IN ('r', 'p') AND relrowsecurity
      AND NOT relforcerowsecurity
  UNION ALL SELECT relname, 'policy ' || pg_catalog.quote_ident(polname)
      || ' lets rows be read whatever ' || $3 || ' is'
    FROM policy WHERE polcmd IN ('*', 'r', 'w', 'd')
      AND pg_catalog.strpos(using_text, $3) = 0
  UNION ALL SELECT relname, 'policy ' || pg_catalog.quote_ident(polname)
      || ' lets rows be written whatever ' || $3 || ' is'
    FROM policy WHERE polcmd IN ('*', 'a', 'w')
      AND pg_catalog.strpos(check_text, $3) = 0
  UNION ALL SELECT relname, 'a view that reads as its owner; give it '
      || 'security_invoker (PostgreSQL 15)'
    FROM rel WHERE relkind = 'v'
      AND NOT EXISTS (SELECT 1 FROM pg_catalog.unnest(reloptions) AS o
                      WHERE o ~* '^security_invoker=(true|on|yes|1)$')
  UNION ALL SELECT relname, 'a materialized view holds rows of all tenants, '
      || 'and policies do not hold it' FROM rel WHERE relkind = 'm'
  UNION ALL SELECT relname, 'policies do not hold a foreign table' FROM rel
    WHERE relkind = 'f'
  ORDER BY 1, 2]]


--- Looks for what would show a tenant the rows of others: tables without row
--- security or with it not forced, policies that do not ask for the setting,
--- views that read as their owner, materialized views, foreign tables. A policy
--- is looked through for the setting's name, not understood; what SECURITY
--- DEFINER functions read is not looked at.
---@param db mtenant.Db
---@param opts? table  schema ("public"), except (names that are meant to be
--- shared), column, setting
---@return table[]|nil problems  { name =, problem = }; empty is good
---@return table|nil err
function M.check(db, opts)
  opts = check_options:check(opts or {}, 2)
  local except = {}
  for i, name in ipairs(opts.except) do
    except[i] = '"' .. name:gsub('[\\"]', "\\%0") .. '"'
  end
  return db:query(PROBLEMS, opts.schema, opts.column, opts.setting,
                  "{" .. concat(except, ",") .. "}")
end


return M
