--- Compares the reference pages with the code: every function has a heading,
-- every key of the configuration a row that says its default and what is said
-- about wrong values, every error code a heading, every SQLSTATE in the table
-- of docs/retry.md the class that src/base/err.c gives it. Used by docs.lua.

local config = require "mtenant.config"
local mtenant = require "mtenant"
local testing = require "mtenant.testing"

local M = {}


-- ---- the Lua API ----------------------------------------------------------------

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


local function is_public(prefix, key, value)
  return type(key) == "string" and (not key:find("^_") or key == "_VERSION")
    and (type(value) == "function" or prefix:find("^mtenant%."))
end


local function check_names(t, page, names, prefix, members)
  for key, value in pairs(members) do
    if is_public(prefix, key, value) then
      t.check(names[prefix .. key], page.name, "no heading for %s%s", prefix,
              key)
    end
  end
end


local function methods_of(object)
  local mt = getmetatable(object)
  return type(mt.__index) == "table" and mt.__index or {}
end


--- Calls `see(prefix, methods)` for every kind of object.
local function each_kind(t, see)
  local manager = mtenant.create_tenant_manager({
    connection = { url = t.server.url },
    isolation = {
      schema_name_template = function(id) return "tenant_" .. id end,
    },
  })
  local db = assert(manager:get_db("acme"))
  see("manager:", methods_of(manager))
  see("context:", methods_of(mtenant.create_tenant_context(manager)))
  see("db:", methods_of(db))
  see("reader:", methods_of(db:reader()))
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
  local endpoint = assert(require("mtenant.admin").start { address = ":0" })
  see("endpoint:", methods_of(endpoint))
  endpoint:close()
  see("clock:", methods_of(testing.run(function(clock) return clock end)))
  see("mtenant.log.", mtenant.log)
  see("log:", methods_of(mtenant.log.default()))
  see("operation:", methods_of(testing.operation {}))
  see("outage:", methods_of(testing.outage()))
  see("shared:", methods_of(testing.shared {}))
end


local function check_api(t, page)
  local names = names_in_headings(page)
  check_names(t, page, names, "mtenant.", mtenant)
  check_names(t, page, names, "mtenant.errors.", mtenant.errors)
  check_names(t, page, names, "throwaway.", require "mtenant.throwaway")
  check_names(t, page, names, "testing.", testing)
  check_names(t, page, names, "prometheus.", require "mtenant.prometheus")
  check_names(t, page, names, "admin.", require "mtenant.admin")
  each_kind(t, function(prefix, methods)
    t.check(next(methods), page.name, "%s has no methods", prefix)
    check_names(t, page, names, prefix, methods)
  end)
end


-- ---- the configuration ------------------------------------------------------------

--- The first upvalue of a function that has a metatable of this name.
local function find_upvalue(fn, name)
  local i = 1
  while true do
    local key, value = debug.getupvalue(fn, i)
    if not key then
      return nil
    end
    local mt = debug.getmetatable(value)
    if mt and mt.__name == name then
      return value
    end
    i = i + 1
  end
end


local function no_environment()
  return nil
end


local function valid_config()
  return {
    connection = { url = "postgresql://", pool = {}, retry = {} },
    isolation = { schema_name_template = function() end },
    rate_limit = {}, breaker = {}, retry_budget = {}, hooks = {}, debug = {},
    routing = {}, metrics = {}, tracing = {},
  }
end


--- The table that holds a key, and its name in there.
local function holder(t, key)
  for name in key:gmatch("([^.]+)%.") do
    t = t[name]
  end
  return t, key:match("[^.]+$")
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


local PROBES = { -1, 0, 0.5, "", "x", true, false, {}, { "x" },
                 { "$tenant", "$tenant" }, { 1 } }


--- What the code says about wrong values of a key, without the key.
local function messages_for(field)
  local key, messages = field[1], {}
  local probes = { table.unpack(PROBES) }
  probes[#probes + 1] = field.kinds.number and 0 / 0 or nil
  for _, probe in ipairs(probes) do
    local t = valid_config()
    local into, name = holder(t, key)
    into[name] = probe
    local ok, err = pcall(config.define, t, { getenv = no_environment })
    local text = not ok and err.message:match("%[mtenant%] (.*)$")
    if text and text:sub(1, #key + 1) == key .. " " then
      text = text:sub(#key + 2):gsub('"[^"]*" is not yet', '"X" is not yet')
      messages[text] = true
    end
  end
  return messages
end


local function rows_by_key(page)
  local rows = {}
  for _, cells in ipairs(page.rows) do
    local key = cells[1]:match("^`([%w_.]+)`$")
    if key and #cells == 5 then
      rows[key] = cells
    end
  end
  return rows
end


--- A row is | `key` | type | default | what is said when wrong | meaning |.
local function check_field(t, page, field, cells, defaults)
  local key = field[1]
  local place = page.name .. ":" .. cells.line
  local into, name = holder(defaults, key)
  local default = default_text(into[name])
  local shown = cells[3]:sub(1, #default)
  t.check(field.required or shown == default
          and not cells[3]:find("^%w", #default + 1), place,
          "the default of %s is %s", key, default)
  for message in pairs(messages_for(field)) do
    t.check(cells[4]:find(message, 1, true), place,
            "it may also be said that %s %s", key, message)
  end
end


local function check_config(t, page)
  local rows, known = rows_by_key(page), {}
  local defaults = config.define(valid_config(), { getenv = no_environment })
  local checker = find_upvalue(config.define, "mtenant.schema")
  for _, field in ipairs(checker.fields) do
    local key = field[1]
    known[key] = true
    if not field.dropped
       and t.check(rows[key], page.name, "no row for the key %s", key) then
      check_field(t, page, field, rows[key], defaults)
    end
  end
  for key, cells in pairs(rows) do
    t.check(known[key], page.name .. ":" .. cells.line, "there is no key %s",
            key)
  end
end


-- ---- errors -------------------------------------------------------------------------

local function check_codes(t, page)
  local names = names_in_headings(page)
  local n = 0
  for code in pairs(mtenant.errors.CODE) do
    n = n + 1
    t.check(names[code], page.name, "no heading for the code %s", code)
  end
  t.check(n > 10, page.name, "only %d error codes were found", n)
end


local CLASSIFIER = [[
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/err.h"
#define E(name) {#name, name}
static const struct { const char *name; int number; } errnos[] = {
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
    printf("%s %s\n", mt_code_name(code), retry ? "yes" : "no");
  }
  return 0;
}
]]

local PHASES = { connect = "connect", statement = "statement",
                 ["unix socket"] = "unix" }


--- Rows | `08xxx`, `57P01` ... | phase | `code` | yes or no | ...: xxx is a
--- class, of which one member is tried.
local function classified_rows(page)
  local out = {}
  for _, cells in ipairs(page.rows) do
    local phase = PHASES[cells[2] or ""]
    local code = phase and cells[3]:match("^`([%w_]+)`")
    for word in (code and cells[1] or ""):gmatch("`([%u%dx]+)`") do
      out[#out + 1] = {
        word = word:gsub("xxx", "000"), phase = phase, code = code,
        retry = cells[4]:match("%a+"), line = cells.line,
      }
    end
  end
  return out
end


local function classify(t, rows)
  local input = {}
  for _, row in ipairs(rows) do
    input[#input + 1] = row.word .. " " .. row.phase .. "\n"
  end
  t.write("classify.in", table.concat(input))
  t.write("classify.c", CLASSIFIER)
  return t.run(([[sh -c '%s -D_GNU_SOURCE -I "%s/src" -o classify classify.c \
    "%s/lib/libmtenant.a" && ./classify <classify.in']]):format(t.cc, t.top,
    t.build))
end


local function check_classification(t, page)
  local rows = classified_rows(page)
  t.check(#rows > 10, page.name, "only %d classified rows were found", #rows)
  local status, out = classify(t, rows)
  if not t.check(status == 0, page.name, "no classifier\n%s", out) then
    return
  end
  local i = 0
  for code, retry in out:gmatch("(%S+) (%S+)\n") do
    i = i + 1
    local row = rows[i]
    t.check(code == row.code and retry == row.retry,
            page.name .. ":" .. row.line, "%s (%s) is %s, retried: %s",
            row.word, row.phase, code, retry)
  end
  t.check(i == #rows, page.name, "%d of %d rows were classified", i, #rows)
end


-- ---- the C API -----------------------------------------------------------------------

local function check_header(t, page)
  local text = t.read(page.name)
  local n = 0
  for declaration in t.read("src/mtenant.h"):gmatch("\nMT_API ([^;]+);") do
    local name = declaration:match("(mt_[%w_]+)%s*%(")
    n = n + 1
    t.check(text:find(name .. "%f[^%w_]"), page.name, "says nothing about %s",
            name)
  end
  t.check(n > 10, page.name, "only %d functions were found in the header", n)
end


local function check_series(t, page)
  local problem = require("scripts.dev.observability").problem(t.read(page.name))
  t.check(not problem, page.name, "%s", problem)
end


--- The pages that are compared, and how. `t` has `check`, `run`, `read`,
--- `write` and the paths of docs.lua.
M.pages = {
  ["docs/api-reference.md"] = check_api,
  ["docs/configuration.md"] = check_config,
  ["docs/troubleshooting.md"] = check_codes,
  ["docs/retry.md"] = check_classification,
  ["docs/embedding.md"] = check_header,
  ["docs/observability.md"] = check_series,
}


return M
