--- mtenant convert-format: changes the format of the tables of records.

local cli = require "mtenant.cli"


-- What would be done, as results.
local function look(migrator, ids, to)
  local list, err = migrator:get_status({ tenants = ids })
  if not list then
    return nil, err
  end
  for _, one in ipairs(list) do
    one.success = one.status ~= "error"
    one.converted = one.format and one.format ~= to and { one.format } or {}
  end
  return { details = list }
end


return cli.run("convert-format", function(run)
  run:need_tenants()
  local opts, ids, migrator = run.opts, run:tenants(), run:migrator()
  local words = {
    dry_run = opts.dry_run,
    done = (opts.dry_run and "would be " or "") .. "converted to " .. opts.to,
    same = "unchanged",
    again = true,
    changed = function(result) return #result.converted > 0 end,
  }
  return run:batch(ids, words, function(o)
    if opts.dry_run then
      return look(migrator, ids, opts.to)
    elseif opts.all then
      return migrator:convert_all_formats(opts.to, o)
    end
    return run:each(ids, o, function(id)
      return migrator:convert_format(id, opts.to)
    end)
  end)
end)
