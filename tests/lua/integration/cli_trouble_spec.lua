--- What the commands of `mtenant` make of bad input: one clear line, exit status 1
--- or 2, and a database as it was. And two of them at once.

local cli = require "tests.support.cli"
local cjson = require "cjson"
local program = require "tests.support.program"

local quote = program.quote
local unpack = table.unpack or unpack -- luacheck: ignore 113 143


-- All that is in the database, but for a random word that newer ones write.
local function dump()
  local text = program.sh("pg_dump " .. quote(cli.server.url))
  return (text:gsub("\n\\%l*restrict [^\n]*", ""))
end


local function shell(command)
  program.sh("cd " .. quote(program.scratch()) .. " && " .. command)
end


-- { what, what is there, arguments, what is said }; a status of 1 unless there
-- is another.
local CASES = {
  { "a folder that is missing", function() shell "rmdir shared" end,
    "migrate-shared", "migrations folder shared: there is no such folder" },
  { "a folder that is a file", function() shell "rm -r shared; touch shared" end,
    "migrate-shared", "migrations folder shared: Not a directory" },
  { "a file that can't be read", function() shell "mkdir migrations/0002_dir.sql" end,
    "migrate --all", "0002_dir: Is a directory" },
  { "a link to nothing", function() shell "ln -s gone migrations/0002_gone.sql" end,
    "migrate --all", "0002_gone: No such file or directory" },
  { "an empty file", function() cli.migration("0002_empty.sql", "") end,
    "migrate --all", "0002_empty: the file is empty" },
  { "a file of blanks", function() cli.migration("0002_blank.lua", " \n\n") end,
    "migrate --all", "0002_blank: the file is empty" },
  { "a file that is not UTF-8",
    function() cli.migration("0002_bytes.sql", "SELECT 1;\nSELECT '\255';") end,
    "migrate --all", "0002_bytes, line 2: [^\n]*UTF%-8" },
  { "a name that is not UTF-8",
    function() cli.migration("0002_\255.sql", "SELECT 1;") end,
    "migrate --all", "0002_[^\n]*: the name is not valid UTF%-8" },
  { "an error of SQL", function() cli.migration("0002_sql.sql",
      "SELECT 1;\n\nSELEC 2;") end,
    "migrate --all", '0002_sql, line 3: syntax error at or near "SELEC"' },
  { "an error of Lua", function() cli.migration("0002_lua.lua", "return {\n") end,
    "migrate --all", "0002_lua: migrations/0002_lua.lua:2: [^\n]*near <eof>" },
  { "Lua that raises", function() cli.migration("0002_lua.lua", "error 'no'") end,
    "migrate --all", "0002_lua: migrations/0002_lua.lua:1: no" },
  { "Lua with nothing to run",
    function() cli.migration("0002_lua.lua", "return { upp = print }") end,
    "migrate --all", "0002_lua: [^\n]*did you mean \"?up" },
  { "a COMMIT", function() cli.migration("0002_end.sql", "COMMIT;") end,
    "migrate --all", "0002_end, line 1: COMMIT can't be in a migration" },
  { "two files with one number",
    function() cli.migration("1_other.sql", "SELECT 1;") end,
    "migrate --all", "has the same number" },
  { "a file without a number",
    function() cli.migration("init.sql", "SELECT 1;") end,
    "migrate --all", "init.sql: a migration's name starts with a number" },
  { "a tenant that there is none of", nil, "migrate -t nobody",
    'schema "t_nobody" does not exist' },
  { "an id that is none", nil, "migrate -t 'a;b'", "invalid_tenant_id" },
  { "a concurrency of 0", nil, "migrate --all --concurrency 0",
    "%-%-concurrency takes auto or a whole number", 2 },
  { "a concurrency of -1", nil, "migrate --all --concurrency -1",
    "%-%-concurrency takes auto or a whole number", 2 },
  { "a concurrency of NaN", nil, "migrate --all --concurrency NaN",
    "%-%-concurrency takes auto or a whole number", 2 },
  { "a concurrency of abc", nil, "migrate --all --concurrency abc",
    "%-%-concurrency takes auto or a whole number", 2 },
  { "no discovery", function() cli.configure("tenant_discovery = nil") end,
    "migrate --all", "migrations.tenant_discovery is missing" },
  { "a discovery that raises",
    function() cli.configure("tenant_discovery = function() error('no') end") end,
    "migrate --all", "tenant_discovery failed: [^\n]*no" },
  { "a discovery whose query fails",
    function() cli.configure("tenant_discovery = function(db) "
      .. "return db:query('SELECT * FROM nothing') end") end,
    "migrate --all", 'relation "nothing" does not exist' },
  { "an id that is no text",
    function() cli.configure("tenant_discovery = function() return { 7, {} } end") end,
    "migrate --all", "tenant.config.lua: tenant_discovery must return a list of "
      .. "strings, item 1 is a number" },
}


describe("mtenant, given", function()
  before_each(function()
    cli.set_up()
    cli.tenants("acme", "globex")
    cli.migration("shared/0001_shared.sql", "CREATE TABLE shared (id int);")
    shell "rm shared/0001_shared.sql"
  end)
  after_each(cli.tear_down)
  teardown(cli.close)

  for _, case in ipairs(CASES) do
    local what, arrange, args, said, status = unpack(case)
    it(what .. ", says so and changes nothing", function()
      if arrange then arrange() end
      local before = dump()
      local result = cli.run(args)
      assert.equal(status or 1, result.status, result.out .. result.err)
      assert.matches(said, result.err)
      local lines = select(2, result.err:gsub("\n", ""))
      assert.equal(status == 2 and 2 or 1, lines, result.err) -- and a hint
      assert.is_nil(result.err:find("traceback", 1, true))
      assert.equal(before, dump())
    end)
  end
end)


describe("mtenant migrate", function()
  before_each(cli.set_up)
  after_each(cli.tear_down)
  teardown(cli.close)

  local function both(args)
    local outs = {}
    shell(("for i in 1 2; do (%s %s %s >out.$i 2>err.$i; echo $? >>err.$i) & done; wait")
      :format(cli.env(), quote(cli.path), args))
    for i = 1, 2 do
      assert.equal("0\n", program.read("err." .. i))
      outs[i] = program.read("out." .. i)
    end
    return outs
  end

  for _, format in ipairs({ "name", "hash", "drizzle-kit" }) do
    it("applies once where two of it run, format " .. format, function()
      local ids = {}
      for i = 1, 24 do ids[i] = ("w%02d"):format(i) end
      cli.tenants(unpack(ids))
      cli.configure(("default_format = '%s'"):format(format))
      cli.migration("0001_users.sql", "CREATE TABLE users (name text);\n"
        .. "INSERT INTO users VALUES ('x'); SELECT pg_sleep(0.03);")
      cli.migration("0002_more.sql", "INSERT INTO users VALUES ('y');")
      local files, share = 0, {}
      for i, out in ipairs(both("migrate --all --json")) do
        for line in out:gmatch("[^\n]+") do
          local object = cjson.decode(line)
          if object.event == "summary" then
            files = files + object.files
            share[i] = object.files
            assert.equal(24, object.succeeded)
          else
            assert.equal(format, object.format)
          end
        end
      end
      assert.equal(48, files)
      assert.is_true(share[1] > 0 and share[2] > 0, "they share the work")
      for _, id in ipairs(ids) do
        assert.equal("2|2", cli.server:psql(("SELECT (SELECT count(*) FROM "
          .. "t_%s.users), (SELECT count(*) FROM t_%s.__drizzle_migrations)")
          :format(id, id)))
      end
      assert.matches("^24 tenants: 0 migrated, 24 up to date, ",
                     cli.good("migrate --all"))
    end)
  end

  it("takes formats, tables and hooks from the configuration (B51)", function()
    cli.tenants("acme")
    cli.configure("table_format = 'hash', migrations_table = 'done', "
      .. "hooks = { before_migration = function(id, name) "
      .. "io.stdout:write('hook ', id, ' ', name, '\\n') end }")
    assert.matches("^hook acme 0001_users\n", cli.good("migrate --all"))
    assert.equal("done users", cli.tables("t_acme"))
    assert.equal("64", cli.server:psql("SELECT length(hash) FROM t_acme.done"))
    cli.migration("shared/0001_s.sql", "SELECT 1;")
    cli.good("migrate-shared")
    -- the library's and drizzle-multitenant's table
    assert.equal("__drizzle_shared_migrations", cli.tables("public"))
    cli.configure("table_format = 'name', migrations_table = 'done'")
    assert.matches('has the format "hash", not "name"', cli.run("migrate --all").err)
  end)
end)
