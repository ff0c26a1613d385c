--- Checks the documentation: runs its examples, and compares its reference
-- pages with the code. Run by tests/check_docs.sh, which sets the paths.
--
-- Fenced blocks, by their first line:
--
--   lua             run by mtenant-run, each block alone, after the page's
--                   prelude; its exit status must be 0
--   lua plain       the same by a plain Lua with the module on its path
--   lua prelude     the code in front of all later `lua` blocks of its page
--   lua norun       only compiled
--   c program       compiled against mtenant.h and libmtenant, then run
--   sh run          run by bash -e, with mtenant-run on the PATH
--   text output     what the block before it prints, to the letter
--
-- Before each example the database is made anew: schemas tenant_acme and
-- tenant_globex, each with a table notes (id serial primary key, body text);
-- DATABASE_URL names it, for an ordinary user. What an example leaves open
-- (processes, connections) is a failure.

local config = require "mtenant.config"
local markdown = require "tests.support.markdown"
local mtenant = require "mtenant"
local pg = require "tests.support.pg"

local BUILD = os.getenv("MT_BUILD_DIR") or "build/release"
local CC = os.getenv("CC") or "cc"
local LIMIT_S = 60

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

local checks, failures = 0, 0
local work -- a directory of our own
local server


local function fail(place, fmt, ...)
  failures = failures + 1
  print(place .. ": " .. fmt:format(...))
end


local function check(ok, place, fmt, ...)
  checks = checks + 1
  if not ok then
    fail(place, fmt, ...)
  end
  return ok
end


local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end


local function write(path, text)
  local file = assert(io.open(path, "wb"))
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
local function run(command)
  local out = work .. "/out"
  local _, _, status = os.execute(("cd %s && DATABASE_URL=%s timeout -k 5 %d %s "
    .. ">%s 2>&1 </dev/null"):format(quote(work), quote(server.url), LIMIT_S,
    command, quote(out)))
  return status, read(out)
end


local function indented(text)
  return (text:gsub("%s+$", ""):gsub("[^\n]+", "    %0"))
end


-- ---- pages ----------------------------------------------------------------------

local pages = {}


local function load_pages(names)
  for _, name in ipairs(names) do
    local page = markdown.parse(read(name))
    page.name = name
    pages[name], pages[#pages + 1] = page, page
    check(not page.unclosed, name .. ":" .. (page.unclosed or 0),
          "a block that has no end")
  end
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
  local target = pages[name] or markdown.parse(read(name))
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
    for path in text:gmatch("%f[%w/]/[%w_.-]+/[%w_./-]+") do
      check(path:find("^/usr/") or path:find("^/var/run/")
            or path:find("^/path/to/"), at(page, line),
            "a path of some machine: %s", path)
    end
  end
end


-- ---- examples ---------------------------------------------------------------------

local function reset_database()
  server:psql(SETUP)
end


-- Backends need a moment to notice that their client is gone.
local function wait_for_quiet(place)
  for _ = 1, 100 do
    local n = server:psql("SELECT count(*) FROM pg_stat_activity "
      .. "WHERE usename = 'mtenant'")
    if n:match("%d+") == "0" then
      return true
    end
    os.execute("sleep 0.05")
  end
  return check(false, place, "the example left connections")
end


local function report(place, status, out, output)
  if not check(status == 0, place, "exit status %s\n%s", tostring(status),
               indented(out)) then
    return
  end
  wait_for_quiet(place)
  if output then
    local expected = output.text:gsub("%s+$", "")
    local got = out:gsub("%s+$", "")
    check(got == expected, place, "prints\n%s\nwhich is not what is shown",
          indented(got))
  end
end


local function with_prelude(page, block)
  -- on one line, so that the example's own lines keep their numbers
  local lines = {}
  for line in (page.prelude or ""):gmatch("[^\n]+") do
    lines[#lines + 1] = (line:gsub("%-%-.*$", ""))
  end
  local before = table.concat(lines, " ")
  return before .. ("\n"):rep(before == "" and 0 or 1) .. block.text
end


local examples = {}


function examples.lua(page, block, output)
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
  local program = BUILD .. "/bin/mtenant-run"
  if block.info.plain then
    program = "lua5.4"
  end
  write(work .. "/example.lua", text)
  reset_database()
  local status, out = run(quote(program) .. " example.lua")
  report(place, status, out, output)
end


function examples.c(page, block, output)
  if not block.info.program then
    return
  end
  local place = at(page, block.line)
  write(work .. "/example.c", block.text)
  local status, out = run(([[sh -c 'exec %s -std=c11 -Wall -Wextra -Werror \
    -I "%s/src" -o example example.c "%s/lib/libmtenant.a" \
    $(pkg-config --libs libpq libcares) -lev -lm -pthread']]):format(CC,
    os.getenv("PWD"), BUILD))
  if check(status == 0, place, "does not compile\n%s", indented(out)) then
    reset_database()
    status, out = run("./example")
    report(place, status, out, output)
  end
end


function examples.sh(page, block, output)
  if not block.info.run then
    return
  end
  write(work .. "/example.sh", block.text)
  reset_database()
  local status, out = run(("env PATH=%s bash -e example.sh"):format(
    quote(BUILD .. "/bin:" .. os.getenv("PATH"))))
  report(at(page, block.line), status, out, output)
end


local function check_examples(page)
  local all = page.blocks
  for i, block in ipairs(all) do
    local after = all[i + 1]
    local output = after and after.language == "text" and after.info.output
      and after or nil
    local example = examples[block.language]
    if example then
      example(page, block, output)
    end
  end
end


-- ---- the reference -------------------------------------------------------------------

--- Every name in the headings of a page: "### db:one, tx:one(sql)" has two.
local function names_in_headings(page)
  local names = {}
  for _, heading in ipairs(page.headings) do
    local text = heading.text:gsub("%b()", "")
    for name in text:gmatch("[%w_.:]+") do
      names[name] = true
    end
  end
  return names
end


local function check_names(page, names, prefix, t)
  for key, value in pairs(t) do
    local public = type(key) == "string" and not key:find("^_[^V]")
    if public and (type(value) == "function" or prefix == "mtenant.") then
      check(names[prefix .. key], page.name, "no heading for %s%s", prefix, key)
    end
  end
end


local function methods_of(object)
  local mt = getmetatable(object)
  return type(mt.__index) == "table" and mt.__index or {}
end


--- Calls `see(prefix, methods)` for every kind of object.
local function each_kind(see)
  local manager = mtenant.create_tenant_manager({
    connection = { url = server.url },
    isolation = {
      schema_name_template = function(id) return "tenant_" .. id end,
    },
  })
  local db = assert(manager:get_db("acme"))
  see("manager:", methods_of(manager))
  see("db:", methods_of(db))
  mtenant.run(function()
    see("task:", methods_of(mtenant.spawn(function() end)))
    assert(db:transaction(function(tx)
      see("tx:", methods_of(tx))
      return true
    end))
    assert(db:session(function(session)
      see("session:", methods_of(session))
      return true
    end))
    db:pipeline(function(pipeline)
      see("pipeline:", methods_of(pipeline))
      see("future:", methods_of(pipeline:query("SELECT 1")))
    end)
    manager:dispose()
  end)
end


local function check_api(page)
  local names = names_in_headings(page)
  check_names(page, names, "mtenant.", mtenant)
  check_names(page, names, "mtenant.errors.", mtenant.errors)
  local throwaway = require "mtenant.throwaway"
  check_names(page, names, "throwaway.", throwaway)
  each_kind(function(prefix, methods)
    check(next(methods), page.name, "%s has no methods", prefix)
    check_names(page, names, prefix, methods)
  end)
end


--- A function's upvalue that has this metatable's name.
local function find_upvalue(fn, name)
  for i = 1, 60 do
    local key, value = debug.getupvalue(fn, i)
    if not key then
      return nil
    end
    local mt = debug.getmetatable(value)
    if mt and mt.__name == name then
      return value
    end
  end
end


local function default_text(value)
  if value == nil then
    return "none"
  elseif type(value) == "table" then
    local parts = {}
    for i, item in ipairs(value) do
      parts[i] = ("%q"):format(item)
    end
    return "{ " .. table.concat(parts, ", ") .. " }"
  end
  return type(value) == "string" and ("%q"):format(value) or tostring(value)
end


local PROBES = { 0 / 0, -1, 0, 0.5, 1e300, "", "x", true, false, {}, { 1 } }


local function valid_config()
  return {
    connection = { url = "postgresql://", pool = {}, retry = {} },
    isolation = { schema_name_template = function() end },
    hooks = {}, debug = {},
  }
end


--- What the code says about wrong values of a key, without the key.
local function messages_for(key)
  local messages = {}
  for _, probe in ipairs(PROBES) do
    local t = valid_config()
    local into, last = t, key
    for name in key:gmatch("([^.]+)%.") do
      into, last = into[name], key:match("[^.]+$")
    end
    into[last] = probe
    local ok, err = pcall(config.define, t, { getenv = function() end })
    local text = not ok and err.message:match("%[mtenant%] (.*)$")
    if text and text:sub(1, #key + 1) == key .. " " then
      messages[text:sub(#key + 2)] = true
    end
  end
  return messages
end


--- Every key has a row | `key` | type | default | messages | ... |.
local function check_config(page)
  local rows = {}
  for _, cells in ipairs(page.rows) do
    local key = cells[1]:match("^`([%w_.]+)`$")
    if key then
      rows[key] = cells
    end
  end
  local defaults = config.define(valid_config(), { getenv = function() end })
  local checker = find_upvalue(config.define, "mtenant.schema")
  for _, field in ipairs(checker.fields) do
    local key = field[1]
    local cells = rows[key]
    if not field.dropped
       and check(cells, page.name, "no row for the key %s", key) then
      local place = at(page, cells.line)
      local default = defaults
      for name in key:gmatch("[^.]+") do
        default = default and default[name]
      end
      if not field.required then
        check(cells[3]:find(default_text(default), 1, true), place,
              "the default of %s is %s", key, default_text(default))
      end
      for message in pairs(messages_for(key)) do
        check(cells[4]:find(message, 1, true), place,
              "%s may also say \"%s\"", key, message)
      end
      rows[key].known = true
    end
  end
  for key, cells in pairs(rows) do
    check(cells.known, at(page, cells.line), "there is no key %s", key)
  end
end


local function check_codes(page)
  local names = names_in_headings(page)
  local n = 0
  for code in pairs(mtenant.errors.CODE) do
    n = n + 1
    check(names[code], page.name, "no heading for the code %s", code)
  end
  check(n > 10, page.name, "only %d error codes were found", n)
end


-- ---- the classification ----------------------------------------------------------------

local CLASSIFIER = [[
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/err.h"
static const struct { const char *name; int number; } errnos[] = {
#define E(name) {#name, name}
  E(ECONNREFUSED), E(ETIMEDOUT), E(EHOSTUNREACH), E(ENETUNREACH), E(ENETDOWN),
  E(ECONNRESET), E(ECONNABORTED), E(EPIPE), E(ENOENT), E(EAGAIN), E(EACCES),
  E(EMFILE)};
int main(void) {
  char word[64], phase[64];
  while (scanf("%63s %63s", word, phase) == 2) {
    bool retry = false;
    int code = 0;
    size_t i;
    for (i = 0; i < sizeof errnos / sizeof *errnos; i++)
      if (strcmp(errnos[i].name, word) == 0)
        code = mt_code_from_errno(errnos[i].number, phase[0] == 'u', &retry);
    if (!code)
      code = mt_code_from_sqlstate(
          word, phase[0] == 's' ? MT_PHASE_STATEMENT : MT_PHASE_CONNECT,
          &retry);
    printf("%s %s %s %s\n", word, phase, mt_code_name(code),
           retry ? "yes" : "no");
  }
  return 0;
}
]]


--- Rows | `SQLSTATE or errno` ... | phase | `code` | yes or no |, where a class
--- is written with `xxx`; several in one cell are separated by blanks.
local function classified_rows(page)
  local lines = {}
  for _, cells in ipairs(page.rows) do
    local phase = cells[2] and cells[2]:match("^connect$") or cells[2]
      and (cells[2]:match("^statement$") or cells[2]:match("^unix socket$"))
    local code = cells[3] and cells[3]:match("^`([%w_]+)`$")
    if phase and code then
      for word in cells[1]:gmatch("`([%u%dx]+)`") do
        lines[#lines + 1] = {
          line = cells.line, code = code, retry = cells[4]:match("%a+"),
          word = word:gsub("xxx", "000"), phase = phase:match("%a+"),
        }
      end
    end
  end
  return lines
end


local function check_classification(page)
  local rows = classified_rows(page)
  check(#rows > 10, page.name, "only %d classified rows were found", #rows)
  write(work .. "/classify.c", CLASSIFIER)
  local input = {}
  for _, row in ipairs(rows) do
    input[#input + 1] = row.word .. " " .. row.phase
  end
  write(work .. "/classify.in", table.concat(input, "\n") .. "\n")
  local status, out = run(([[sh -c '%s -D_GNU_SOURCE -I "%s/src" -o classify \
    classify.c "%s/lib/libmtenant.a" && ./classify <classify.in']]):format(
    CC, os.getenv("PWD"), BUILD))
  if not check(status == 0, page.name, "no classifier\n%s", indented(out)) then
    return
  end
  local i = 0
  for code, retry in out:gmatch("%S+ %S+ (%S+) (%S+)\n") do
    i = i + 1
    local row = rows[i]
    check(code == row.code and retry == row.retry, at(page, row.line),
          "%s while in phase %s is %s, retried: %s", row.word, row.phase, code,
          retry)
  end
  check(i == #rows, page.name, "%d of %d rows were classified", i, #rows)
end


-- ---- the C API -------------------------------------------------------------------------

local function check_header(page)
  local text = read(page.name)
  local n = 0
  for declaration in read("src/mtenant.h"):gmatch("\nMT_API ([^;]+);") do
    local name = declaration:match("(mt_[%w_]+)%s*%(")
    n = n + 1
    check(text:find(name, 1, true), page.name, "says nothing about %s", name)
  end
  check(n > 10, page.name, "only %d functions were found in the header", n)
end


-- ---- all -------------------------------------------------------------------------------

local function for_page(name, fn)
  if check(pages[name], name, "is missing") then
    fn(pages[name])
  end
end


local function main(names)
  work = io.popen("mktemp -d"):read("*l")
  server = pg.start()
  reset_database()
  load_pages(names)
  for _, page in ipairs(pages) do
    check_prose(page)
    for _, link in ipairs(page.links) do
      check_link(page, link)
    end
  end
  for_page("docs/api-reference.md", check_api)
  for_page("docs/configuration.md", check_config)
  for_page("docs/troubleshooting.md", check_codes)
  for_page("docs/retry.md", check_classification)
  for_page("docs/embedding.md", check_header)
  if not os.getenv("MT_DOCS_NO_EXAMPLES") then
    for _, page in ipairs(pages) do
      check_examples(page)
    end
  end
  server:close()
  os.execute("rm -rf " .. quote(work))
end


local ok, err = xpcall(main, debug.traceback, { ... })
if not ok then
  fail("check_docs", "%s", tostring(err))
end
print(("%d checks passed, %d failed"):format(checks - failures, failures))
os.exit(failures == 0, true)
