--- A function that runs on a stack of its own.
-- A coroutine's stack is doubled when a call needs more, and never halved while
-- it waits: ten thousand tasks that wait keep what their deepest call took. So
-- what is called by many of them, is deep and does not wait runs apart.

local co_create, co_resume, co_yield =
  coroutine.create, coroutine.resume, coroutine.yield
local error = error


-- LuaJIT's stacks are made otherwise, and in OpenResty a coroutine belongs to
-- the request that has made it.
if rawget(_G, "jit") then
  return function(fn) return fn end
end


--- fn on a coroutine of its own: the last one's, unless fn has raised there or
-- is still running (a hook may call it again). fn must not wait.
---@param fn fun(a: any, b: any): any, any
---@return fun(a: any, b: any): any, any
return function(fn)
  local idle, value, err

  -- what it was given and what it returns is not kept by its stack
  local function new()
    local own
    own = co_create(function(a, b)
      while true do
        value, err = fn(a, b)
        a, b = nil, nil -- luacheck: ignore 311
        a, b = co_yield(own)
      end
    end)
    return own
  end

  local function hand_on(ok, own)
    if not ok then error(own, 0) end
    local first, second = value, err
    idle, value, err = own, nil, nil
    return first, second
  end

  return function(a, b)
    local own = idle or new()
    idle = nil
    return hand_on(co_resume(own, a, b))
  end
end
