--- Where a tenant lives: the demo's routing policy.
--
-- A tenant's region and plan stand in a directory table; its schema is named
-- after them. A real policy may as well answer with the `url` of another server,
-- or with a `role`. Asked once per tenant, when it is first used.

local M = {}

-- What the demo keeps outside its tenants' schemas.
M.DIRECTORY = "mtenant_demo"

local LOOKUP = [[
  SELECT id, region, plan FROM mtenant_demo.tenants WHERE id = $1
]]


--- The schema of a tenant with these id, region and plan.
function M.schema_name(tenant)
  local name = tenant.id:gsub("-", "_")
  return ("demo_%s_%s_%s"):format(tenant.region, tenant.plan, name)
end


--- For the configuration's `resolve`. `ctx.shared` is the shared database.
function M.resolve(id, ctx)
  local tenant, err = ctx.shared:one(LOOKUP, id)
  if err then
    return nil, err
  elseif not tenant then
    return nil, "it is not in the directory"
  end
  return { schema = M.schema_name(tenant) }
end


return M
