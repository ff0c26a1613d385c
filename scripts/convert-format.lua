--- mtenant convert-format: changes the format of the tables of records.

local cli = require "mtenant.cli"

return cli.run("convert-format", function(run)
  run:need_tenants()
  local opts, ids, migrator = run.opts, run:tenants(), run:migrator()
  local words = {
    dry_run = opts.dry_run,
    done = (opts.dry_run and "would be " or "") .. "converted to " .. opts.to,
    same = "unchanged",
    again = true,
    changed = function(result)
      return #(result.pending_migrations or result.converted or {}) > 0
    end,
  }
  return run:batch(ids, words, function(o)
    o.dry_run, o.tenants = opts.dry_run, ids
    return migrator:convert_all_formats(opts.to, o)
  end)
end)
