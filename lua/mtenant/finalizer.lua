--- A thing to be kept in a field of an object: when nobody has it any more, fn is
--- called. LuaJIT has finalizers for userdata only.

local newproxy = newproxy -- luacheck: ignore 113


---@param fn fun()
---@return table|userdata
return function(fn)
  if not newproxy then return setmetatable({}, { __gc = fn }) end
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = fn
  return proxy
end
