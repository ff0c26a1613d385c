--- The checks of suite.lua in a plain Lua, and in mtenant-run.
--
--     lua5.4 tests/host/run.lua URL

local mtenant = require "mtenant"
local suite = require "tests.host.suite"

local failed = mtenant.run(suite.run, {
  mtenant = mtenant, url = arg[1], say = print,
  start = mtenant.spawn, pause = mtenant.sleep,
})
os.exit(failed == 0 and 0 or 1, true)
