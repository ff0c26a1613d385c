--- mtenant policy: checks a policy file, or shows how it spreads tenants.

local cli = require "mtenant.cli"
local policies = require "mtenant.cli.policies"
local policy = require "mtenant.policy"
local simulate = require "mtenant.cli.simulate"


local function show_case(run, result)
  local console = run.console
  console:event({ event = "selftest", name = result.name, success = result.ok,
                  message = result.message })
  if not result.ok and not console.json then
    console:warn({ "red", "failed  " }, result.name, ": ", result.message)
  elseif run.opts.verbose then
    console:say({ "green", "ok      " }, result.name)
  end
end


local function check(run)
  local opened = policies.open(run, run.opts.file)
  local loaded = opened.policy
  local results = run:must(policy.run_selftest(loaded, opened.manager._config))
  opened:close()
  for _, result in ipairs(results) do show_case(run, result) end
  run.console:event({ event = "summary", total = #results,
                      failed = results.failed, version = loaded.version })
  local good = results.failed == 0
  run.console:say({ good and "green" or "red",
    #results == 0 and "it loads, and has no self-tests"
    or good and ("%d self-tests passed"):format(#results)
    or ("%d of %d self-tests failed"):format(results.failed, #results) })
  return good and 0 or 1
end


local function ask(run, path, ids)
  local opened = policies.open(run, path)
  local result = simulate.ask(run, opened, ids)
  opened:close()
  return result
end


local function say_moved(run, moved, before, after)
  for _, id in ipairs(run.opts.verbose and moved or {}) do
    local from, to = before.of[id], after.of[id]
    run.console:event({ event = "tenant", tenant_id = id, from = from, to = to })
    run.console:say(("%s  %s -> %s"):format(id, from or "(none)", to or "(none)"))
  end
end


local function run_simulation(run)
  local opts = run.opts
  if not opts.tenants then
    run:usage("say which tenants: --tenants FILE, or - for standard input")
  end
  local ids = simulate.tenants(run, opts.tenants)
  local after = ask(run, opts.file, ids)
  if not opts.against then return simulate.report(run, ids, after) end
  local before = ask(run, opts.against, ids)
  local total, list, moved = simulate.moves(ids, before, after)
  say_moved(run, moved, before, after)
  return simulate.report(run, ids, after, {
    total = total, list = list, before = before, against = opts.against,
  })
end


return cli.run("policy", function(run)
  if run.opts.action == "check" then return check(run) end
  return run_simulation(run)
end)
