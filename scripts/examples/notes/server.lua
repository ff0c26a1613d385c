--- A private throwaway PostgreSQL with the customers acme and globex: prints its
-- URL, and keeps it until it is told to end. Run by run.sh under mtenant-run.

local mtenant = require "mtenant"
local throwaway = require "mtenant.throwaway"

local server = assert(throwaway.start())
local manager = assert(mtenant.create_tenant_manager {
  connection = { url = server.url },
  resolve = function() return nil end,
})

local sql = [[
  CREATE TABLE customers (
    id text PRIMARY KEY, schema_name text NOT NULL UNIQUE,
    active boolean NOT NULL DEFAULT true);
  CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL,
    body text NOT NULL, done_at timestamptz, attempts int NOT NULL DEFAULT 0);
]]
for _, id in ipairs { "acme", "globex" } do
  sql = sql .. ([[
    INSERT INTO customers VALUES ('%s', 'customer_%s');
    CREATE SCHEMA customer_%s;
    CREATE TABLE customer_%s.notes (
      id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
    INSERT INTO customer_%s.notes (body) VALUES ('%s''s first note');
    INSERT INTO jobs (tenant, body)
      SELECT '%s', 'job ' || g FROM generate_series(1, 50) AS g;
  ]]):format(id, id, id, id, id, id, id)
end
sql = sql .. "INSERT INTO customers VALUES ('initech', 'none', false)"
assert(manager:get_shared_db():exec(sql))
manager:dispose()

print(server.url)
io.stdout:flush()
while true do
  if not mtenant.sleep(3600000) then return end
end
