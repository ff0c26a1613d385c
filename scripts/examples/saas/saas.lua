--- A SaaS in miniature: takes requests by host name, finds the customer and where
-- he lives, and reads his notes there.
--
--   mtenant-run saas.lua
--
-- Two throwaway servers, "standard" and "large". Then a customer buys a larger
-- plan and moves, while the program runs.

local mtenant = require "mtenant"
local throwaway = require "mtenant.throwaway"

local HERE = arg[0]:match("^(.*)/") or "."

local servers = {}
for _, name in ipairs { "standard", "large" } do
  servers[name] = assert(throwaway.start()).url
end


-- Runs SQL on a server, as who owns its database.
local function admin(name, sql)
  local manager = assert(mtenant.create_tenant_manager {
    connection = { url = servers[name] },
    resolve = function() return nil end,
  })
  assert(manager:get_shared_db():exec(sql))
  manager:dispose()
end


-- A customer's schema with one note; what is in the note says where it is.
local function create_customer(server, schema)
  admin(server, ([[
    CREATE SCHEMA %s;
    CREATE TABLE %s.notes (body text NOT NULL);
    INSERT INTO %s.notes VALUES ('a note of %s on %s');
  ]]):format(schema, schema, schema, schema, server))
end


admin("standard", [[
  CREATE TABLE customers (id text PRIMARY KEY, plan text NOT NULL,
                          active boolean NOT NULL DEFAULT true);
  INSERT INTO customers (id, plan, active) VALUES
    ('acme', 'enterprise', true), ('globex', 'free', true),
    ('initech', 'free', false);
]])
create_customer("large", "customer_acme")
create_customer("standard", "customer_globex")
create_customer("standard", "umbrella_legacy")

local tenants = assert(mtenant.create_tenant_manager {
  connection = { url = servers.standard }, -- where the customers' table is
  servers = servers,
  policy = HERE .. "/policy.lua",
})


-- What a web framework would call: the middleware of docs/embedding.md does.
local function serve(request)
  local id, err = tenants:identify(request)
  if not id then return nil, err end
  local db
  db, err = tenants:get_db_async(id)
  if not db then return nil, err end
  return db:value("SELECT body FROM notes")
end


local function show(host)
  local note, err = serve { host = host, path = "/", headers = {} }
  print(("%-22s %s"):format(host, note or err.code))
end


for _, host in ipairs { "acme.example.test", "globex.example.test",
                        "umbrella.example.test", "initech.example.test",
                        "stranger.example.test", "example.test" } do
  show(host)
end

-- Globex grows: its data is copied, its plan is changed, its route is asked for
-- anew.
create_customer("large", "customer_globex")
admin("standard", "UPDATE customers SET plan = 'enterprise' WHERE id = 'globex'")
tenants:invalidate("globex")
print("globex buys enterprise")
show("globex.example.test")

tenants:dispose()
