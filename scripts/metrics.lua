--- mtenant metrics: what a running process does.

local cli = require "mtenant.cli"
local endpoint = require "mtenant.cli.endpoint"
local process = require "mtenant.cli.process"

local OPENMETRICS = "application/openmetrics-text;version=1.0.0"

return cli.run("metrics", function(run)
  local opts, ask = run.opts, endpoint.client(run)
  return endpoint.watch(run, function()
    if opts.prometheus or opts.openmetrics then
      local status, text = ask("/metrics", opts.openmetrics and OPENMETRICS)
      if status ~= 200 then
        run:fail(("it answers with status %d"):format(status), endpoint.UNKNOWN)
      end
      io.stdout:write(text)
      return 0
    end
    local document, text = endpoint.document(run, ask, "/status.json")
    if opts.json then io.stdout:write(text) end
    process.status(run.console, document)
    return 0
  end)
end)
