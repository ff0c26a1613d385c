--- Reads go to a standby, as long as it is not more than half a second behind and
-- has what the tenant itself has written.

local replicas = require "mtenant.policy.replicas"

return replicas.new {
  primary = { server = "primary", schema = "tenant_{id}" },
  replicas = { "standby" },
  max_lag_ms = 500,
  read_your_writes = true,
  selftest = {
    { tenant_id = "acme",
      route = { server = "primary", schema = "tenant_acme",
                read = { "standby", max_lag_ms = 500 } } },
  },
}
