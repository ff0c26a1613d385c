-- Makes the tables of docs/observability.md out of the list of all series,
-- lua/mtenant/series.lua. Run at the top of the repository:
--
--   lua5.4 scripts/dev/observability.lua          writes the page
--   lua5.4 scripts/dev/observability.lua --check  exit status 1 if it differs
--
-- tests/check_docs.sh checks it, too, by `require`.

package.path = "lua/?.lua;" .. package.path

local series = require "mtenant.series"


local PAGE = "docs/observability.md"

local M = {}


local function cell(text)
  return (text:gsub("|", "\\|"))
end


local function row(s)
  local labels = series.labels(s)
  for i, label in ipairs(labels) do labels[i] = "`" .. label .. "`" end
  return ("| `mtenant_%s` | %s | %s | %s | %s | %s |"):format(
    s[1], s[2], series.unit(s), table.concat(labels, ", "),
    cell(s.help), cell(s.alert or ""))
end


--- The table of a scope.
function M.table_of(scope)
  local out = {
    "| name | type | unit | labels | meaning | alert on |",
    "|---|---|---|---|---|---|",
  }
  for _, s in ipairs(series) do
    if s.scope == scope then out[#out + 1] = row(s) end
  end
  return table.concat(out, "\n")
end


--- The page with its tables as they should be: what is between
-- `<!-- series: a b -->` and `<!-- end -->` are those of scopes a and b.
-- Also returns the scopes that it has.
function M.update(text)
  local seen = {}
  local new = text:gsub("(<!%-%- series: ([%w_ ]+) %-%->\n).-(<!%-%- end %-%->)",
                        function(head, scopes, tail)
    local tables = {}
    for scope in scopes:gmatch "[%w_]+" do
      seen[scope] = true
      tables[#tables + 1] = M.table_of(scope)
    end
    return head .. "\n" .. table.concat(tables, "\n\n") .. "\n\n" .. tail
  end)
  return new, seen
end


--- What is wrong with the page, or nil.
function M.problem(text)
  local new, seen = M.update(text)
  for _, s in ipairs(series) do
    if not seen[s.scope] then return "it has no table of " .. s.scope end
  end
  if new ~= text then
    return "its tables are not those of lua/mtenant/series.lua: run "
      .. "lua5.4 scripts/dev/observability.lua"
  end
  return nil
end


if arg and arg[0] and arg[0]:find "observability%.lua$" then
  local file = assert(io.open(PAGE))
  local text = file:read "a"
  file:close()
  if arg[1] == "--check" then
    local problem = M.problem(text)
    if problem then io.stderr:write(PAGE, ": ", problem, "\n") end
    os.exit(problem == nil)
  end
  file = assert(io.open(PAGE, "w"))
  file:write((M.update(text)))
  file:close()
end


return M
