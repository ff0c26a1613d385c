--- Where a customer's notes live: the routing policy of the notes service.
--
-- Customers stand in a table of the shared schema, with their schema's name; a
-- real one would name a server (`url`) and a role, too. Asked once per tenant,
-- when it is first used; `manager:invalidate(id)` makes it be asked again.

local M = {}


--- For the configuration's `resolve`.
function M.resolve(id, ctx)
  local customer, err = ctx.shared:one(
    "SELECT schema_name, active FROM customers WHERE id = $1", id)
  if err then
    return nil, err
  elseif not customer or not customer.active then
    return nil, "no such customer"
  end
  return { schema = customer.schema_name }
end


--- The customer that a host name names: the first label of acme.example.test.
function M.tenant_of_host(host)
  return host and host:lower():match("^([a-z0-9-]+)%.[a-z0-9.-]+")
end


--- The manager's configuration, with what one would set in production.
---@param url string
function M.config(url)
  return {
    connection = {
      url = url,
      application_name = "notes",
      max_connections = 20,
      statement_timeout_ms = 5000,
      pool = { max = 10, acquire_timeout_ms = 2000 },
      retry = { max_attempts = 10, deadline_ms = 10000 },
    },
    rate_limit = { max_queries_per_second = 500, burst = 1000,
                   on_exceeded = "reject" },
    resolve = M.resolve,
  }
end


return M
