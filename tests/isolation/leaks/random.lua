--- Seeded random numbers. Operation i of a run draws from a generator of its
-- own, made of the seed and i, so that what it does does not hang on when the
-- server answered others.

local M = {}

local methods = {}
local mt = { __index = methods }


--- splitmix64: good enough, and the same everywhere.
local function next_bits(self)
  local z = self.state + 0x9e3779b97f4a7c15
  self.state = z
  z = (z ~ (z >> 30)) * 0xbf58476d1ce4e5b9
  z = (z ~ (z >> 27)) * 0x94d049bb133111eb
  return z ~ (z >> 31)
end


--- A generator for operation `index` of the run with this seed.
---@param seed integer
---@param index integer
function M.new(seed, index)
  local self = setmetatable({ state = seed * 0x2545f4914f6cdd1d + index }, mt)
  self.state = next_bits(self)
  return self
end


--- An integer from 1 to n.
function methods:int(n)
  return (next_bits(self) >> 1) % n + 1
end


--- True in `percent` of 100 cases.
function methods:chance(percent)
  return self:int(100) <= percent
end


--- One item of a list.
function methods:pick(list)
  return list[self:int(#list)]
end


--- Makes pick_weighted's table of `{ name, weight, fn }` rows.
function M.weighted(rows)
  local out = { total = 0 }
  for i, row in ipairs(rows) do
    out.total = out.total + row[2]
    out[i] = { name = row[1], limit = out.total, run = row[3] }
  end
  return out
end


--- A row of a weighted table.
function methods:pick_weighted(rows)
  local n = self:int(rows.total)
  for _, row in ipairs(rows) do
    if n <= row.limit then return row end
  end
end


return M
