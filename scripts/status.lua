--- mtenant status: what each tenant has and lacks.

local cli = require "mtenant.cli"
local status = require "mtenant.cli.status"

return cli.run("status", function(run)
  local opts, ids, migrator = run.opts, run:tenants(), run:migrator()
  local list = run:must(migrator:get_status({ tenants = ids }))
  local shared = opts.include_shared and run:must(migrator:get_shared_status())
  local failed, pending = status.show(run.console, list, shared)
  return (failed > 0 or opts.exit_code and pending > 0) and 1 or 0
end)
