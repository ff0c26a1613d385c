--- Five files of migrations on many empty schemas, by the migrator.
--   --tenants=200 --concurrency=auto --folder=DIR
-- Reading what is there, the locks and the checksums are in it.

local bench = require "bench"
local mtenant = bench.mtenant()

local options = bench.options { tenants = 200, concurrency = "auto",
                                folder = "" }

local ids = {}
for i = 1, options.tenants do ids[i] = ("%04d"):format(i) end

local result = mtenant.run(function()
  local migrator = mtenant.create_migrator({
    connection = { url = os.getenv "BENCH_URL" },
    isolation = { strategy = "schema",
                  schema_name_template = function(id) return "m_" .. id end },
  }, { migrations_folder = options.folder,
       tenant_discovery = function() return ids end })
  bench.begin()
  local results = assert(migrator:migrate_all({
    concurrency = tonumber(options.concurrency) or options.concurrency }))
  bench.finish()
  migrator:dispose()
  for _, r in ipairs(results.details) do
    if r.error then error(r.error, 0) end
  end
  return { name = "mtenant", n = results.succeeded, check = results.succeeded,
           conns = 0 }
end)
bench.report(result)
