--- docs/observability.md, the dashboard and the alert rules name the series that
--- there are; promtool takes the rules, and their tests pass.

local json = require "cjson"
local series = require "mtenant.series"


local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end


local function run(command)
  local pipe = assert(io.popen("{ " .. command .. "; } 2>&1; echo status=$?"))
  local out = pipe:read("*a")
  pipe:close()
  return out:match("status=(%d+)%s*$") == "0", out
end


-- Every name that a sample of a series may have: its labels, its type.
local function names()
  local out = {}
  for _, s in ipairs(series) do
    local labels = { job = true, instance = true, manager = true }
    for _, label in ipairs(series.labels(s)) do labels[label] = true end
    local name = "mtenant_" .. s[1]
    if s[2] == "histogram" then
      out[name .. "_bucket"] = labels
      out[name .. "_sum"], out[name .. "_count"] = labels, labels
    else
      out[name] = labels
    end
  end
  return out
end


-- The names and labels in an expression are those of series; how many there are.
local function check_expression(expr, known, place)
  local n = 0
  for name, braces in expr:gmatch "%f[%w_:](mtenant_[%w_]+)({?[^}]*)" do
    n = n + 1
    assert.is_table(known[name], place .. ": there is no series " .. name)
    if braces:sub(1, 1) == "{" then
      for label in braces:gmatch '([%w_]+)[=!]~?"' do
        assert.is_true(known[name][label] or false,
                       place .. ": " .. name .. " has no label " .. label)
      end
    end
  end
  return n
end


describe("the list of series", function()
  it("follows Prometheus' conventions", function()
    local seen, types = {}, { counter = true, gauge = true, histogram = true }
    for _, s in ipairs(series) do
      local name = s[1]
      assert.is_nil(seen[name], name)
      seen[name] = true
      assert.matches("^[a-z][a-z0-9_]*$", name)
      assert.is_true(types[s[2]], name)
      assert.equal(s[2] == "counter", name:find "_total$" ~= nil, name)
      assert.is_true(#s.help > 5, name)
      assert.is_true(s.value ~= nil or s.split ~= nil, name)
      if s[2] == "histogram" then assert.equal("seconds", series.unit(s)) end
      assert.is_nil(name:find "_ms" or name:find "milli", name)
    end
    assert.is_true(#series > 60)
  end)

  it("has bounds that are exact in the core", function()
    assert.equal("0.000064", series.bound(1))
    assert.equal("0.001024", series.bound(5))
    assert.equal("1.048576", series.bound(15))
    assert.equal("16.777216", series.bound(series.BOUNDS))
  end)
end)


describe("docs/observability.md", function()
  it("has the tables of the code", function()
    local docs = dofile "scripts/dev/observability.lua"
    assert.is_nil(docs.problem(read "docs/observability.md"))
    local drifted = read("docs/observability.md"):gsub("Open connections%.", "X.")
    assert.matches("are not those", docs.problem(drifted))
    assert.matches("no table", docs.problem("# empty"))
  end)

  it("names no series that there is not", function()
    local known = names()
    for _, s in ipairs(series) do known["mtenant_" .. s[1]] = {} end
    for name in read("docs/observability.md"):gmatch "`(mtenant_[%w_]+)`" do
      assert.is_table(known[name], name)
    end
  end)
end)


describe("the dashboard", function()
  it("asks only for series and labels that there are", function()
    local dashboard = json.decode(read "docs/grafana-dashboard.json")
    local known, asked, ids = names(), 0, {}
    for _, panel in ipairs(dashboard.panels) do
      assert.is_nil(ids[panel.id])
      ids[panel.id] = true
      assert.is_true(panel.type == "row" or #panel.targets > 0)
      for _, target in ipairs(panel.targets or {}) do
        local n = check_expression(target.expr, known, panel.title)
        assert.is_true(n > 0, panel.title)
        asked = asked + n
      end
    end
    for _, variable in ipairs(dashboard.templating.list) do
      check_expression(variable.definition or "", known, variable.name)
    end
    assert.is_true(asked > 50)
  end)

  it("has expressions that Prometheus understands", function()
    local dashboard = json.decode(read "docs/grafana-dashboard.json")
    local rules = { "groups:\n- name: dashboard\n  rules:" }
    for _, panel in ipairs(dashboard.panels) do
      for _, target in ipairs(panel.targets or {}) do
        local expr = target.expr:gsub("%$__rate_interval", "1m")
          :gsub("%$__range", "1h")
        rules[#rules + 1] = ("  - record: r%d\n    expr: '%s'")
          :format(#rules, (expr:gsub("'", "''")))
      end
    end
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(table.concat(rules, "\n"), "\n")
    file:close()
    local ok, out = run("promtool check rules '" .. path .. "'")
    os.remove(path)
    assert.is_true(ok, out)
  end)
end)


describe("docs/alerts.yml", function()
  it("asks only for series and labels that there are", function()
    local known, n = names(), 0
    for expr in read("docs/alerts.yml"):gmatch "expr: (.-)\n%s+[%a]+:" do
      n = n + check_expression(expr, known, expr)
    end
    assert.is_true(n >= 15, n .. " were found")
  end)

  it("is taken by promtool, and passes its tests", function()
    local ok, out = run "promtool check rules docs/alerts.yml"
    assert.is_true(ok, out)
    local dir = os.tmpname()
    os.remove(dir)
    ok, out = run(("mkdir '%s' && cp docs/alerts.yml "
      .. "tests/observability/alerts_test.yml '%s' && "
      .. "promtool test rules '%s/alerts_test.yml'"):format(dir, dir, dir))
    run("rm -r '" .. dir .. "'")
    assert.is_true(ok, out)
  end)
end)
