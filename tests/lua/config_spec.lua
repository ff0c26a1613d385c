--- config.lua: defaults, messages and their order, tenant ids.

local config = require "mtenant.config"
local errors = require "mtenant.errors"

local NAN, INF = 0 / 0, math.huge


local function no_env() return nil end


local function template(id) return "tenant_" .. id end


local function define(t, getenv)
  return config.define(t, { getenv = getenv or no_env })
end


-- The smallest valid configuration, with `value` put at `path`.
local function with(path, value)
  local t = {
    connection = { url = "postgres://localhost/app" },
    isolation = { strategy = "schema", schema_name_template = template },
  }
  local at, names = t, {}
  for name in (path or ""):gmatch "[^.]+" do names[#names + 1] = name end
  for i = 1, #names - 1 do
    at[names[i]] = at[names[i]] or {}
    at = at[names[i]]
  end
  if #names > 0 then at[names[#names]] = value end
  return t
end


-- Asserts what define says, verbatim, and that it says it at the caller.
local function refused(text, t, getenv)
  local line
  local ok, err = pcall(function()
    line = debug.getinfo(1, "l").currentline + 1
    config.define(t, { getenv = getenv or no_env })
  end)
  assert.is_false(ok)
  assert.is_true(errors.is(err, "misuse"))
  local position = debug.getinfo(1, "S").short_src .. ":" .. line .. ": "
  assert.equal(position .. "[mtenant] " .. text, err.message)
  assert.equal(err.message, tostring(err))
end


local function get(t, path)
  for name in path:gmatch "[^.]+" do t = t[name] end
  return t
end


describe("defaults", function()
  it("are all there", function()
    assert.same({
      connection = {
        url = "postgres://localhost/app",
        pool = {
          max = 10, min = 0, idle_timeout_ms = 30000,
          connect_timeout_ms = 5000, acquire_timeout_ms = 5000,
          max_lifetime_ms = 3600000, max_waiting = 1000,
          queue_policy = "queue",
        },
        max_connections = "auto",
        retry = {
          max_attempts = 3, initial_delay_ms = 100, max_delay_ms = 5000,
          backoff_multiplier = 2, jitter = true,
        },
        cancel_timeout_ms = 2000,
        application_name = "mtenant",
        cache_statements = 256,
      },
      isolation = {
        strategy = "schema", schema_name_template = template,
        schema = "public", tenant_setting = "app.tenant_id",
        max_pools = 10000, pool_ttl_ms = 3600000,
        search_path = { "$tenant", "public" }, reset = "auto", verify_schema = true,
        mode = "shared",
      },
      rate_limit = {},
      breaker = { failure_threshold = 1, initial_delay_ms = 100,
                  max_delay_ms = 1000, fail_fast = false,
                  minimum_throughput = 10, sampling_duration_ms = 10000 },
      retry_budget = { enabled = true, per_second = 10, ratio = 0.2,
                       burst = 100, tenant_share = 0.5 },
      hooks = {},
      debug = {
        enabled = false, log_queries = true, log_parameters = false,
        log_pool_events = true,
        slow_query_threshold_ms = 1000,
      },
      metrics = { enabled = true, tenants = 50, prefix = "mtenant" },
      tracing = { comments = false, application_name = false },
      id_pattern = "^[%w_.@:-]+$",
    }, define(with()))
  end)

  it("keep fewer pools when each has its own connections", function()
    assert.equal(50, define(with("isolation.mode", "dedicated"))
                     .isolation.max_pools)
    local t = with("isolation.mode", "dedicated")
    t.isolation.max_pools = 7
    assert.equal(7, define(t).isolation.max_pools)
  end)

  it("take the url from DATABASE_URL, and an empty one from nowhere",
     function()
    local t = with()
    t.connection = nil
    local asked
    local defined = define(t, function(name)
      asked = name
      return "postgres://env/db"
    end)
    assert.equal("DATABASE_URL", asked)
    assert.equal("postgres://env/db", defined.connection.url)
    refused("connection.url is required", t, function() return "" end)
    refused("connection.url is required", with("connection.url", ""),
            function() return "postgres://env/db" end)
  end)

  it("take strategy schema", function()
    local t = with()
    t.isolation.strategy = nil
    assert.equal("schema", define(t).isolation.strategy)
  end)
end)


describe("what is given", function()
  local function fn() end
  local GIVEN = {
    ["connection.password"] = fn,
    ["connection.max_connections"] = 12,
    ["connection.statement_timeout_ms"] = 1.5,
    ["connection.cancel_timeout_ms"] = 0,
    ["connection.application_name"] = "app",
    ["connection.cache_statements"] = 0,
    ["connection.retry.jitter"] = "decorrelated",
    ["connection.retry.deadline_ms"] = 9000,
    ["connection.retry.is_retryable"] = fn,
    ["connection.retry.on_retry"] = fn,
    ["connection.retry.backoff_multiplier"] = 1.5,
    ["isolation.role_template"] = fn,
    ["isolation.verify_schema"] = false,
    ["isolation.reset"] = "discard_all",
    ["isolation.pool_ttl_ms"] = 0,
    ["resolve"] = fn,
    ["hooks.on_pool_created"] = fn,
    ["hooks.on_pool_evicted"] = fn,
    ["hooks.on_error"] = fn,
    ["debug.enabled"] = true,
    ["debug.logger"] = fn,
    ["id_pattern"] = "^%d+$",
  }

  it("is kept", function()
    for path, value in pairs(GIVEN) do
      assert.equal(value, get(define(with(path, value)), path), path)
    end
    assert.equal("secret", define(with("connection.password", "secret"))
                           .connection.password)
    assert.is_false(define(with("connection.retry.jitter", false))
                    .connection.retry.jitter)
    assert.same({ "$tenant", "ext" },
                define(with("isolation.search_path", { "$tenant", "ext" }))
                .isolation.search_path)
  end)

  it("is copied, not shared", function()
    local t = with("connection.pool", { max = 3 })
    local defined = define(t)
    t.connection.pool.max = 4
    assert.equal(3, defined.connection.pool.max)
    defined.isolation.search_path[1] = "x"
    assert.equal("$tenant", define(t).isolation.search_path[1])
  end)

  it("may have been defined before", function()
    for path, value in pairs(GIVEN) do
      local once = define(with(path, value))
      assert.same(once, define(once))
    end
  end)

  it("may have schemas, which drizzle-multitenant wants", function()
    assert.is_nil(define(with("schemas", { tenant = {} })).schemas)
    refused("schemas must be a table", with("schemas", "x"))
  end)
end)


describe("messages", function()
  it("for no configuration at all", function()
    refused("connection.url is required", {})
    refused("config must be a table, got nil", nil)
    refused("config must be a table, got string", "postgres://")
    refused("connection must be a table",
            { connection = "postgres://localhost/app" })
  end)

  it("verbatim", function()
    refused("connection.url must be a string", with("connection.url", 5))
    refused("isolation.strategy is required", with("isolation.strategy", ""))
    refused('isolation.strategy must be "schema", "database", "row" or ' ..
            '"hybrid"', with("isolation.strategy", "rls"))
    for strategy, key in pairs { database = "database_template",
                                 hybrid = "choose" } do
      refused("isolation." .. key .. " is required",
              with("isolation.strategy", strategy))
    end
    refused('isolation.tenant_setting must be of the form "app.tenant_id", ' ..
            "in lower case", with("isolation.tenant_setting", "tenant"))
    refused("isolation.schema_name_template is required",
            with("isolation.schema_name_template", nil))
    refused("isolation.schema_name_template must be a function",
            with("isolation.schema_name_template", "tenant_%s"))
    refused("isolation.max_pools must be at least 1",
            with("isolation.max_pools", 0))
    refused("isolation.pool_ttl_ms must be non-negative",
            with("isolation.pool_ttl_ms", -1))
    refused("connection.retry.max_attempts must be at least 1",
            with("connection.retry.max_attempts", 0))
    refused("connection.retry.initial_delay_ms must be non-negative",
            with("connection.retry.initial_delay_ms", -1))
    refused("connection.retry.max_delay_ms must be non-negative",
            with("connection.retry.max_delay_ms", -1))
    refused("connection.retry.backoff_multiplier must be at least 1",
            with("connection.retry.backoff_multiplier", 0.5))
    refused("connection.retry.initial_delay_ms cannot be greater than " ..
            "max_delay_ms",
            with("connection.retry", { initial_delay_ms = 2,
                                       max_delay_ms = 1 }))
    refused('isolation.mode must be "shared" or "dedicated"',
            with("isolation.mode", "both"))
    refused('connection.retry.jitter must be a boolean, "full", "equal" ' ..
            'or "decorrelated"', with("connection.retry.jitter", "some"))
    refused('connection.max_connections must be an integer or "auto"',
            with("connection.max_connections", "many"))
    refused("connection.max_connections must be at least 1",
            with("connection.max_connections", 0))
    refused("connection.pool.min cannot be greater than max",
            with("connection.pool", { min = 11 }))
    define(with("connection.pool", { min = 10 }))
    refused('isolation.search_path must start with "$tenant"',
            with("isolation.search_path", { "public", "$tenant" }))
    refused('isolation.search_path must start with "$tenant"',
            with("isolation.search_path", {}))
    refused("isolation.search_path[2] is not the name of a schema",
            with("isolation.search_path", { "$tenant", "a\0b" }))
    refused("policy must be a string, a table or a function",
            with("policy", 5))
  end)

  it("in the order of drizzle-multitenant", function()
    local t = {
      connection = {
        url = "",
        retry = {
          max_attempts = 0, initial_delay_ms = -1, max_delay_ms = -2,
          backoff_multiplier = 0,
        },
      },
      isolation = {
        strategy = "", max_pools = 0, pool_ttl_ms = -1,
      },
    }
    local retry, isolation = t.connection.retry, t.isolation
    local function then_says(text, into, name, value)
      refused(text, t)
      into[name] = value
    end
    then_says("connection.url is required", t.connection, "url", "x")
    then_says("isolation.strategy is required", isolation, "strategy", "rls")
    then_says('isolation.strategy must be "schema", "database", "row" or ' ..
              '"hybrid"', isolation, "strategy", "schema")
    then_says("isolation.schema_name_template is required", isolation,
              "schema_name_template", "x")
    then_says("isolation.schema_name_template must be a function", isolation,
              "schema_name_template", template)
    then_says("isolation.max_pools must be at least 1", isolation,
              "max_pools", 1)
    then_says("isolation.pool_ttl_ms must be non-negative", isolation,
              "pool_ttl_ms", 0)
    then_says("connection.retry.max_attempts must be at least 1", retry,
              "max_attempts", 1)
    then_says("connection.retry.initial_delay_ms must be non-negative",
              retry, "initial_delay_ms", 1)
    then_says("connection.retry.max_delay_ms must be non-negative", retry,
              "max_delay_ms", 0)
    then_says("connection.retry.backoff_multiplier must be at least 1",
              retry, "backoff_multiplier", 1)
    then_says("connection.retry.initial_delay_ms cannot be greater than " ..
              "max_delay_ms", retry, "max_delay_ms", 1)
    assert.equal(1, define(t).connection.retry.max_delay_ms)
  end)

  it("compare limits with the defaults filled in", function()
    local text = "connection.retry.initial_delay_ms cannot be greater than " ..
      "max_delay_ms"
    refused(text, with("connection.retry", { initial_delay_ms = 6000 }))
    refused(text, with("connection.retry", { max_delay_ms = 50 }))
    define(with("connection.retry", { initial_delay_ms = 5000 }))
  end)

  local COUNTS = {
    "connection.retry.max_attempts", "connection.pool.max",
    "connection.pool.min", "connection.pool.max_waiting",
    "connection.max_connections", "connection.cache_statements",
    "isolation.max_pools",
  }
  local DURATIONS = {
    "connection.retry.initial_delay_ms", "connection.retry.max_delay_ms",
    "connection.retry.deadline_ms", "connection.statement_timeout_ms",
    "connection.cancel_timeout_ms", "connection.pool.idle_timeout_ms",
    "connection.pool.connect_timeout_ms",
    "connection.pool.acquire_timeout_ms", "connection.pool.max_lifetime_ms",
    "isolation.pool_ttl_ms", "debug.slow_query_threshold_ms",
  }

  it("refuse fractions where an integer is meant", function()
    for _, path in ipairs(COUNTS) do
      refused(path .. " must be an integer", with(path, 1.5))
      assert.equal(2, get(define(with(path, 2.0)), path))
    end
  end)

  it("refuse NaN and the infinite everywhere", function()
    for _, path in ipairs(COUNTS) do
      refused(path .. " must be an integer", with(path, NAN))
      refused(path .. " must be an integer", with(path, INF))
    end
    for _, path in ipairs(DURATIONS) do
      refused(path .. " must be a finite number", with(path, NAN))
      refused(path .. " must be a finite number", with(path, INF))
      refused(path .. " must be non-negative", with(path, -0.5))
    end
    refused("connection.retry.backoff_multiplier must be a finite number",
            with("connection.retry.backoff_multiplier", NAN))
  end)

  it("guess what was meant", function()
    local CASES = {
      ["connection.retry.maxAttempts"] = "max_attempts",
      ["connection.poolConfig"] = "pool",
      ["connection.pool.idleTimeoutMillis"] = "idle_timeout_ms",
      ["connection.pool.connectionTimeoutMillis"] = "connect_timeout_ms",
      ["isolation.schemaNameTemplate"] = "schema_name_template",
      ["isolation.poolTtlMs"] = "pool_ttl_ms",
      ["isolation.maxPools"] = "max_pools",
      ["isolation.type"] = "strategy",
      ["hooks.onPoolCreated"] = "on_pool_created",
      ["debug.logQueries"] = "log_queries",
      ["debug.slowQueryThreshold"] = "slow_query_threshold_ms",
      ["connection.retry.max_atempts"] = "max_attempts",
      ["connection.retry.jiter"] = "jitter",
      ["pool"] = "connection.pool",
    }
    for path, meant in pairs(CASES) do
      refused('unknown option "' .. path .. '", did you mean "' .. meant ..
              '"?', with(path, 1))
    end
    refused('unknown option "lint"', with("lint", {}))
  end)

  it("never contain a password", function()
    local ok, err = pcall(define, with("connection.url", { "s3cret" }))
    assert.is_false(ok)
    assert.is_nil(tostring(err):find("s3cret", 1, true))
  end)
end)


describe("routing", function()
  it("needs no template with resolve", function()
    local t = with("resolve", function() end)
    t.isolation = nil
    assert.equal("schema", define(t).isolation.strategy)
    refused("resolve must be a function", with("resolve", "policy.lua"))
  end)

  it("is by a policy or by resolve", function()
    local t = with("policy", "policy.lua")
    t.isolation = nil
    assert.equal("policy.lua", define(t).policy)
    t.resolve = function() end
    refused("policy and resolve exclude each other", t)
  end)
end)


describe("the level of errors", function()
  it("can be told", function()
    local line
    local function api(t)
      local defined = config.define(t, { level = 3, getenv = no_env })
      return defined
    end
    local _, err = pcall(function()
      line = debug.getinfo(1, "l").currentline; api({})
    end)
    assert.matches("config_spec.lua:" .. line .. ": ", err.message)
  end)
end)


describe("valid_id", function()
  local function refused_id(text, id, pattern)
    local ok, err = config.valid_id(id, pattern)
    assert.is_nil(ok)
    assert.is_true(errors.is(err, "invalid_tenant_id"))
    assert.equal(text, err.message)
    return err
  end

  it("takes plain ids", function()
    for _, id in ipairs { "acme", "a", "a-b_c.d", "x@y:z", "42",
                          ("x"):rep(200) } do
      assert.is_true(config.valid_id(id), id)
      assert.is_true(config.valid_id(id, config.ID_PATTERN))
    end
  end)

  it("refuses hostile ids", function()
    for _, id in ipairs { 'x"; DROP TABLE t; --', "nobody,tenant_x",
                          "a -c statement_timeout=1", "a/b", "a b", "a'b",
                          "caf\195\169" } do
      assert.is_nil(config.valid_id(id), id)
    end
    local err = refused_id('tenant id "a,b" does not match ^[%w_.@:-]+$',
                           "a,b")
    assert.equal("a,b", err.tenant_id)
    assert.is_false(err.retryable)
    refused_id('tenant id "a\\010" does not match ^[%w_.@:-]+$', "a\n")
    refused_id('tenant id "a\\000b" contains a NUL byte', "a\0b")
    refused_id('tenant id "a\\000b" contains a NUL byte', "a\0b", ".")
  end)

  it("refuses what is no string, or too short or long", function()
    refused_id("a tenant id must be a string, got number", 42)
    refused_id("a tenant id must be a string, got nil", nil)
    refused_id("a tenant id must be a string, got table", {})
    refused_id('tenant id "" is empty', "")
    refused_id('tenant id "" is empty', "", ".*")
    refused_id('tenant id "' .. ("x"):rep(40) ..
               '..." is longer than 200 bytes', ("x"):rep(201))
  end)

  it("takes another pattern", function()
    assert.is_true(config.valid_id("42", "^%d+$"))
    refused_id('tenant id "acme" does not match ^%d+$', "acme", "^%d+$")
  end)

  it("never raises for a pattern that turns out broken", function()
    assert.is_nil(config.valid_id("a", "^a%"))
    refused("id_pattern is not a Lua pattern: malformed pattern " ..
            "(missing ']')", with("id_pattern", "^[%w"))
  end)
end)
