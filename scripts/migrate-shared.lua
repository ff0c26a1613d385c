--- mtenant migrate-shared: brings the shared schema up to date.

local cli = require "mtenant.cli"
local migration = require "mtenant.cli.migration"

return cli.run("migrate-shared", function(run)
  run.opts.folder_is = "shared"
  return migration.shared(run) and 0 or 1
end)
