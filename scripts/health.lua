--- mtenant health: whether a running process reaches its servers.

local cli = require "mtenant.cli"
local endpoint = require "mtenant.cli.endpoint"
local process = require "mtenant.cli.process"

return cli.run("health", function(run)
  local ask = endpoint.client(run)
  local path = run.opts.ready and "/ready" or "/health"
  return endpoint.watch(run, function()
    local document, text, status = endpoint.document(run, ask, path)
    local word = run.opts.ready and (document.ready and "ready" or "not ready")
      or document.status
    if run.opts.json then io.stdout:write(text) end
    process.servers(run.console, document)
    run.console:say({ status == 200 and "green" or "red", word },
                    document.reason and ": " .. document.reason or "")
    return status == 200 and 0 or 1
  end)
end)
