--- A sharded fleet: sixty tenants on three PostgreSQL servers.
--
--   mtenant-run fleet.lua
--
-- Places the tenants where the policy says, works with all of them at a time, and
-- moves one by hand, which every program with this policy hears by NOTIFY.

local directory = require "mtenant.policy.directory"
local mtenant = require "mtenant"
local throwaway = require "mtenant.throwaway"

local HERE = arg[0]:match("^(.*)/") or "."
local NAMES = { "east", "north", "west" }
local TENANTS = 60

local servers, admins = {}, {}
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


local function manager()
  return assert(mtenant.create_tenant_manager {
    connection = { url = servers.east },
    servers = servers,
    policy = HERE .. "/policy.lua",
    isolation = {
      schema_name_template = function(id) return "tenant_" .. id end,
    },
  })
end


local tenants = manager()
local other = manager() -- as if it were another program

local ids = {}
for i = 1, TENANTS do ids[i] = "t" .. i end


local function server_of(id)
  return assert(mtenant.policy_route(tenants, id)).server
end


-- A tenant's schema, on one server; its counter says which one it is.
local function create_tenant(id, server)
  return assert(admins[server]:exec(([[
    CREATE SCHEMA tenant_%s;
    CREATE TABLE tenant_%s.counter (server text, n int NOT NULL);
    INSERT INTO tenant_%s.counter VALUES ('%s', 0);
  ]]):format(id, id, id, server)))
end
