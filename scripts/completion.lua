--- mtenant completion: a script that makes a shell complete these commands.

local cli = require "mtenant.cli"
local parser = require "mtenant.cli.parser"

return cli.run("completion", function(run)
  io.stdout:write(parser.completion(run.opts.shell))
  return 0
end)
