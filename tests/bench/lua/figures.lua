--- Figures of a program over the rounds. A program is a table with its runs
-- by round in `rounds`.

local M = {}


local function median(values)
  if #values == 0 then return nil end
  table.sort(values)
  local middle = #values // 2
  if #values % 2 == 1 then return values[middle + 1] end
  return (values[middle] + values[middle + 1]) / 2
end


function M.values_of(program, key)
  local values = {}
  for _, r in pairs(program.rounds) do values[#values + 1] = r[key] end
  return values
end


function M.middle_of(program, key)
  return program and median(M.values_of(program, key))
end


function M.largest(program, key)
  local values = program and M.values_of(program, key) or {}
  table.sort(values)
  return values[#values]
end


--- The median over the rounds of program[key] / base[key] in the same round.
function M.ratio(program, base, key)
  local ratios = {}
  for round, r in pairs(program and base and program.rounds or {}) do
    local b = base.rounds[round]
    if b and r[key] and b[key] and b[key] > 0 then
      ratios[#ratios + 1] = r[key] / b[key]
    end
  end
  return median(ratios)
end

return M
