--- A fleet of PostgreSQL servers: tenants are hashed over them, and who has been
-- moved by hand stands in a table.
--
-- The servers are those of the configuration. A server that is added takes its part
-- of the tenants: `mtenant policy simulate` tells whom, before it is done.

local directory = require "mtenant.policy.directory"
local fallback = require "mtenant.policy.fallback"
local hashed = require "mtenant.policy.hashed"

local MOVED = 'SELECT "server" AS "server" FROM "moved" WHERE "id" = $1'

return fallback.new {
  policies = {
    -- "moved" has the triggers of directory.sql, so that all programs hear at once
    directory.new { table = "moved", columns = { server = "server" } },
    hashed.new(),
  },
  ttl_ms = 300000,
  selftest = {
    { name = "one who was moved", tenant_id = "t1",
      shared = { [MOVED] = { { server = "east" } } },
      route = { server = "east" } },
    { name = "another one", tenant_id = "t2", shared = { [MOVED] = {} } },
  },
}
