--- luv: any coroutine waits, as with luv's own callbacks.
--
--     local uv = require "luv"
--     require("mtenant.host.luv").attach()
--     coroutine.wrap(function() ... end)()
--     uv.run()

local core = require "mtenant.core"
local host = require "mtenant.host"
local uv = require "luv"


local guests = setmetatable({}, { __mode = "k" })
local may_wait = core.may_wait
local running, resume = coroutine.running, coroutine.resume


-- what a coroutine raises is told as luv tells it of its callbacks
local function go_on(waiter)
  local co = waiter.co
  waiter.co = nil
  if not co then return end
  local ok, err = resume(co)
  if not ok then
    io.stderr:write("Uncaught error in a coroutine: ",
                    debug.traceback(co, tostring(err)), "\n")
  end
end


local M = {}


--- Lets mtenant's calls wait in coroutines, on luv's loop. It does not keep
-- uv.run from returning when nobody waits for anything.
function M.attach()
  local poll, referenced
  local function busy()
    if referenced then return end
    referenced = true
    poll:ref()
  end
  local fd = host.attach({
    name = "luv",
    blocks = true,
    here = function()
      local co, main = running()
      if not co or main or not may_wait(co) then
        return nil, "call it in a coroutine (coroutine.wrap) that may yield"
      end
      return co, guests
    end,
    waiter = function() return {} end,
    wait = function(waiter)
      waiter.co = running()
      coroutine.yield()
    end,
    wake = go_on,
    busy = busy,
  })
  poll = assert(uv.new_poll(fd))
  poll:unref()
  assert(poll:start("r", function()
    host.step()
    if referenced and host.idle() then
      referenced = false
      poll:unref()
    end
  end))
end


return M
