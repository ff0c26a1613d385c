--- The ledger of the fault matrix sees what it is there to see.

local ledger = require "tests.support.matrix.ledger"


local function told(how, pair)
  local l = ledger.new()
  local n = l:begin(pair)
  if how == "ok" then
    l:tell(n, true)
  elseif how then
    l:tell(n, nil, { ambiguous = how == "ambiguous" })
  end
  return l, n
end


describe("the ledger", function()
  for _, case in ipairs({
    { how = "ok", rows = 1 },
    { how = "ok", rows = 0, wrong = "was acknowledged and is there 0 times" },
    { how = "ok", rows = 2, wrong = "was acknowledged and is there 2 times" },
    { how = "failed", rows = 0 },
    { how = "failed", rows = 1, wrong = "was failed and is there 1 times" },
    { how = "ambiguous", rows = 0 },
    { how = "ambiguous", rows = 1 },
    { how = "ambiguous", rows = 2, wrong = "was in doubt and is there 2 times" },
    { how = nil, rows = 0, wrong = "was pending and is there 0 times" },
  }) do
    it(("with %s and %d rows is %s"):format(case.how or "no answer", case.rows,
       case.wrong and "wrong" or "right"), function()
      local l, n = told(case.how)
      local text = case.rows > 0 and ("%d|%d"):format(n, case.rows) or ""
      local ok, err = pcall(l.check, l, text)
      assert.equal(case.wrong == nil, ok)
      if case.wrong then assert.equal(("ledger: %d %s"):format(n, case.wrong), err) end
    end)
  end

  it("wants all of a transaction or nothing", function()
    local l, n = told("ok", "pair")
    l:check(("%d|1\n%d|1"):format(n, -n))
    l, n = told("ambiguous", "pair")
    assert.has_error(function() l:check(("%d|1"):format(n)) end,
                     ("ledger: only one half of %d is there"):format(n))
    assert.has_error(function() l:check(("%d|1"):format(-n)) end)
  end)

  it("knows every row", function()
    local l, n = told("ok")
    assert.has_error(function() l:check(("%d|1\n%d|1"):format(n, n + 1)) end,
                     ("ledger: nobody wrote %d"):format(n + 1))
  end)
end)
