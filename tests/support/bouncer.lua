--- What the specs before a real PgBouncer share: a server and, before it, a
--- PgBouncer in transaction mode with one connection; two tenants; managers.
--
--     local bouncer = require "tests.support.bouncer"
--     setup(bouncer.set_up())
--     teardown(bouncer.tear_down)
--     after_each(bouncer.nothing_left)
--
-- In between `bouncer.server` and `bouncer.pooler` are there.

local env = require "tests.support.env"
local pg = require "tests.support.pg"

local M = {}


M.GUARD = "ALTER ROLE mtenant IN DATABASE mtenant SET search_path = ''"
M.IGNORING = { ignore_startup_parameters = "options" }


function M.schemas(ids)
  local text = { "SET ROLE mtenant;" }
  for _, id in ipairs(ids) do
    text[#text + 1] = ([[
      DROP SCHEMA IF EXISTS t_ID CASCADE; CREATE SCHEMA t_ID;
      CREATE TABLE t_ID.items (owner text, n int);
      INSERT INTO t_ID.items VALUES ('ID', 0);]]):gsub("ID", id)
  end
  M.server:psql(table.concat(text, "\n"))
end


function M.manager_of(overrides)
  overrides = overrides or {}
  overrides.connection = overrides.connection or {}
  overrides.connection.url = overrides.connection.url or M.pooler.url
  if overrides.connection.pooler == nil then
    overrides.connection.pooler = "transaction"
  elseif not overrides.connection.pooler then
    overrides.connection.pooler = nil
  end
  return env.manager(overrides)
end


function M.direct(overrides)
  overrides = overrides or { connection = {} }
  overrides.connection.pooler = false
  return M.manager_of(overrides)
end


function M.nothing_left()
  env.assert_nothing_left()
  env.eventually("the clients' end", function() return M.pooler:clients() == 0 end)
end


function M.set_up(settings)
  return function()
    -- not env.start: the pooler's connection stays when its clients have gone
    M.server = pg.start({ conf = { log_statement = "all" } })
    M.server:psql([[
      CREATE TABLE public.items (owner text, n int);
      INSERT INTO public.items VALUES ('public', 0);
      GRANT ALL ON public.items TO PUBLIC;]] .. M.GUARD)
    M.schemas({ "red", "blue" })
    M.pooler = M.server:bouncer(settings)
  end
end


function M.tear_down() M.server:close() end


function M.check(t, rows)
  for _, row in ipairs(rows) do
    if row.owner ~= t.id then
      error(("%s saw a row of %s"):format(t.id, tostring(row.owner)), 0)
    end
  end
  return rows
end


M.SELECT = "SELECT owner, n FROM items"
M.INSERT = "INSERT INTO items VALUES ($1, $2) RETURNING owner"


function M.expect(err, what)
  if not err or (err.sqlstate ~= what and err.code ~= what) then
    error("expected " .. what .. ", got " .. tostring(err), 0)
  end
end


return M
