--- What the specs of the migrator share: tenants a to e, whose schemas are
--- empty, a folder with two migrations, and migrators that go with their test.

local env = require "tests.support.env"
local folders = require "tests.support.folder"
local mtenant = require "mtenant"


local M = {}


M.IDS = { "a", "b", "c", "d", "e" }

M.FILES = {
  ["0001_items.sql"] = "CREATE TABLE items (id serial PRIMARY KEY, n int);\n"
    .. "INSERT INTO items (n) VALUES (1), (2);",
  ["0002_note.sql"] = "ALTER TABLE items ADD COLUMN note text;\n"
    .. "-- mtenant:down\nALTER TABLE items DROP COLUMN note;",
}

local migrators


--- A migrator of the test's folder.
---@param opts? table  of create_migrator
function M.migrator(opts)
  local all = { migrations_folder = M.folder.path,
                tenant_discovery = function() return M.IDS end }
  for key, value in pairs(opts or {}) do all[key] = value end
  local m = mtenant.create_migrator({
    connection = { url = env.server().url, retry = { initial_delay_ms = 5 } },
    isolation = { strategy = "schema",
      schema_name_template = function(id) return "m_" .. id end },
  }, all)
  migrators[#migrators + 1] = m
  return m
end


--- One value, from outside.
function M.value(sql) return (env.sql(sql):gsub("%s+$", "")) end


--- The records of a schema, in their order.
function M.names(schema)
  return M.value("SELECT string_agg(name, ',' ORDER BY id) FROM " .. schema
    .. ".__drizzle_migrations")
end


function M.has(relation)
  return M.value("SELECT to_regclass('" .. relation .. "') IS NOT NULL") == "t"
end


--- The body of a test; its migrators are closed at its end.
function M.task(fn)
  return env.in_task(function()
    local ok, err = pcall(fn)
    for _, m in ipairs(migrators) do m:dispose() end
    if not ok then error(err, 0) end
  end)
end


--- Raises the first tenant's error, if there is one.
function M.all_well(results)
  for _, r in ipairs(results.details) do
    if r.error then error(r.error, 0) end
  end
  assert(results.total == results.succeeded)
  return results
end


--- before_each
function M.begin()
  migrators = {}
  M.folder = folders.new(M.FILES)
  local sql = { "DROP SCHEMA IF EXISTS mtenant CASCADE" }
  for _, id in ipairs(M.IDS) do
    sql[#sql + 1] = "DROP SCHEMA IF EXISTS m_" .. id .. " CASCADE"
    sql[#sql + 1] = "CREATE SCHEMA m_" .. id
  end
  sql[#sql + 1] = "DROP TABLE IF EXISTS public.items"
  env.sql("SET client_min_messages = warning; " .. table.concat(sql, "; "))
  return M.folder
end


return M
