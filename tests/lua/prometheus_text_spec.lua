--- How numbers, labels and bounds are written, on every Lua; which tenants fit.

local series = require "mtenant.series"
local tally = require "mtenant.prometheus.tally"
local text = require "mtenant.prometheus.text"


describe("a number", function()
  for _, case in ipairs {
    { 0, "0" }, { 1, "1" }, { -1, "-1" }, { 0.5, "0.5" }, { 1e15, "1000000000000000" },
    { 2 ^ 53 - 1, "9007199254740991" }, { 0.1, "0.1" }, { 1 / 3, "0.3333333333333333" },
    { 1e-7, "1e-07" }, { 1e300, "1e+300" }, { 0 / 0, "NaN" }, { math.huge, "+Inf" },
    { -math.huge, "-Inf" }, { 1795903135, "1795903135" }, { 3.0, "3" },
  } do
    it("is " .. case[2], function()
      assert.equal(case[2], text.number(case[1]))
    end)
  end

  it("says exactly what it is", function()
    local x = 0.7
    for _ = 1, 1000 do
      x = (x * 997.77) % 1
      assert.equal(x, tonumber(text.number(x)))
    end
  end)

  it("has a point in every locale", function()
    local before = os.setlocale(nil, "numeric")
    local other = os.setlocale("de_DE.UTF-8", "numeric")
      or os.setlocale("de_DE.utf8", "numeric")
    local shown = text.number(0.25)
    os.setlocale(before, "numeric")
    assert.equal("0.25", shown, tostring(other))
  end)
end)


describe("a label's value", function()
  for value, expected in pairs {
    [""] = "", acme = "acme", ['a"b\\c\nd'] = 'a\\"b\\\\c\\nd',
    ["grün"] = "grün", ["\226\130\172"] = "\226\130\172",
    ["\255"] = "\\\\xff", ["a\192\128b"] = "a\\\\xc0\\\\x80b", -- overlong
    ["\237\160\128"] = "\\\\xed\\\\xa0\\\\x80", -- a surrogate
    ["\244\144\128\128"] = "\\\\xf4\\\\x90\\\\x80\\\\x80", -- beyond Unicode
    ["\240\159\152\128"] = "\240\159\152\128", ["\226\130"] = "\\\\xe2\\\\x82",
  } do
    it(("may be %q"):format(expected), function()
      assert.equal(expected, text.escape(value))
    end)
  end
end)


describe("bounds", function()
  it("are written in seconds, each the double of the one before", function()
    for i = 1, series.BOUNDS do
      assert.equal(2 ^ (i + 5) / 1e6, tonumber(series.bound(i)))
    end
  end)
end)


local function record(id, statements, errors)
  local function histogram()
    return { count = statements, sum_ms = statements * 2,
             upto = { statements, statements } }
  end
  return { id = id, statements = statements, ambiguous = 0, leases = 1,
           bytes_sent = 2, bytes_received = 3, errors = errors or {},
           query = histogram(), wait = histogram(), total = 1, idle = 0,
           waiting = 0 }
end


local function raw_of(...)
  return { tenants = { ... }, others = record("", 0),
           tallies = { fill = function() end, close = function() end } }
end


describe("tenants that do not fit", function()
  it("are added to the others, the least of them", function()
    local raw = raw_of(record("a", 1, { query = 1 }), record("b", 30),
                       record("c", 20, { query = 2, timeout = 1 }))
    tally.fit(raw, 5000, 10, function() end)
    assert.equal(1, #raw.tenants)
    assert.equal("b", raw.tenants[1].id)
    assert.equal(21, raw.others.statements)
    assert.same({ query = 3, timeout = 1 }, raw.others.errors)
    assert.equal(21, raw.others.query.count)
    assert.equal(42, raw.others.wait.sum_ms)
    assert.same({ 21, 21 }, raw.others.wait.upto)
    assert.equal(3, raw.others.leases)
  end)

  it("are none where there is room", function()
    local raw = raw_of(record("a", 1), record("b", 2))
    tally.fit(raw, 1024 * 1024, 10, function() end)
    assert.equal(2, #raw.tenants)
    assert.equal(0, raw.others.statements)
    assert.equal("b", raw.tenants[1].label)
  end)
end)
