--- mtenant create: makes a tenant, with all migrations.

local cli = require "mtenant.cli"
local migration = require "mtenant.cli.migration"

return cli.run("create", function(run)
  local words = migration.words({})
  words.done, words.same = "created", "created"
  return run:batch({ run.opts.id }, words, function()
    local result, err = run:migrator():create_tenant(run.opts.id, {
      migrate = not run.opts.no_migrate,
    })
    return result and { details = { result } }, err
  end)
end)
