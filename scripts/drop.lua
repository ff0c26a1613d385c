--- mtenant drop: removes a tenant's schema with all that is in it.

local cli = require "mtenant.cli"
local confirm = require "mtenant.cli.confirm"

return cli.run("drop", function(run)
  confirm.check(run)
  local id, migrator = run.opts.id, run:migrator()
  if not run:must(migrator:tenant_exists(id)) then
    run:fail(("there is no tenant %q"):format(id))
  end
  confirm.ask(run, ("This removes the tenant %s with all its data."):format(id), id)
  return run:batch({ id }, { done = "dropped" }, function()
    local ok, err = migrator:drop_tenant(id, {
      cascade = not run.opts.restrict,
    })
    return { details = { { tenant_id = id, success = ok ~= nil, error = err } } }
  end)
end)
