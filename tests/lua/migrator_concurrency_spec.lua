--- concurrency = "auto": how many connections it takes to a simulated server, whose
--- speed depends on how many there are.

local concurrency = require "mtenant.migrator.concurrency"


-- Jobs on a server that does speed(limit) of them a second, give or take; returns
-- how the jobs were spread over limits, and the jobs a second of them all.
local function simulate(jobs, speed, noise)
  local c, now, seen = concurrency.new("auto"), 0, {}
  math.randomseed(7)
  for i = 1, jobs do
    seen[c.limit] = (seen[c.limit] or 0) + 1
    local factor = 1 + (math.random() * 2 - 1) * noise
    now = now + 1000 / (speed(c.limit) * factor)
    c:done(now, jobs - i)
  end
  return seen, jobs / now * 1000
end


local function peak_at(best)
  return function(limit)
    local off = math.abs(limit - best)
    return 200 * 0.85 ^ off
  end
end


describe('concurrency = "auto"', function()
  for _, best in ipairs({ 2, 3, 5, 9, 16 }) do
    it("finds that " .. best .. " are best", function()
      local seen, rate = simulate(10000, peak_at(best), 0.2)
      local most, at = 0, nil
      for limit, n in pairs(seen) do
        if n > most then most, at = n, limit end
      end
      assert.equal(best, at)
      assert.is_true(rate > 200 * (best < 16 and 0.9 or 0.8), rate) -- it climbs
    end)
  end

  it("begins with two, and never has more than sixteen", function()
    local seen = simulate(20000, function(limit) return 100 * limit end, 0)
    assert.is_true(seen[2] > 0)
    for limit in pairs(seen) do
      assert.is_true(limit >= 2 and limit <= 16)
    end
    assert.is_true(seen[16] > 15000)
  end)

  it("tries nothing in a run that is over before it would pay", function()
    local seen = simulate(200, function(limit) return 150 * limit end, 0)
    assert.same({ [2] = 200 }, seen)
  end)

  it("stays with few where more are no faster", function()
    local seen = simulate(10000, function() return 300 end, 0.1)
    assert.is_true((seen[2] or 0) + (seen[3] or 0) > 9000)
  end)

  it("follows a server that has become another", function()
    local n = 0
    local seen = simulate(20000, function(limit)
      n = n + 1
      return peak_at(n < 8000 and 2 or 6)(limit)
    end, 0.1)
    assert.is_true(seen[2] > 6000, seen[2])
    assert.is_true(seen[6] > 8000, seen[6])
  end)

  it("is a number where one is given", function()
    local c = concurrency.new(7)
    for i = 1, 1000 do c:done(i * 10, 1000 - i) end
    assert.equal(7, c.limit)
  end)
end)
