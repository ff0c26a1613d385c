--- The checks of suite.lua in coroutines of cqueues.
--
--     lua5.4 tests/host/cqueues.lua URL

local cqueues = require "cqueues"
local mtenant = require "mtenant"
local suite = require "tests.host.suite"

local loop = cqueues.new()
require("mtenant.host.cqueues").attach(loop)

local failed
loop:wrap(function()
  failed = suite.run({
    mtenant = mtenant, url = arg[1], say = print,
    start = function(fn) loop:wrap(fn) end,
    pause = function(ms) cqueues.sleep(ms / 1000) end,
  })
end)
assert(loop:loop())
os.exit(failed == 0 and 0 or 1, true)
