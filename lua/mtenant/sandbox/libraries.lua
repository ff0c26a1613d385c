--- The libraries that a policy gets in its sandbox. Text that the host hands to
-- core.sandbox; the chunk gets what src/lua/sandbox_lib.c offers and returns
-- the policy's globals. Nothing of the host can be required here.
--
-- Rule of this file: a function of C that a policy can call takes a bounded
-- time, or looks at the clock (`charge`), or is written in Lua, where the
-- instruction hook does. Nothing here calls a function that the policy could
-- have replaced: everything is a local.

local lib = ...
local charge, check, find, shallow, step =
  lib.charge, lib.check, lib.find, lib.shallow, lib.step
local concat, insert, remove, raw_sort = table.concat, table.insert,
  table.remove, table.sort
local raw_move = table.move -- luacheck: ignore 143
local date, floor = os.date, math.floor
local byte, format, raw_rep, sub = string.byte, string.format, string.rep,
  string.sub
local collectgarbage, error, pairs, rawget = collectgarbage, error, pairs, rawget
local select, tonumber, tostring, type = select, tonumber, tostring, type
local raw_metatable, raw_setmetatable = debug.getmetatable, setmetatable
local pcall = pcall
local unpack = table.unpack or unpack -- luacheck: ignore 143

-- no string may be longer, no range of a table wider, no result list longer
local LONGEST = lib.longest
local WIDEST, MANY = 1e6, 4000

local env = {}


-- the caller of the function that asks gets the blame
local function refuse(fmt, ...)
  error(format(fmt, ...), 3)
end


-- ---- errors ----------------------------------------------------------------------

-- What stops a policy is raised again at every look, so here as well.
local function checked(ok, ...)
  if not ok then check() end
  return ok, ...
end


function env.pcall(f, ...)
  shallow()
  return checked(pcall(f, ...))
end


local function handled(handler, ok, ...)
  if ok then return true, ... end
  check()
  local handler_ok, value = pcall(handler, ...)
  if not handler_ok then check() end
  return false, value
end


-- The handler runs behind the error: Lua's own would run it inside of the hook
-- that raises, where no hook runs.
function env.xpcall(f, handler, ...)
  shallow()
  return handled(handler, pcall(f, ...))
end


-- ---- tables ----------------------------------------------------------------------

-- Of a table that answers for itself nothing is known: how long it is, or
-- whether the answer comes from a loop in C.
local function plain(t, name)
  if type(t) ~= "table" then
    refuse("bad argument #1 to '%s' (table expected, got %s)", name, type(t))
  end
  local mt = raw_metatable(t)
  if mt and (rawget(mt, "__len") ~= nil or rawget(mt, "__index") ~= nil
             or rawget(mt, "__newindex") ~= nil) then
    refuse("%s: in a policy not of a table with __index, __newindex or __len",
           name)
  end
  return t
end


local function bounded(first, last, name, most)
  local n = last - first + 1
  if n ~= n or n > most then refuse("%s: at most %d items", name, most) end
  if n > 0 then charge(n * 16) end
end


local tables = {}


function tables.concat(t, sep, i, j)
  plain(t, "concat")
  i, j = i or 1, j or #t
  bounded(i, j, "concat", WIDEST)
  return concat(t, sep, i, j)
end


-- LuaJIT would move items for as far as a position is off
function tables.insert(t, ...)
  plain(t, "insert")
  local n = #t
  charge(n)
  if select("#", ...) > 1 then
    local position = tonumber((...))
    if not (position and position >= 1 and position <= n + 1) then
      refuse("bad argument #2 to 'insert' (position out of bounds)")
    end
  end
  return insert(t, ...)
end


function tables.remove(t, ...)
  plain(t, "remove")
  charge(#t)
  return remove(t, ...)
end


-- without one it would compare in C
local function less(a, b)
  return a < b
end


function tables.sort(t, before)
  plain(t, "sort")
  before = before or less
  return raw_sort(t, function(a, b) return before(a, b) end)
end


function tables.unpack(t, i, j)
  plain(t, "unpack")
  i, j = i or 1, j or #t
  bounded(i, j, "unpack", MANY)
  return unpack(t, i, j)
end


function tables.pack(...)
  return { n = select("#", ...), ... }
end


function tables.move(from, first, last, at, to)
  plain(from, "move")
  to = plain(to == nil and from or to, "move")
  bounded(first, last, "move", WIDEST)
  return raw_move(from, first, last, at, to)
end


-- ---- strings ---------------------------------------------------------------------

local strings = { find = find, match = lib.match }


-- what may be made of texts that are there
local function too_long(n, name)
  if n > LONGEST then
    error(format("%s: at most %d bytes", name, LONGEST), 3)
  end
end


-- what goes over its first argument once
local function linear(f)
  return f and function(s, ...)
    if type(s) == "string" then charge(#s) end
    return f(s, ...)
  end
end

for _, name in pairs { "lower", "upper", "reverse", "sub" } do
  strings[name] = linear(string[name])
end
strings.char, strings.len = string.char, string.len


-- a subject as the functions of C take it
local function text_of(s, name)
  if type(s) == "number" then return tostring(s) end
  if type(s) == "string" then return s end
  error(format("bad argument #1 to '%s' (string expected, got %s)", name,
               type(s)), 3)
end


function strings.byte(s, i, j)
  s, i = text_of(s, "byte"), i or 1
  j = j or i
  local first = i < 0 and i + #s + 1 or i
  local last = j < 0 and j + #s + 1 or j
  bounded(first < 1 and 1 or first, last > #s and #s or last, "byte", MANY)
  return byte(s, i, j)
end


function strings.rep(s, n, sep)
  s, sep = text_of(s, "rep"), sep ~= nil and text_of(sep, "rep") or ""
  n = tonumber(n) or refuse("bad argument #2 to 'rep' (number expected)")
  local length = #s * n + #sep * (n - 1)
  if not (n > 0 and length > 0) then return "" end
  too_long(length, "rep")
  charge(length)
  return raw_rep(s, floor(n), sep)
end


-- Widths have two digits at most, Lua sees to that; __tostring is the policy's.
function strings.format(fmt, ...)
  fmt = text_of(fmt, "format")
  local n = #fmt
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "string" then n = n + #value end
  end
  too_long(n, "format")
  charge(4 * n)
  return format(fmt, ...)
end


local function captures(state, b, behind, ...)
  if not b then
    state.from = false
    return nil
  end
  state.from, state.last = behind, behind
  return ...
end


-- an empty match does not follow a match, as in Lua 5.4
function strings.gmatch(s, pattern, from)
  s = text_of(s, "gmatch")
  local state = { from = from or 1 }
  return function()
    if not state.from or state.from > #s + 1 then return nil end
    return captures(state, step(s, pattern, state.from, state.last, false))
  end
end


-- the captures that %0 to %9 name
local function expand(repl, whole, ...)
  local out, n, at = {}, 0, 1
  while true do
    local from = find(repl, "%", at, true)
    if not from then break end
    local c = sub(repl, from + 1, from + 1)
    local value
    if c == "%" then
      value = "%"
    elseif c == "0" then
      value = whole
    elseif find("123456789", c, 1, true) and c ~= "" then
      if tonumber(c) > select("#", ...) then
        error("invalid capture index %" .. c .. " in replacement string", 0)
      end
      value = (select(tonumber(c), ...))
    else
      error("invalid use of '%' in replacement string", 0)
    end
    out[n + 1], out[n + 2], n = sub(repl, at, from - 1), value, n + 2
    at = from + 2
  end
  if n == 0 then return repl end
  out[n + 1] = sub(repl, at)
  return concat(out)
end


local REPLACE = {}


function REPLACE.string(repl, whole, ...)
  return expand(repl, whole, ...)
end
REPLACE.number = function(repl) return tostring(repl) end


function REPLACE.table(repl, _, first)
  return repl[first]
end


REPLACE["function"] = function(repl, _, ...)
  return repl(...)
end


local function replaced(value, whole)
  if not value then return whole end
  if type(value) == "string" or type(value) == "number" then return value end
  error(format("invalid replacement value (a %s)", type(value)), 0)
end


-- one replacement; its values are those of lib.step
local function replace(job, b, behind, ...)
  if not b then return false end
  local out, s = job.out, job.s
  local whole = sub(s, b, behind - 1)
  out[#out + 1] = sub(s, job.from, b - 1)
  out[#out + 1] = replaced(job.replace(job.repl, whole, ...), whole)
  job.from, job.last, job.n = behind, behind, job.n + 1
  return true
end


function strings.gsub(s, pattern, repl, most)
  s, pattern = text_of(s, "gsub"), text_of(pattern, "gsub")
  local how = REPLACE[type(repl)]
  if not how then
    error("bad argument #3 to 'gsub' (string/function/table expected, got "
      .. type(repl) .. ")", 2)
  end
  local anchored = sub(pattern, 1, 1) == "^"
  local job = { s = s, repl = repl, replace = how, out = {}, from = 1, n = 0 }
  most = most or #s + 1
  while job.n < most and job.from <= #s + 1 do
    if not replace(job, step(s, pattern, job.from, job.last, anchored)) then
      break
    end
    if anchored then break end
  end
  job.out[#job.out + 1] = sub(s, job.from)
  return concat(job.out), job.n
end


local string_mt = raw_metatable("")
string_mt.__index = strings
string_mt.__metatable = "a string's metatable"


-- ---- the rest --------------------------------------------------------------------

for _, name in pairs { "assert", "error", "getmetatable", "ipairs", "next",
                       "pairs", "rawequal", "rawget", "rawlen", "rawset",
                       "select", "tonumber", "tostring", "type", "_VERSION" } do
  env[name] = _G[name]
end


-- Finalizers run where no hook does.
function env.setmetatable(t, mt)
  if type(mt) == "table" and rawget(mt, "__gc") ~= nil then
    error("setmetatable: __gc has no place in a policy", 2)
  end
  return raw_setmetatable(t, mt)
end


-- how much memory, and nothing else of the collector
function env.collectgarbage(what)
  if what ~= "count" then
    error('collectgarbage: a policy may ask for "count"', 2)
  end
  return collectgarbage("count")
end


-- A copy of a library: the original is what this file uses.
local function copy(of, linear_ones)
  if not of then return nil end
  local out = {}
  for name, f in pairs(of) do
    out[name] = linear_ones and type(f) == "function" and linear(f) or f
  end
  return out
end

env._G = env
env.math, env.bit, env.utf8 = copy(math), copy(rawget(_G, "bit")),
  copy(rawget(_G, "utf8"), true)
env.string, env.table = strings, tables
env.unpack = tables.unpack
env.os = { time = os.time, clock = os.clock, difftime = os.difftime }


function env.os.date(fmt, time)
  fmt = fmt == nil and "%c" or text_of(fmt, "date")
  if #fmt > 200 then refuse("date: the format is longer than 200 bytes") end
  return date(fmt, time)
end


return env
