--- The commands of `mtenant` as far as they need no server: command lines, help,
-- configuration files, new migration files, completion.

local json = require "mtenant.cli.json"
local generate = require "mtenant.cli.generate"
local mtenant = require "mtenant"
local program = require "tests.support.program"

local assert_run, quote, sh = program.assert_run, program.quote, program.sh

local MTENANT = program.path:gsub("mtenant%-run$", "mtenant")

local COMMANDS = { "migrate", "migrate-shared", "status", "sync", "generate",
                   "create", "drop", "seed", "convert-format", "rollback",
                   "completion", "route", "policy" }

local CONFIG = [[
return {
  connection = { url = "postgresql:///none" },
  isolation = { schema_name_template = function(id) return "t_" .. id end },
  migrations = { tenant_folder = "migrations", shared_folder = "shared" },
}
]]


local function run(args, env)
  return program.run(args, { path = MTENANT, env = env or "env -u DATABASE_URL" })
end


--- One line and a hint, nothing else.
local function assert_usage(message, args)
  local command = args:match("^%S+")
  assert_run({
    status = 2,
    out = "",
    err = ("mtenant %s: %s\nTry 'mtenant %s --help'.\n"):format(command, message,
                                                               command),
  }, run(args))
end


--- Exit status 1 and one line.
local function assert_failure(message, args, env)
  assert_run({ status = 1, out = "", err = message .. "\n" }, run(args, env))
end


local function mkdir(name)
  sh("mkdir -p " .. quote(program.scratch() .. "/" .. name))
end


describe("mtenant", function()
  before_each(program.set_up)
  after_each(program.tear_down)

  it("lists its commands", function()
    local out = run("--help").out
    for _, name in ipairs(COMMANDS) do
      assert.matches("\n  " .. name:gsub("%-", "%%-") .. " +%S", out)
    end
  end)

  for _, name in ipairs(COMMANDS) do
    it(name .. " explains itself", function()
      local result = run(name .. " --help")
      assert.equal(0, result.status)
      assert.equal("", result.err)
      assert.matches("^Usage: mtenant " .. name:gsub("%-", "%%-") .. " %[options%]",
                     result.out)
      assert.matches("\nExample:\n  [^\n]*mtenant " .. name:gsub("%-", "%%-"),
                     result.out)
      assert.matches("\n  %-h, %-%-help +this text\n", result.out)
      for line in result.out:gmatch("[^\n]+") do
        assert.is_true(#line < 80, line)
      end
      assert.same(result, run(name .. " -h"))
    end)
  end

  it("shows the help also after other options", function()
    assert.equal(run("drop --help").out, run("drop --force --help").out)
  end)

  describe("refuses a command line", function()
    it("that names no tenants", function()
      program.write("s.lua", "return function() end")
      for _, args in ipairs({ "migrate", "migrate --dry-run", "rollback --force",
                              "sync --mark-missing", "sync --clean-orphans",
                              "convert-format --to name", "seed s.lua" }) do
        program.write("tenant.config.lua", CONFIG)
        assert_usage("say which tenants: --all, --tenant ID or --tenants ID,ID",
                     args)
      end
    end)

    it("with wrong numbers", function()
      for _, text in ipairs({ "0", "-1", "NaN", "abc", "1.5", "1e3", "1001", "" }) do
        for _, form in ipairs({ "--concurrency=", "--concurrency " }) do
          assert_usage(("--concurrency takes auto or a whole number from 1 to "
            .. "1000, not '%s'"):format(text),
            "migrate --all " .. form .. (text == "" and "''" or text))
        end
      end
      assert_usage("--lock-timeout takes a whole number from 1 on, not '-5'",
                   "migrate -a --lock-timeout -5")
      assert_usage("--steps takes a whole number from 1 on, not '0'",
                   "rollback -a --steps 0")
    end)

    it("with options that exclude each other", function()
      local function excluded(a, b, args)
        assert_usage(("option '%s' can not be used together with option '%s'")
          :format(b, a), args)
      end
      excluded("--all", "--tenant", "migrate --all --tenant acme")
      excluded("-a", "--tenants", "migrate -a --tenants acme,globex")
      excluded("-q", "-v", "status -qv")
      excluded("--steps", "--to", "rollback -a --steps 2 --to 0001_a")
    end)

    it("with options, arguments and values that there are none of", function()
      local cases = {
        ["migrate --al"] = "unknown option '--al'; did you mean '--all'?",
        ["migrate -a x"] = "too many arguments",
        ["migrate --tenant"] = "option '--tenant' requires an argument",
        ["migrate --tenants ,"] = "--tenants names nothing",
        ["drop"] = "missing argument 'id'",
        ["generate"] = "missing argument 'name'",
        ["generate '!?'"] = "the name needs letters or digits",
        ["convert-format -a"] = "missing option '--to'",
        ["convert-format -a --to x"] = "argument for option '--to' must be one "
          .. "of 'name', 'hash', 'drizzle-kit'",
        ["completion tcsh"] = "argument 'shell' must be one of 'bash', 'zsh', "
          .. "'fish'",
      }
      for args, message in pairs(cases) do
        assert_usage(message, args)
      end
    end)

    it("that would lose something, where it can't ask", function()
      local message = "--force is needed where there is no terminal to ask on"
      assert_usage(message, "drop acme")
      assert_usage(message, "rollback --tenant acme")
    end)
  end)

  describe("says of a configuration", function()
    local function assert_wrong(text, message)
      program.write("tenant.config.lua", text)
      assert_failure("mtenant status: " .. message, "status")
    end

    it("that there is none", function()
      assert_failure("mtenant status: there is no tenant.config.lua here or in a "
        .. "directory above; name one by --config FILE", "status")
      assert_failure("mtenant status: cannot open x.lua: No such file or "
        .. "directory", "status --config x.lua")
    end)

    it("that it does not compile, raises or returns something else", function()
      assert_wrong("return {",
                   "tenant.config.lua:1: unexpected symbol near <eof>")
      assert_wrong("\nerror('no')", "tenant.config.lua:2: no")
      assert_wrong("error({ message = 'a\\nb' })", "tenant.config.lua: a b")
      assert_wrong("", "tenant.config.lua returns a nil, not a table")
      assert_wrong("return 'x'", "tenant.config.lua returns a string, not a table")
      assert_wrong("return {}", "tenant.config.lua has no table named migrations")
      assert_wrong("return { migrations = 'm' }",
                   "tenant.config.lua has no table named migrations")
    end)

    it("that nobody knows all tenants", function()
      assert_wrong(CONFIG, "tenant.config.lua: migrations.tenant_discovery is "
        .. "missing, and only that knows all tenants")
    end)
  end)

  describe("generate", function()
    before_each(function()
      mkdir("migrations")
      mkdir("shared")
      mkdir("below/further")
      program.write("tenant.config.lua", CONFIG)
    end)

    it("makes files with the next number", function()
      assert_run({ status = 0, out = "migrations/0001_create_users.sql\n", err = "" },
                 run("generate create_users"))
      assert.matches("\nCREATE TABLE users %(", program.read(
        "migrations/0001_create_users.sql"))
      assert.equal("migrations/0002_fill_in_slugs.lua\n",
                   run("generate --type lua 'Fill in: slugs!'").out)
      program.write("migrations/0041_x.sql", "")
      program.write("migrations/readme_0099.txt", "")
      assert.equal("migrations/0042_add_mail.sql\n", run("generate add mail").out)
      program.write("migrations/9999_y.lua", "")
      assert.equal("migrations/10000_z.sql\n", run("generate z").out)
    end)

    it("finds the configuration above, and its folders beside it", function()
      assert_run({ status = 0, err = "",
                   out = "../../shared/0001_plans.sql\n" },
                 run("generate plans --shared", "env -C below/further"))
      assert.matches("^%-%- plans\n", program.read("shared/0001_plans.sql"))
      assert.equal("below/../migrations/0001_a.sql\n",
                   run("generate a --config below/../tenant.config.lua").out)
    end)

    it("needs no configuration where the folder is given", function()
      os.remove(program.scratch() .. "/tenant.config.lua")
      assert.equal("below/0001_a.sql\n",
                   run("generate a --migrations-folder below/").out)
    end)

    it("never overwrites", function()
      program.write("migrations/0007_users.sql", "SELECT 7")
      assert_failure("mtenant generate: migrations/0007_users.sql is there already",
                     "generate USERS")
      assert.equal("SELECT 7", program.read("migrations/0007_users.sql"))
      assert.equal("0007_users.sql", sh("ls " .. program.scratch() .. "/migrations"))
    end)

    it("says that there is no folder", function()
      sh("rmdir " .. program.scratch() .. "/shared")
      assert_failure("mtenant generate: there is no folder shared",
                     "generate a --shared")
      program.write("tenant.config.lua", "return { migrations = {} }")
      assert_failure("mtenant generate: tenant.config.lua: "
        .. "migrations.tenant_folder is missing", "generate a")
    end)

    it("chooses a template by the name", function()
      local cases = {
        create_users = "table", users_table = "table", add_users_idx = "index",
        add_index = "index", order_fk = "foreign-key", add_mail_to_users = "column",
        fill_in = "blank", created = "blank",
      }
      for name, template in pairs(cases) do
        assert.equal(template, generate.template_of(name), name)
      end
      assert.matches("ALTER TABLE users ADD COLUMN mail text;",
                     generate.text("add_mail_to_users", "sql", "auto"))
    end)

    it("makes Lua files that compile and go both ways", function()
      for _, template in ipairs({ "table", "index", "foreign-key", "column" }) do
        local module = assert(load(generate.text("x", "lua", template)))()
        assert.equal("function", type(module.up), template)
        assert.equal("function", type(module.down), template)
      end
      local said
      local blank = load(generate.text("x", "lua", "blank"))()
      blank.up({ exec = function(_, sql) said = sql end })
      assert.matches("^%s*SELECT 1;%s*$", said)
      assert.is_nil(blank.down)
    end)
  end)

  describe("JSON", function()
    it("has lists that are empty, and errors as objects", function()
      local err = mtenant.errors.new("query", "no \"x\"", { sqlstate = "42P01" })
      assert.equal([[{"event":"tenant","tenant_id":"a","applied":[],]]
        .. [["error":{"code":"query","message":"no \"x\"","sqlstate":"42P01"},]]
        .. [["list":["b",1,true]}]], json.encode({
          event = "tenant", tenant_id = "a", applied = {}, error = err,
          list = { "b", 1, true },
        }))
      assert.equal('{"message":"text"}', json.encode(json.error("text")))
    end)
  end)

  describe("completion", function()
    it("works in bash", function()
      local function complete(...)
        local words = {}
        for i, word in ipairs({ "mtenant", ... }) do words[i] = quote(word) end
        program.write("try.sh", [[
          source <("$1" completion bash) || exit 1
          COMP_WORDS=(]] .. table.concat(words, " ") .. [[)
          COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
          _mtenant
          echo "${COMPREPLY[*]}"
        ]])
        return program.run("try.sh " .. quote(MTENANT), { path = "bash" }).out
      end
      assert.equal("migrate migrate-shared\n", complete("mig"))
      assert.equal("--allow-out-of-order --allow-edited\n",
                   complete("migrate", "--allow"))
      assert.equal("name hash drizzle-kit\n",
                   complete("convert-format", "--to", ""))
    end)

    it("knows every command and option, for all three", function()
      for _, shell in ipairs({ "bash", "zsh", "fish" }) do
        local result = run("completion " .. shell)
        assert.equal(0, result.status)
        for _, name in ipairs(COMMANDS) do
          assert.truthy(result.out:find(name, 1, true), shell .. " " .. name)
        end
        for _, option in ipairs({ "mark-applied", "clean-orphans", "restrict",
                                  "template", "no-migrate", "steps" }) do
          assert.truthy(result.out:find(option, 1, true), shell .. " " .. option)
        end
      end
      assert.matches("^#compdef mtenant\n", run("completion zsh").out)
    end)
  end)
end)
