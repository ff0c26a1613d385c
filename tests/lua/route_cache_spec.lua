--- The cache of routes by itself, on a clock of its own.

local route_cache = require "mtenant.route_cache"


local now

local function new(opts)
  local all = { now_ms = function() return now end, ttl_ms = 100,
                negative_ttl_ms = 20, stale_while_revalidate_ms = 50,
                stale_if_error_ms = 1000, max_entries = 3 }
  for key, value in pairs(opts or {}) do all[key] = value end
  return route_cache.new(all)
end


describe("the cache of routes", function()
  before_each(function() now = 5000 end)

  it("knows a route as fresh, then as stale, then no more", function()
    local cache = new()
    assert.is_nil(cache:look("a"))
    local route = { schema = "t_a" }
    local tag, fresh, stale = cache:put("a", route)
    assert.same({ 100, 50 }, { fresh, stale })
    assert.same({ "fresh", route, tag, 100, 50 }, { cache:look("a") })
    now = 5099
    assert.same({ "fresh", route, tag, 1, 50 }, { cache:look("a") })
    now = 5100
    assert.same({ "stale", route, tag, 0, 50 }, { cache:look("a") })
    now = 5149
    assert.same({ "stale", route, tag, 0, 1 }, { cache:look("a") })
    now = 5150
    assert.is_nil(cache:look("a"))
    assert.same({ hits = 2, stale = 2, negative = 0, misses = 2,
                  evictions = 0 }, cache.counters)
  end)

  it("keeps a negative answer for its own time, and never as stale", function()
    local cache = new()
    local err = { code = "tenant_not_found" }
    cache:put_negative("a", err)
    now = 5019
    assert.same({ "negative", err }, { cache:look("a") })
    now = 5020
    assert.is_nil(cache:look("a"))
    assert.is_nil(cache:last_good("a"))
    cache:put_negative("a", err, 7)
    now = 5026
    assert.equal("negative", (cache:look("a")))
    now = 5027
    assert.is_nil(cache:look("a"))
  end)

  it("gives a route that is the same the same tag, another one another",
     function()
    local cache = new()
    local tag = cache:put("a", { schema = "t_a", settings = { x = "1" } })
    assert.equal(tag, cache:put("a", { schema = "t_a", settings = { x = "1" } }))
    local other = cache:put("a", { schema = "t_a", settings = { x = "2" } })
    assert.are_not.equal(tag, other)
    assert.are_not.equal(other, cache:put("a", { schema = "t_a" }))
    -- what was another meanwhile is another
    local third = cache:put("b", { schema = "t_a" })
    cache:put_negative("b", {})
    assert.are_not.equal(third, cache:put("b", { schema = "t_a" }))
  end)

  it("takes a route's own time", function()
    local cache = new()
    cache:put("a", {}, 7)
    now = 5006
    assert.equal("fresh", (cache:look("a")))
    now = 5007
    assert.equal("stale", (cache:look("a")))
  end)

  it("remembers the last good route for stale_if_error_ms", function()
    local cache = new()
    local route = { schema = "t_a" }
    local tag = cache:put("a", route)
    now = 5150
    assert.same({ route, tag, 950 }, { cache:last_good("a") })
    assert.same({ 30, 920 }, { cache:prolong("a", 30) })
    assert.same({ "fresh", route, tag, 30, 920 }, { cache:look("a") })
    now = 6090
    assert.same({ 10, 0 }, { cache:prolong("a", 30) }) -- and no longer
    now = 6100
    assert.is_nil(cache:last_good("a"))
    assert.is_nil(cache:look("a"))
  end)

  it("uses nothing that is outdated, but remembers it", function()
    local cache = new()
    local tag = cache:put("a", { schema = "t_a" })
    cache:put("b", { schema = "t_b" })
    assert.is_true(cache:outdate("a"))
    assert.is_false(cache:outdate("nobody"))
    assert.is_nil(cache:look("a"))
    assert.equal("fresh", (cache:look("b")))
    cache:outdate_all()
    assert.is_nil(cache:look("b"))
    assert.equal("t_a", cache:last_good("a").schema)
    assert.equal(tag, cache:put("a", { schema = "t_a" }))
    assert.equal("fresh", (cache:look("a")))
  end)

  it("lets go of what was used least recently", function()
    local cache = new()
    for _, id in ipairs { "a", "b", "c" } do cache:put(id, { schema = id }) end
    cache:look("a")
    cache:peek("b") -- is no use
    cache:put("d", { schema = "d" })
    assert.is_nil(cache:peek("b"))
    for _, id in ipairs { "a", "c", "d" } do
      local state, route = cache:peek(id)
      assert.equal("fresh", state)
      assert.equal(id, route.schema)
    end
    assert.equal(1, cache.counters.evictions)
    cache:look("c")
    cache:put("e", { schema = "e" })
    assert.is_nil(cache:peek("a"))
    assert.equal(3, cache:count())
  end)

  it("behaves as a simple one does, whatever is done to it", function()
    local seed = os.time()
    math.randomseed(seed)
    local cache, model, order = new { max_entries = 20 }, {}, {}
    local function used(id)
      for i, other in ipairs(order) do
        if other == id then table.remove(order, i) end
      end
      order[#order + 1] = id
      if #order > 20 then model[table.remove(order, 1)] = nil end
    end
    for step = 1, 20000 do
      local id = "t" .. math.random(40)
      local what = math.random(10)
      if what <= 4 then
        local schema = "s" .. math.random(3)
        cache:put(id, { schema = schema })
        used(id)
        model[id] = { schema = schema, at = now }
      elseif what == 5 then
        cache:outdate(id)
        if model[id] then model[id].at = -1000 end
      else
        local known = model[id]
        local age = known and now - known.at
        local wanted = known and (age < 100 and "fresh"
          or age < 150 and "stale") or nil
        local state, route = cache:look(id)
        local where = "step " .. step .. " of seed " .. seed
        assert.equal(wanted, state, where)
        if state then
          assert.equal(known.schema, route.schema, where)
          used(id)
        end
      end
      now = now + math.random(0, 3)
    end
    assert.equal(20, cache:count())
  end)

  it("grows no more once it is full", function()
    local cache = new { max_entries = 5000 }
    local function fill(from)
      for i = from, from + 49999 do
        cache:put("tenant-" .. i, { schema = "tenant_" .. i })
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage("count")
    end
    local after_one = fill(1)
    local after_four
    for round = 1, 3 do after_four = fill(50000 * round) end
    assert.equal(5000, cache:count())
    assert.is_true(after_four < after_one * 1.05 + 50,
                   after_one .. " KiB, then " .. after_four)
  end)
end)
