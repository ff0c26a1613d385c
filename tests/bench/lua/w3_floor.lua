--- W3, the floor: what luarows, C that does nothing else, needs for the same
-- rows.
--   --form=hash|array|get --iters=5

local bench = require "bench"
local luarows = require "luarows"

local BIG =
  "select id,name,email,balance,created_at,active from public.accounts_big"

local options = bench.options { form = "hash", iters = 5 }
local conn = luarows.connect()

local FORMS = {}


function FORMS.hash()
  local rows, sum = conn:query(BIG, "hash"), 0
  for i = 1, #rows do
    local row = rows[i]
    sum = sum + row.id + (row.active and 1 or 0)
  end
  return #rows, sum
end


function FORMS.array()
  local rows, sum = conn:query(BIG, "array"), 0
  for i = 1, #rows do
    local row = rows[i]
    sum = sum + row[1] + (row[6] and 1 or 0)
  end
  return #rows, sum
end


function FORMS.get()
  local rows, sum = conn:query(BIG, "lazy"), 0
  for i = 1, #rows do
    sum = sum + rows:get(i, 1) + (rows:get(i, 6) and 1 or 0)
  end
  return #rows, sum
end

local fetch, n, check = assert(FORMS[options.form], "--form"), 0, 0
fetch() -- warms both sides up
bench.begin()
for _ = 1, options.iters do
  local rows, sum = fetch()
  n, check = n + rows, sum
end
bench.finish()
bench.report {
  name = "floor-" .. options.form, n = n, check = check, conns = 1,
}
conn:close()
