--- The options of the shipped policies, checked. Pure; also runs in the sandbox,
--- so it knows no other module.

local error, ipairs, pairs, type = error, ipairs, pairs, type


local M = {}

-- What every policy takes and hands on as it is, with its kind.
local PASSED_ON = { identify = "function", ttl_ms = "number",
                    negative_ttl_ms = "number", on_event = "function",
                    selftest = "table", version = "string" }
M.PASSED_ON = PASSED_ON

-- What stands for a policy: itself, a resolve function, a route, or the name of
-- a server.
local POLICY = { ["function"] = true, table = true, string = true }


-- What raises at the caller of `new`, three calls away from here.
local function complain(name, message)
  error("[mtenant] policy." .. name .. ": " .. message, 4)
end


local function known(fields)
  local names = {}
  for key in pairs(fields) do names[#names + 1] = key end
  for key in pairs(PASSED_ON) do names[#names + 1] = key end
  table.sort(names)
  return table.concat(names, ", ")
end


local function fits(kind, value)
  if kind == "policy" then return POLICY[type(value)] end
  return kind == type(value)
end


-- NaN is out of every range
local function in_range(field, value)
  if type(value) ~= "number" then return true end
  return value == value and (not field.min or value >= field.min)
    and (not field.max or value <= field.max)
end


-- what is wrong with a value, or nil
local function problem(key, field, value)
  local kinds = type(field[1]) == "table" and field[1] or { field[1] }
  for _, kind in ipairs(kinds) do
    if fits(kind, value) then
      if in_range(field, value) then return nil end
      return ("%s must be from %s to %s, got %s"):format(key,
        tostring(field.min), tostring(field.max or "any"), tostring(value))
    end
  end
  return ("%s must be a %s, got %s"):format(key,
    table.concat(kinds, " or a "), type(value))
end


--- A checked copy of a policy's options; raises at the caller of `new`.
---@param name string  of the policy
---@param opts table
---@param fields table<string, table>  { kind or kinds, required =, default =,
--- min =, max = }; a kind is a type's name or "policy"
---@return table
function M.check(name, opts, fields)
  if type(opts) ~= "table" then
    complain(name, "options must be a table, got " .. type(opts))
  end
  local out = {}
  for key, value in pairs(opts) do
    local field = fields[key] or PASSED_ON[key] and { PASSED_ON[key], min = 0 }
    if not field then
      complain(name, ("%s is no option, these are: %s"):format(tostring(key),
        known(fields)))
    end
    local wrong = problem(key, field, value)
    if wrong then complain(name, wrong) end
    out[key] = value
  end
  for key, field in pairs(fields) do
    if out[key] == nil and field.required then
      complain(name, key .. " is required")
    end
    if out[key] == nil then out[key] = field.default end
  end
  return out
end


return M
