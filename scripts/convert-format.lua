--- mtenant convert-format: changes the format of the tables of records.

local cli = require "mtenant.cli"

return cli.run("convert-format", function(run)
  run:need_tenants()
  local opts, ids, migrator = run.opts, run:tenants(), run:migrator()
  local words = {
    dry_run = opts.dry_run,
    done = (opts.dry_run and "would be " or "") .. "converted to " .. opts.to,
  }
  return run:batch_of_each(ids, words, function(id)
    return migrator:convert_format(id, opts.to, { dry_run = opts.dry_run })
  end)
end)
