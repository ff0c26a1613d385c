--- mtenant seed: calls a file's function for each tenant.

local cli = require "mtenant.cli"
local errors = require "mtenant.errors"
local report = require "mtenant.cli.report"


-- What the file returns, as a function.
local function load_seed(run)
  local path = run.opts.file
  local ok, value = pcall(run:must(loadfile(path)))
  if not ok then
    run:fail(errors.text_of(value))
  end
  local seed = type(value) == "table" and value.seed or value
  if type(seed) ~= "function" then
    run:fail(path .. " returns neither a function nor a table with one as seed")
  end
  return seed
end


return cli.run("seed", function(run)
  if not run.opts.shared then
    run:need_tenants()
  end
  local words = { done = "seeded" }
  local seed = load_seed(run)
  local ids = run:has_tenants() and run:tenants() or {}
  local migrator = run:migrator()
  if run.opts.shared then
    local result = run:must(migrator:seed_shared(seed))
    if not report.shared(run.console, words, result) then
      return 1
    end
  end
  if #ids == 0 then
    return 0
  end
  return run:batch(ids, words, function(o)
    return migrator:seed_tenants(ids, seed, o)
  end)
end)
