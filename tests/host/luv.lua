--- The checks of suite.lua in coroutines over luv's loop.
--
--     lua5.4 tests/host/luv.lua URL

local mtenant = require "mtenant"
local suite = require "tests.host.suite"
local uv = require "luv"

require("mtenant.host.luv").attach()

local function pause(ms)
  local co, timer = coroutine.running(), uv.new_timer()
  timer:start(ms, 0, function()
    timer:close()
    assert(coroutine.resume(co))
  end)
  coroutine.yield()
end

local failed
coroutine.wrap(function()
  failed = suite.run({
    mtenant = mtenant, url = arg[1], say = print, pause = pause,
    start = function(fn) coroutine.wrap(fn)() end,
  })
end)()
uv.run()
os.exit(failed == 0 and 0 or 1, true)
