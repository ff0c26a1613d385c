--- Checks the documentation: runs its examples, follows its links, compares
-- its reference pages with the code. Run by tests/check_docs.sh.
--
-- Fenced blocks, by their first line:
--
--   lua             run by mtenant-run, each block alone, after the page's
--                   prelude; its exit status must be 0
--   lua plain       the same by a plain Lua with the module on its path
--   lua prelude     the code in front of all later `lua` blocks of its page
--   lua norun       only compiled
--   lua file=NAME   compiled and written to that file, for later examples
--   c program       compiled against mtenant.h and libmtenant, then run
--   LANGUAGE dir/FILE  also: the text of that file, to the letter
--   sh run          run by bash -e, with mtenant-run on the PATH
--   sh luajit       the same, where LuaJIT (nginx's) finds the module
--   text output     what the example before it prints, to the letter
--
-- Before each example the database is made anew: schemas tenant_acme and
-- tenant_globex, each with a table notes (id serial primary key, body text);
-- DATABASE_URL names it, for the ordinary user who owns it. Connections that
-- outlive an example are a failure.

local markdown = require "tests.support.markdown"
local pg = require "tests.support.pg"
local reference = require "tests.support.docs_reference"

local LIMIT_S = 60

-- What a page may name of a machine.
local PATHS = { ["/etc"] = true, ["/path"] = true, ["/usr"] = true,
                ["/var"] = true }

local SETUP = [[
SET client_min_messages = error;
SET SESSION AUTHORIZATION mtenant;
SELECT 'DROP SCHEMA ' || quote_ident(nspname) || ' CASCADE' FROM pg_namespace
  WHERE nspowner = 'mtenant'::regrole \gexec
SELECT 'DROP TABLE public.' || quote_ident(relname) || ' CASCADE' FROM pg_class
  WHERE relowner = 'mtenant'::regrole AND relkind = 'r'
    AND relnamespace = 'public'::regnamespace \gexec
CREATE SCHEMA tenant_acme;
CREATE TABLE tenant_acme.notes (id serial PRIMARY KEY, body text);
CREATE SCHEMA tenant_globex;
CREATE TABLE tenant_globex.notes (id serial PRIMARY KEY, body text);
]]

local t = { -- also what docs_reference.lua works with
  build = os.getenv("MT_BUILD_DIR"),
  cc = os.getenv("CC") or "cc",
  top = os.getenv("PWD"),
}
local checks, failures = 0, 0
local home -- a directory of our own
local work -- in it, that of the page


local function fail(place, fmt, ...)
  failures = failures + 1
  print(place .. ": " .. fmt:format(...))
end


function t.check(ok, place, fmt, ...)
  checks = checks + 1
  if not ok then
    fail(place, fmt, ...)
  end
  return ok
end

local check = t.check


function t.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end


--- Writes a file in the work directory.
function t.write(name, text)
  local file = assert(io.open(work .. "/" .. name, "wb"))
  file:write(text)
  file:close()
end


local function exists(path)
  local file = io.open(path, "rb")
  if file then
    file:close()
  end
  return file ~= nil
end


local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end


--- Runs a command in the work directory; returns its exit status and output.
function t.run(command)
  local out = work .. "/out"
  local _, _, status = os.execute(("cd %s && DATABASE_URL=%s timeout -k 5 %d %s "
    .. ">%s 2>&1 </dev/null"):format(quote(work), quote(t.server.url), LIMIT_S,
    command, quote(out)))
  return status, t.read(out)
end


local function indented(text)
  return (text:gsub("%s+$", ""):gsub("[^\n]+", "    %0"))
end


-- ---- pages ----------------------------------------------------------------------

local pages = {}


local function load_page(name)
  local page = markdown.parse(t.read(name))
  page.name = name
  pages[name], pages[#pages + 1] = page, page
  check(not page.unclosed, name, "the block in line %d has no end",
        page.unclosed or 0)
end


local function at(page, line)
  return page.name .. ":" .. line
end


local function resolve(from, target)
  local parts = {}
  for part in (from:gsub("[^/]*$", "") .. target):gmatch("[^/]+") do
    if part == ".." then
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  return table.concat(parts, "/")
end


local function check_link(page, link)
  if link.target:find("^%a+:") then
    return
  end
  local path, anchor = link.target:match("^([^#]*)#?(.*)$")
  local name = path == "" and page.name or resolve(page.name, path)
  local place = at(page, link.line)
  if not check(exists(name), place, "there is no %s", name) or anchor == "" then
    return
  end
  local target = pages[name] or markdown.parse(t.read(name))
  check(target.anchors[anchor], place, "%s has no heading #%s", name, anchor)
end


--- Names of pages in the text must be those of pages, and paths of a machine
--- have no place in it.
local function check_prose(page)
  for line, text in pairs(page.prose) do
    for name in text:gmatch("[%w_./-]+%.md") do
      check(exists(name) or exists(resolve(page.name, name)), at(page, line),
            "there is no %s", name)
    end
    for path in (" " .. text):gmatch("[%s`'\"(=](/[%w_.-]+/[%w_./-]+)") do
      check(PATHS[path:match("^/%w+")], at(page, line),
            "a path of some machine: %s", path)
    end
  end
end


-- ---- examples ---------------------------------------------------------------------

local function reset_database()
  t.server:psql(SETUP)
end


-- A backend needs a moment to notice that its client is gone.
local function check_quiet(place)
  local text
  for _ = 1, 100 do
    text = t.server:psql("SELECT count(*) FROM pg_stat_activity "
      .. "WHERE usename = 'mtenant'")
    if text:match("%d+") == "0" then
      return
    end
    os.execute("sleep 0.05")
  end
  check(false, place, "the example left connections: %s", text)
end


local function report(place, status, out, output)
  if not check(status == 0, place, "exit status %s\n%s", tostring(status),
               indented(out)) then
    return
  end
  check_quiet(place)
  if output then
    local expected, got = output.text:gsub("%s+$", ""), out:gsub("%s+$", "")
    check(got == expected, place, "prints\n%s\nwhich is not what is shown",
          indented(got))
  end
end


--- The prelude on one line, so that an example's lines are one off at most.
local function with_prelude(page, block)
  if not page.prelude then
    return block.text
  end
  local lines = {}
  for line in page.prelude:gmatch("[^\n]+") do
    lines[#lines + 1] = (line:gsub("%-%-.*$", ""))
  end
  return table.concat(lines, " ") .. "\n" .. block.text
end


local examples = {}


-- Is the block a file that later examples use?
local function written(page, block)
  for word in pairs(block.info) do
    local name = word:match("^file=(.+)$")
    if name then
      local chunk, err = load(block.text, "=" .. name)
      check(chunk, at(page, block.line), "%s", tostring(err))
      t.write(name, block.text)
      return true
    end
  end
end


function examples.lua(page, block, output)
  if written(page, block) then
    return
  end
  local place = at(page, block.line)
  if block.info.prelude then
    page.prelude = block.text
    return
  end
  local text = with_prelude(page, block)
  local chunk, err = load(text, "=" .. place)
  if not check(chunk, place, "%s", tostring(err)) or block.info.norun then
    return
  end
  local program = t.build .. "/bin/mtenant-run"
  if block.info.plain then
    program = "lua5.4"
  end
  t.write("example.lua", text)
  reset_database()
  local status, out = t.run(quote(program) .. " example.lua")
  report(place, status, out, output)
end


function examples.c(page, block, output)
  if not block.info.program then
    return
  end
  local place = at(page, block.line)
  t.write("example.c", block.text)
  local status, out = t.run(([[sh -c '%s -std=c11 -Wall -Wextra -Werror \
    -Wno-unused-parameter -I "%s/src" -o example example.c \
    "%s/lib/libmtenant.a" $(pkg-config --libs libpq libcares) -lev -lm \
    -pthread']]):format(t.cc, t.top, t.build))
  if check(status == 0, place, "does not compile\n%s", indented(out)) then
    reset_database()
    status, out = t.run("./example")
    report(place, status, out, output)
  end
end


function examples.sh(page, block, output)
  if not (block.info.run or block.info.luajit) then
    return
  end
  t.write("example.sh", block.text)
  reset_database()
  local env = "PATH=" .. quote(t.build .. "/bin:" .. os.getenv("PATH"))
  if block.info.luajit then
    env = env .. " LUA_CPATH=" .. quote(t.build .. "/lib/luajit/?.so;;")
  end
  local status, out = t.run(("env %s bash -e example.sh"):format(env))
  report(at(page, block.line), status, out, output)
end


-- a block that shows a file of the repository
local function check_same(page, block)
  for word in pairs(block.info) do
    if word:find("/", 1, true) and not word:find("^file=") then
      check(t.read(t.top .. "/" .. word) == block.text, at(page, block.line),
            "is not what is in %s", word)
    end
  end
end


local function check_examples(page)
  for i, block in ipairs(page.blocks) do
    check_same(page, block)
    local after = page.blocks[i + 1]
    local example = examples[block.language]
    if example then
      example(page, block, after and after.info.output and after or nil)
    end
  end
end


-- ---- all ----------------------------------------------------------------------------

local function check_page(page)
  work = home .. "/" .. page.name:gsub("/", "-")
  os.execute("mkdir " .. quote(work))
  check_prose(page)
  for _, link in ipairs(page.links) do
    check_link(page, link)
  end
  local compare = reference.pages[page.name]
  if compare then
    compare(t, page)
  end
  if not os.getenv("MT_DOCS_NO_EXAMPLES") then
    check_examples(page)
  end
end


local function main(names)
  home = io.popen("mktemp -d"):read("*l")
  t.server = pg.start()
  reset_database()
  for _, name in ipairs(names) do
    load_page(name)
  end
  for _, page in ipairs(pages) do
    check_page(page)
  end
end


local ok, err = xpcall(main, debug.traceback, { ... })
if not ok then
  fail("check_docs", "%s", tostring(err))
end
if t.server then
  t.server:close()
end
os.execute("rm -rf " .. quote(home))
print(("%d checks passed, %d failed"):format(checks - failures, failures))
os.exit(failures == 0, true)
