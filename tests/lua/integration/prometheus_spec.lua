--- mtenant.prometheus: what promtool and a real Prometheus say of it, that the
--- numbers agree with a ledger of the load to the unit, and that a scrape of ten
--- thousand tenants holds nobody up. MT_SCRAPE_SECONDS=60 for a minute.

local env = require "tests.support.env"
local json = require "cjson"
local mtenant = require "mtenant"
local program = require "tests.support.program"
local prometheus = require "mtenant.prometheus"
local socket = require "socket"


local SECONDS = tonumber(os.getenv("MT_SCRAPE_SECONDS")) or 12
local TENANTS = 30
local HOLD_MS, MAX_BYTES = 20, 1024 * 1024

local sh, quote = program.sh, program.quote


local function has(text, pattern)
  assert.is_true(text:find(pattern) ~= nil, "there is no " .. pattern)
end


local function promtool(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  local out = sh("promtool check metrics <" .. path .. " 2>&1; echo status=$?")
  os.remove(path)
  return out
end


describe("prometheus.render", function()
  setup(function() env.tenants { "acme", "globex" } end)
  after_each(env.assert_nothing_left)

  it("is what promtool likes", env.in_task(function()
    local manager = env.manager()
    local db = assert(manager:get_db_async("acme"))
    for _ = 1, 5 do assert(db:query("SELECT 1")) end
    db:query("SELECT 1/0")
    manager:get_shared_db():query("SELECT 1")
    manager:get_db("nobody"):query("SELECT 1")
    local health = assert(manager:health_check())
    local text = prometheus.render(manager, { health = health })
    assert.equal("status=0", promtool(text))
    has(text, '\nmtenant_errors_total{server="[^"]+",code="query"} 1\n')
    has(text, "\nmtenant_health_status 1\n")
    has(text, '\nmtenant_pool_health_status{tenant="acme",schema="t_acme"} 1\n')
    assert.is_nil(text:find "postgresql:")
    local two = prometheus.render({ eu = manager, us = manager },
                                  { labels = { site = 'a"b\\' }, prefix = "x" })
    assert.equal("status=0", promtool(two))
    has(two, '\nx_pools_active{site="a\\"b\\\\",manager="us"} 2\n')
    local none = prometheus.render(manager, { tenants = false })
    assert.equal("status=0", promtool(none))
    assert.is_nil(none:find "tenant=")
    local off = env.manager { metrics = false }
    assert(off:get_db("globex"):query("SELECT 1"))
    assert.equal("status=0", promtool(prometheus.render(off)))
    off:dispose()
    assert.equal("status=0", promtool(prometheus.render(off)))
  end))

  it("escapes what ids may be", env.in_task(function()
    local ids = { 'a"b', "c\\d", "e\nf", "\200g", "\\xc8g", "(others)", "ü" }
    local schemas = {}
    for i, id in ipairs(ids) do schemas[id] = "e" .. i end
    env.tenants { "e1", "e2", "e3", "e4", "e5", "e6", "e7" }
    local manager = env.manager {
      id_pattern = "^.+$",
      resolve = function(id) return { schema = "t_" .. schemas[id] } end,
    }
    for _, id in ipairs(ids) do
      assert(manager:get_db(id):query("SELECT 1"))
    end
    local text = prometheus.render(manager)
    assert.equal("status=0", promtool(text))
    for _, shown in ipairs { 'a\\"b', "c\\\\d", "e\\nf", "\\\\xc8g", "ü" } do
      assert.truthy(text:find('mtenant_tenant_statements_total{tenant="' .. shown
                              .. '"} 1\n', 1, true), shown)
    end
    -- two that look the same, and one that looks like the others
    assert.truthy(text:find('tenant_statements_total{tenant="(others)"} 2\n', 1,
                            true))
  end))

  it("has exemplars in OpenMetrics", env.in_task(function()
    local manager = env.manager()
    assert(manager:get_db("acme"):query("SELECT pg_sleep(0.05)"))
    local text = prometheus.render(manager, { openmetrics = true })
    assert.equal("# EOF\n", text:sub(-6))
    has(text, 'query_duration_seconds_bucket{server="[^"]+",le="0%.065536"} 1'
      .. ' # {tenant="acme"} 0%.0[56]%d* %d+\n')
    has(text, "\n# TYPE mtenant_statements counter\n")
    has(text, "\n# UNIT mtenant_sent_bytes bytes\n")
    has(text, '\nmtenant_statements_total{server="[^"]+"} 1\n')
    assert.matches("openmetrics", prometheus.content_type(true))
    assert.is_true(prometheus.wants_openmetrics(
      "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"))
    assert.is_false(prometheus.wants_openmetrics("text/plain"))
    assert.is_false(prometheus.wants_openmetrics(nil))
  end))

  it("holds nobody up, with ten thousand tenants, and fits into a mebibyte",
     env.in_task(function()
    local manager = env.manager {
      isolation = { strategy = "row" }, metrics = { tenants = 200 },
    }
    local all = {}
    for i = 1, 10000 do all[i] = i end
    assert(mtenant.each(all, 64, function(i)
      local id = ("%d-%s"):format(i, ("x"):rep(100))
      return manager:get_db(id):query("SELECT 1")
    end))
    local gap, last, stop = 0, mtenant.now_ms(), false
    local heart = mtenant.spawn(function()
      while not stop do
        mtenant.sleep(1)
        local now = mtenant.now_ms()
        gap, last = math.max(gap, now - last - 1), now
      end
    end)
    -- others use this machine, too: what we do ourselves is in each of them
    local least, text = math.huge, nil
    for _ = 1, 5 do
      mtenant.sleep(50)
      gap = 0
      text = assert(prometheus.render(manager))
      mtenant.sleep(5)
      least = math.min(least, gap)
    end
    stop = true
    heart:await()
    assert.is_true(least <= HOLD_MS, ("a gap of %.1f ms"):format(least))
    assert.is_true(#text <= MAX_BYTES, #text .. " bytes")
    assert.is_true(#text > MAX_BYTES / 4)
    local sum = 0
    for n in text:gmatch '\nmtenant_tenant_statements_total{tenant="[^"]+"} (%d+)' do
      sum = sum + n
    end
    assert.equal(10000, sum)
    assert.equal("status=0", promtool(text))
  end, 60000))

  it("stops with its task", env.in_task(function()
    local manager = env.manager()
    local task = mtenant.spawn(function()
      mtenant.sleep(0)
      local until_ms = mtenant.now_ms() + 5000
      repeat
        local text, err = prometheus.render(manager)
        if not text then return err.code end
      until mtenant.now_ms() > until_ms
    end)
    task:cancel()
    assert.is_true(task:await() ~= false)
    assert.has_error(function() prometheus.render("x") end)
    assert.has_error(function() prometheus.render(manager, { metrics = 1 }) end)
    assert.has_error(function()
      prometheus.render(manager, { labels = { ["a-b"] = 1 } })
    end)
    for _, opts in ipairs { { labels = { server = "x" } }, { prefix = "a-b" },
                            { labels = { le = 1 } }, { labels = { state = 1 } } } do
      assert.has_error(function() prometheus.render(manager, opts) end)
    end
    assert.has_error(function()
      prometheus.render({ eu = manager }, { labels = { manager = "x" } })
    end)
    has(prometheus.render(manager, { labels = { manager = "x" } }),
        '\nmtenant_pools_active{manager="x"} %d+\n')
  end))
end)


-- ---- a real Prometheus ------------------------------------------------------------

local function free_port()
  local s = assert(socket.bind("127.0.0.1", 0))
  local _, port = s:getsockname()
  s:close()
  return tonumber(port)
end


local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end


local function read(path)
  local file = io.open(path)
  local text = file and file:read("*a")
  if file then file:close() end
  return text
end


-- Starts a command in the background; returns its process id.
local function start(command, log)
  return sh(("exec </dev/null; %s >%s 2>&1 & echo $!"):format(command, log))
end


local function stop(pid)
  if not pid then return end
  sh(("{ kill %s; for i in $(seq 100); do kill -0 %s || break; sleep 0.1; done;"
    .. "kill -9 %s; } 2>/dev/null; true"):format(pid, pid, pid))
end


local function wait_for(what, seconds, fn)
  local until_s = socket.gettime() + seconds
  repeat
    local result = fn()
    if result then return result end
    socket.sleep(0.1)
  until socket.gettime() > until_s
  error("timed out: " .. what, 2)
end


describe("a Prometheus that scrapes", function()
  local dir, load_pid, prometheus_pid, base

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir " .. dir))
    local ids = {}
    for i = 1, TENANTS do ids[i] = "p" .. i end
    env.tenants(ids)
  end)

  after_each(function()
    os.remove(dir .. "/ledger")
    stop(prometheus_pid)
    stop(load_pid)
    load_pid, prometheus_pid = nil, nil
    sh("rm -rf " .. dir)
  end)


  local function api(path, query)
    local out = sh(("curl -s -G '%s%s' %s"):format(base, path,
      query and "--data-urlencode " .. quote("query=" .. query) or ""))
    local answer = json.decode(out)
    assert.equal("success", answer.status, out)
    return answer.data
  end


  -- { label's value = number }, or the one number
  local function ask(query, label)
    local out = {}
    for _, sample in ipairs(api("/api/v1/query", query).result) do
      out[label and sample.metric[label] or 1] = tonumber(sample.value[2])
    end
    return label and out or out[1] or 0
  end


  local function start_both()
    local port, port2 = free_port(), free_port()
    load_pid = start(("DATABASE_URL=%s %s --admin 127.0.0.1:%d %s %d %d %s/ledger")
      :format(quote(env.server().url), quote(program.path), port,
              "tests/observability/load.lua", SECONDS, TENANTS, dir),
      dir .. "/load.log")
    write(dir .. "/prometheus.yml", ([[
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [ "%s/docs/alerts.yml" ]
scrape_configs:
  - job_name: mtenant
    static_configs: [ { targets: ["127.0.0.1:%d"] } ]
]]):format(sh("pwd"), port))
    prometheus_pid = start(("prometheus --config.file=%s/prometheus.yml"
      .. " --storage.tsdb.path=%s/data --web.listen-address=127.0.0.1:%d"
      .. " --enable-feature=exemplar-storage")
      :format(dir, dir, port2), dir .. "/prometheus.log")
    base = "http://127.0.0.1:" .. port2
    wait_for("Prometheus is ready", 30, function()
      return sh("curl -s -o /dev/null -w '%{http_code}' " .. base .. "/-/ready")
        == "200"
    end)
  end


  it("reads what the load's ledger says, to the unit", function()
    start_both()
    local text = wait_for("the load ends: " .. dir .. "/load.log", SECONDS + 40,
                          function() return read(dir .. "/ledger") end)
    local ledger = json.decode(text)
    assert.is_true(ledger.statements > 500)
    socket.sleep(3.5) -- the last scrapes are of what does not change any more

    assert.equal(1, ask "min_over_time(up{job='mtenant'}[10s])")
    assert.is_true(ask("count_over_time(up{job='mtenant'}[10m])") >= SECONDS * 0.7)
    assert.equal(ledger.statements, ask "sum(mtenant_statements_total)")
    assert.equal(ledger.statements, ask "sum(mtenant_tenant_statements_total)")
    assert.equal(ledger.leases, ask "sum(mtenant_leases_total)")
    assert.equal(ledger.ambiguous, ask "sum(mtenant_ambiguous_failures_total)")
    assert.equal(ledger.retries, ask "sum(mtenant_retries_total)")
    assert.same(ledger.errors, ask("sum by (code) (mtenant_errors_total)", "code"))
    assert.same(ledger.errors,
                ask("sum by (code) (mtenant_tenant_errors_total)", "code"))
    assert.is_true(ledger.errors.query > 0 and ledger.errors.timeout > 0
                   and ledger.errors.tenant_not_found > 0)
    local statements = ask("mtenant_tenant_statements_total", "tenant")
    local leases = ask("mtenant_tenant_leases_total", "tenant")
    local failures = ask("sum by (tenant) (mtenant_tenant_errors_total)", "tenant")
    for id, mine in pairs(ledger.tenants) do
      if id ~= "(unknown)" then
        assert.equal(mine.statements, statements[id], id)
        assert.equal(mine.leases, leases[id], id)
        local n = 0
        for _, count in pairs(mine.errors) do n = n + count end
        assert.equal(n, failures[id] or 0, id)
      end
    end
    assert.equal(ledger.tenants["(unknown)"].statements,
                 ask "mtenant_statements_total{server='none'}")
    assert.equal(ask "sum(mtenant_query_duration_seconds_count)",
                 ask "sum(mtenant_tenant_query_duration_seconds_count)")
    assert.equal(ask "sum(mtenant_received_bytes_total)",
                 ask "sum(mtenant_tenant_received_bytes_total)")

    local rules, broken = 0, {}
    for _, group in ipairs(api("/api/v1/rules").groups) do
      for _, rule in ipairs(group.rules) do
        rules = rules + 1
        if rule.health ~= "ok" then broken[#broken + 1] = rule.name end
      end
    end
    assert.is_true(rules >= 15)
    assert.same({}, broken)
    local exemplars = api("/api/v1/query_exemplars",
                          "mtenant_query_duration_seconds_bucket")
    assert.is_true(#exemplars > 0)
  end)
end)
