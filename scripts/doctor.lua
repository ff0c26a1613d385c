--- mtenant doctor: what is wrong with the configuration, servers and tenants.

local cli = require "mtenant.cli"
local doctor = require "mtenant.cli.doctor"

return cli.run("doctor", doctor.run)
