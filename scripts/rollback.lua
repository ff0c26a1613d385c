--- mtenant rollback: takes migrations back.

local cli = require "mtenant.cli"
local confirm = require "mtenant.cli.confirm"


local function question(opts, n)
  local what = opts.to and "all migrations after " .. opts.to
    or opts.steps == 1 and "the last migration"
    or ("the last %d migrations"):format(opts.steps)
  return ("This takes back %s of %d tenant%s."):format(what, n,
                                                      n == 1 and "" or "s")
end


return cli.run("rollback", function(run)
  run:need_tenants()
  confirm.check(run)
  local opts, ids = run.opts, run:tenants()
  opts.steps = not opts.to and (opts.steps or 1) or nil
  confirm.ask(run, question(opts, #ids), "yes")
  local words = {
    done = "rolled back", same = "unchanged", unit = "taken back",
    again = opts.to ~= nil, -- with --steps it would take back more
    items = function(result) return result.reverted_migrations end,
  }
  return run:batch(ids, words, function(o)
    o.steps, o.to = opts.steps, opts.to
    return run:migrator():rollback_tenants(ids, o)
  end)
end)
