--- For specs of `mtenant COMMAND` on a server: a project in the scratch
-- directory of tests/support/program.lua, and its tenants. Needs busted.
--
--     before_each(cli.set_up)
--     after_each(cli.tear_down)
--     teardown(cli.close)

local assert = require "luassert"
local cjson = require "cjson"
local pg = require "tests.support.pg"
local program = require "tests.support.program"

local M = {}


--- The program under test.
M.path = program.path:gsub("mtenant%-run$", "mtenant")


local CONFIG = [[
return {
  isolation = { schema_name_template = function(id) return "t_" .. id end },
  migrations = {
    tenant_folder = "migrations",
    shared_folder = "shared",
    tenant_discovery = function(shared)
      local ids = {}
      for _, row in ipairs(assert(shared:query("SELECT nspname FROM pg_namespace "
          .. "WHERE nspname LIKE 't\\_%%' ORDER BY nspname"))) do
        ids[#ids + 1] = row.nspname:sub(3)
      end
      return ids
    end,
    %s
  },
}
]]

local CLEAN = [[
SET client_min_messages = error;
DROP SCHEMA IF EXISTS mtenant CASCADE;
SELECT 'DROP SCHEMA ' || quote_ident(nspname) || ' CASCADE' FROM pg_namespace
  WHERE nspname LIKE 't\_%' \gexec
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION mtenant;
]]


--- Writes the configuration; `more` goes into its table migrations.
function M.configure(more)
  program.write("tenant.config.lua", CONFIG:format(more or ""))
end


--- Writes the file of a migration, or of the shared schema ("shared/...").
function M.migration(name, text)
  program.write((name:find("/", 1, true) and "" or "migrations/") .. name, text)
end


function M.remove(name)
  os.remove(program.scratch() .. "/migrations/" .. name)
end


--- Takes everything off the server.
function M.clean() M.server:psql(CLEAN) end


--- A server with nothing on it, a project with one migration.
function M.set_up()
  program.set_up()
  M.server = M.server or pg.start()
  M.clean()
  program.sh("cd " .. program.quote(program.scratch()) .. " && mkdir migrations shared")
  M.configure()
  M.migration("0001_users.sql", "CREATE TABLE users (name text);")
end


M.tear_down = program.tear_down


--- Ends the server.
function M.close()
  if M.server then
    M.server:close()
    M.server = nil
  end
end


--- Makes the schemas of tenants, empty ones.
function M.tenants(...)
  local sql = {}
  for i, id in ipairs({ ... }) do
    sql[i] = ('CREATE SCHEMA "t_%s" AUTHORIZATION mtenant;'):format(id)
  end
  M.server:psql(table.concat(sql, "\n"))
end


--- What has to stand before the program, for the shell.
function M.env(more)
  return ("env -u NO_COLOR DATABASE_URL=%s %s"):format(
    program.quote(M.server.url), more or "")
end


--- Runs a command to its end.
---@param args string
---@param more? string words for env
function M.run(args, more)
  return program.run(args, { path = M.path, env = M.env(more) })
end


--- Runs it on a terminal; `input` is typed. Its output has no "\r\n".
function M.on_terminal(args, more, input)
  local command = ("%s TERM=xterm %s %s %s"):format(M.env(), more or "",
    program.quote(M.path), args)
  local result = program.run("-qec " .. program.quote(command) .. " typescript",
                             { path = "script", input = input })
  result.out = result.out:gsub("\r\n", "\n")
  return result
end


--- Runs it with a status expected, and nothing on standard error.
function M.good(args, status)
  local result = M.run(args)
  assert.same({ status or 0, "" }, { result.status, result.err },
              result.out .. result.err)
  return result.out
end


--- The objects of a run with --json: those of tenants by id, and the summary.
---@param args string
---@param status? integer
function M.json(args, status)
  local result = M.run(args .. " --json")
  assert.equal(status or 0, result.status, result.out .. result.err)
  local tenants, others = {}, {}
  for line in result.out:gmatch("[^\n]+") do
    local object = cjson.decode(line)
    if object.event == "tenant" then
      assert.is_nil(tenants[object.tenant_id], line)
      tenants[object.tenant_id] = object
    else
      others[object.event] = object
    end
    assert.is_nil(others.summary and object.event == "tenant" or nil, line)
  end
  return tenants, others.summary, others.shared, result
end


--- The names of the tables of a schema, with blanks between.
function M.tables(schema)
  return (M.server:psql(("SELECT relname FROM pg_class WHERE relkind = 'r' AND "
    .. "relnamespace = to_regnamespace('%s') ORDER BY relname"):format(schema))
    :gsub("\n", " "))
end


--- What a tenant's table of records says.
function M.records(id)
  return (M.server:psql(('SELECT name FROM "t_%s".__drizzle_migrations '
    .. "ORDER BY id"):format(id)):gsub("\n", " "))
end


return M
