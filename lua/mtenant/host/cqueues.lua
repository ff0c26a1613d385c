--- cqueues and lua-http: their coroutines wait as any call of cqueues does.
--
--     local cqueues = require "cqueues"
--     local loop = cqueues.new()
--     require("mtenant.host.cqueues").attach(loop)

local condition = require "cqueues.condition"
local core = require "mtenant.core"
local cqueues = require "cqueues"
local errors = require "mtenant.errors"
local host = require "mtenant.host"
local task = require "mtenant.task"


local may_wait, running = core.may_wait, coroutine.running


-- so often the last coroutine left looks whether it is
local ALONE_S = 0.5

local guests = setmetatable({}, { __mode = "k" })


-- Steps while there is something to do for others: as long as other
-- coroutines are in the loop, or somebody waits.
local function pump(state)
  local fd = state.fd
  local object = {
    pollfd = fd, events = "r",
    timeout = function() return ALONE_S end,
  }
  repeat
    cqueues.poll(object)
    host.step()
  until state.loop:count() <= 1 and host.idle()
  state.pumping = false
end


local M = {}


--- Lets mtenant's calls wait in the coroutines of a controller. The loop ends
-- by itself when only idle connections are left.
---@param loop userdata  what cqueues.new() has made
function M.attach(loop)
  if cqueues.type(loop) ~= "controller" then
    errors.misuse(2, "attach: loop must be what cqueues.new() makes")
  end
  local state = { loop = loop, pumping = false }
  state.fd = host.attach({
    name = "cqueues",
    blocks = true,
    here = function()
      local controller, direct = cqueues.running()
      if not controller then
        return nil, "call it in a coroutine of the controller (loop:wrap)"
      elseif controller ~= loop then
        return nil, "this is another controller than the one attached"
      end
      local co = running()
      if direct and may_wait(co) then return co, guests end
      return nil, direct and task.ACROSS_C or task.OWN_COROUTINE
    end,
    waiter = condition.new,
    wait = function(waiter) waiter:wait() end,
    wake = function(waiter) waiter:signal() end,
    busy = function()
      if state.pumping then return end
      state.pumping = true
      loop:wrap(pump, state)
    end,
  })
end


return M
