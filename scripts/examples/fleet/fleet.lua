--- A sharded fleet: sixty tenants on three PostgreSQL servers.
--
--   mtenant-run fleet.lua
--
-- Places the tenants where the policy says, works with all of them at a time, and
-- moves one by hand, which every program with this policy hears by NOTIFY.

local directory = require "mtenant.policy.directory"
local mtenant = require "mtenant"
local policy = require "mtenant.policy"
local throwaway = require "mtenant.throwaway"

local HERE = arg[0]:match("^(.*)/") or "."
local NAMES = { "east", "north", "west" }
local TENANTS = 60

local servers, admins, ids = {}, {}, {}
for i = 1, TENANTS do ids[i] = "t" .. i end
for _, name in ipairs(NAMES) do
  servers[name] = assert(throwaway.start()).url
  admins[name] = assert(mtenant.create_tenant_manager {
    connection = { url = servers[name] },
    resolve = function() return nil end,
  }):get_shared_db()
end

-- The directory is on the first one: who was moved, and who is told.
assert(admins.east:exec(directory.sql { table = "moved",
                                        columns = { server = "server" } }))


local function make_manager()
  return assert(mtenant.create_tenant_manager {
    connection = { url = servers.east },
    servers = servers,
    policy = HERE .. "/policy.lua",
    isolation = {
      schema_name_template = function(id) return "tenant_" .. id end,
    },
  })
end


local tenants = make_manager()
local other = make_manager() -- as if it were another program

-- A tenant's schema on one server, with a counter. What is in it says where it is.
local function create_tenant(id, server, n)
  return assert(admins[server]:exec(([[
    CREATE SCHEMA tenant_%s;
    CREATE TABLE tenant_%s.counter (server text NOT NULL, n int NOT NULL);
    INSERT INTO tenant_%s.counter VALUES ('%s', %d);
  ]]):format(id, id, id, server, n or 0)))
end


-- Every tenant counts, all at a time; how many are on each server, and the sum.
local function count_all(manager)
  local places, sum = {}, 0
  mtenant.each(ids, 20, function(id)
    local row = assert(assert(manager:get_db(id)):one(
      "UPDATE counter SET n = n + 1 RETURNING server, n"))
    places[row.server] = (places[row.server] or 0) + 1
    sum = sum + row.n
  end)
  return places, sum
end


local function show(places)
  for _, name in ipairs(NAMES) do
    print(("%-6s %2d tenants"):format(name, places[name] or 0))
  end
end


for _, id in ipairs(ids) do
  local found = policy.explain(tenants, id)
  if found.error then error(found.error, 0) end
  create_tenant(id, found.route.server)
end
show((count_all(tenants)))
local _, sum = count_all(other)
print(("%d tenants have counted to 2: %s"):format(TENANTS,
  tostring(sum == 2 * TENANTS)))

-- One that was moved: its data first, then the directory, which tells everybody.
-- (A real move would stop the tenant's writes meanwhile: manager:pause.)
local id = ids[1]
local from = assert(tenants:get_route(id)).server
local to = from == "west" and "north" or "west"
create_tenant(id, to, 2)
assert(admins.east:query("INSERT INTO moved (id, server) VALUES ($1, $2)", id, to))
for _, manager in ipairs({ tenants, other }) do
  local where
  repeat
    mtenant.sleep(10)
    where = assert(manager:get_db(id)):value("SELECT server FROM counter")
  until where == to
end
print(("%s was moved, and both programs know"):format(id))

tenants:dispose()
other:dispose()
mtenant.dispose_all()
