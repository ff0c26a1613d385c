--- Read replicas: writes go to the primary, reads to a streaming standby.
--
--   mtenant-run replicas.lua PRIMARY_URL STANDBY_URL
--
-- Right after a write the standby may not have it yet: then the tenant reads from
-- the primary, and never misses what it has written itself.

local mtenant = require "mtenant"

local HERE = arg[0]:match("^(.*)/") or "."
local ROUNDS = 50

local tenants = assert(mtenant.create_tenant_manager {
  connection = { url = arg[1] },
  servers = { primary = arg[1], standby = arg[2] },
  policy = HERE .. "/policy.lua",
})
assert(tenants:get_shared_db():exec [[
  CREATE SCHEMA tenant_acme;
  CREATE TABLE tenant_acme.notes (body text NOT NULL);
]])

local acme = assert(tenants:get_db_async("acme"))
local reader = acme:reader()


-- Is it a standby that answers?
local function read()
  local row = assert(reader:one(
    "SELECT count(*) AS n, pg_is_in_recovery() AS standby FROM notes"))
  return row.n, row.standby
end


local missed = 0
for i = 1, ROUNDS do
  assert(acme:query("INSERT INTO notes (body) VALUES ($1)", "note " .. i))
  if read() ~= i then missed = missed + 1 end
end
print(("%d writes, each read back at once: %d missed"):format(ROUNDS, missed))

-- When nothing is written the standby catches up in a moment.
local n, from_standby
repeat
  mtenant.sleep(20)
  n, from_standby = read()
until from_standby
print(("%d notes read from the standby"):format(n))

local ok, err = reader:query("INSERT INTO notes (body) VALUES ('by mistake')")
print("a write through a reader: " .. (ok and "done" or err.sqlstate))

tenants:dispose()
