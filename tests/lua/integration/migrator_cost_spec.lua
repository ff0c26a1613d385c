--- What the migrator asks of a server: statements and connections, as the
--- server's log counts them.

local env = require "tests.support.env"
local folders = require "tests.support.folder"
local mtenant = require "mtenant"


local TENANTS = 1100 -- three chunks

local FILL = [[
  SET client_min_messages = error; SET ROLE mtenant;
  SELECT format('CREATE SCHEMA m_%1$s CREATE TABLE __drizzle_migrations (
      id serial PRIMARY KEY, name varchar(255) NOT NULL UNIQUE,
      applied_at timestamptz DEFAULT now());
    INSERT INTO m_%1$s.__drizzle_migrations (name) VALUES (''0001_a'')',
    to_char(i, 'FM0000')) FROM generate_series(1, ]] .. TENANTS .. [[) i \gexec
]]


describe("what the migrator costs", function()
  local folder, server

  setup(function()
    server = env.start({ conf = { log_connections = "on" } })
    server:psql(FILL)
    server:psql("ALTER SYSTEM SET log_statement = 'all'; "
      .. "SELECT pg_reload_conf()")
    folder = folders.new({ ["0001_a.sql"] = "CREATE TABLE a (id int)" })
  end)
  teardown(function()
    env.close(server)
    folder.close()
  end)
  after_each(env.assert_nothing_left)

  local function new(n)
    local ids = {}
    for i = 1, n do ids[i] = ("%04d"):format(i) end
    return mtenant.create_migrator({
      connection = { url = server.url },
      isolation = { schema_name_template = function(id) return "m_" .. id end },
    }, { migrations_folder = folder.path,
         tenant_discovery = function() return ids end })
  end

  -- statements and connections of the migrator while fn runs
  local function cost(fn)
    local before = #server:log()
    fn()
    local log = server:log():sub(before + 1)
    local _, statements = log:gsub("LOG:  statement: ", "")
    local _, executed = log:gsub("LOG:  execute ", "")
    local _, connections = log:gsub("connection authorized: user=mtenant", "")
    return statements + executed, connections, log
  end

  it("is a few statements over two connections, when nothing is pending (B48)",
    env.in_task(function()
      for _, call in ipairs({ "migrate_all", "get_status" }) do
        local m, done = new(TENANTS), nil
        local statements, connections = cost(function()
          done = assert(m[call](m))
        end)
        assert.equal(TENANTS, done.succeeded or #done)
        m:dispose()
        -- two per 500 tenants, the checksums, and each connection's beginning
        assert.is_true(statements <= 20, call .. ": " .. statements)
        assert.is_true(connections <= 2, call .. ": " .. connections)
      end
    end))

  it("is one round trip for a tenant's files, over connections that are kept",
    env.in_task(function()
      folder.write("0002_b.sql", "CREATE TABLE b (id int)")
      folder.write("0003_c.sql", "CREATE TABLE c (id int)")
      local m = new(100)
      local _, connections, log = cost(function()
        local results = assert(m:migrate_all({ concurrency = 4 }))
        assert.equal(100, results.succeeded)
      end)
      m:dispose()
      assert.is_true(connections <= 4, connections)
      -- the files of a tenant are in one text
      local texts = 0
      for text in (log .. "LOG: "):gmatch("statement: (BEGIN ISOLATION.-)LOG: ") do
        texts = texts + 1
        assert.matches("CREATE TABLE b .*COMMIT.*BEGIN.*CREATE TABLE c .*COMMIT",
                       text)
      end
      assert.equal(100, texts)
    end))
end)
