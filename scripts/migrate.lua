--- mtenant migrate: brings tenants up to date.

local cli = require "mtenant.cli"
local migration = require "mtenant.cli.migration"
local results = require "mtenant.migrator.results"

return cli.run("migrate", function(run)
  run:need_tenants()
  local opts, ids = run.opts, run:tenants()
  local ready = not opts.with_shared or migration.shared(run)
  return run:batch(ids, migration.words(opts), function(o)
    if not ready then
      return results.all_skipped(ids, nil, "Skipped: the shared schema failed")
    end
    o.dry_run, o.mark_applied = opts.dry_run, opts.mark_applied
    return run:migrator():migrate_tenants(ids, o)
  end)
end)
