--- Functions that run on a stack of their own.

local apart = require "mtenant.apart"


describe("a function that runs apart", function()
  it("gets its arguments and gives two results", function()
    local both = apart(function(a, b) return b, a end)
    assert.same({ 2, 1 }, { both(1, 2) })
    assert.same({ "b", nil }, { both(nil, "b") })
  end)

  it("may raise, and be called again", function()
    local problem = { "a table, unchanged" }
    local picky = apart(function(a)
      if a == nil then error(problem) end
      return a
    end)
    for _ = 1, 3 do
      local ok, err = pcall(picky)
      assert.is_false(ok)
      assert.equal(problem, err)
      assert.equal(7, picky(7))
    end
  end)

  it("may call itself again", function()
    local down
    down = apart(function(n)
      if n == 0 then return 0 end
      return 1 + down(n - 1)
    end)
    assert.equal(5, down(5))
    assert.equal(3, down(3))
  end)

  it("may be called from coroutines, each of which goes on by itself", function()
    local twice = apart(function(n) return 2 * n end)
    local function work(n)
      local first = twice(n)
      coroutine.yield()
      return first + twice(n)
    end
    local a, b = coroutine.wrap(work), coroutine.wrap(work)
    a(1)
    b(10)
    assert.equal(4, a())
    assert.equal(40, b())
  end)

  it("keeps neither what it was given nor what it returned", function()
    local same = apart(function(a, b) return a, b end)
    local weak = setmetatable({ same({}, {}) }, { __mode = "v" })
    same(1, 2)
    weak[3], weak[4] = same({}, {})
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)
end)
