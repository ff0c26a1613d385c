--- New migration files: their names and what is in them. Pure.

local M = {}


--- A name as file names have it: lower case letters, digits and underscores.
---@param name string
---@return string slug "" when nothing is left
function M.slug(name)
  local out = name:lower():gsub("[^a-z0-9_]+", "_"):gsub("_+", "_")
  return (out:gsub("^_", ""):gsub("_$", ""))
end


--- The number after the highest one, in four digits or more.
---@param entries string[] the files of the folder
---@return string
function M.next_number(entries)
  local highest = 0
  for _, entry in ipairs(entries) do
    local digits = entry:match("^(%d+)_")
    highest = math.max(highest, digits and tonumber(digits) or 0)
  end
  return ("%04.0f"):format(highest + 1)
end


--- The file that has this slug under any number, or nil.
---@param entries string[]
---@param slug string
---@return string|nil
function M.same_name(entries, slug)
  for _, entry in ipairs(entries) do
    local name, ending = entry:match("^%d+_(.+)%.(%a+)$")
    if name == slug and (ending == "sql" or ending == "lua") then
      return entry
    end
  end
  return nil
end


-- In this order: "add_users_index" is an index.
local WORDS = {
  { "index", { "index", "idx" } },
  { "foreign-key", { "fk", "foreign", "reference", "references" } },
  { "table", { "create", "table" } },
  { "column", { "add", "column" } },
}


local function has_word(slug, word)
  return ("_" .. slug .. "_"):find("_" .. word .. "_", 1, true) ~= nil
end


--- The template that a name asks for.
---@param slug string
---@return string
function M.template_of(slug)
  for _, entry in ipairs(WORDS) do
    for _, word in ipairs(entry[2]) do
      if has_word(slug, word) then
        return entry[1]
      end
    end
  end
  return "blank"
end


local SQL = {
  blank = "",
  table = [[
CREATE TABLE ${table} (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- mtenant:down
DROP TABLE ${table};
]],
  column = [[
ALTER TABLE ${table} ADD COLUMN ${column} text;

-- mtenant:down
ALTER TABLE ${table} DROP COLUMN ${column};
]],
  ["foreign-key"] = [[
ALTER TABLE ${table} ADD CONSTRAINT ${slug}
  FOREIGN KEY (column_name) REFERENCES other_table (id);

-- mtenant:down
ALTER TABLE ${table} DROP CONSTRAINT ${slug};
]],
  index = [[
-- On a large table: CREATE INDEX CONCURRENTLY, and a line of its own that says
-- "mtenant:no-transaction" after two dashes.
CREATE INDEX ${slug} ON ${table} (column_name);

-- mtenant:down
DROP INDEX ${slug};
]],
}

local LUA = [==[
--- ${slug}

return {
  up = function(tx)
    return tx:exec [[
${up}]]
  end,
${down}}
]==]

local LUA_DOWN = [==[

  down = function(tx)
    return tx:exec [[
${down}]]
  end,
]==]


local function fill(text, values)
  return (text:gsub("%${(%w+)}", values))
end


-- What the name says about the table and the column.
local function values_of(slug)
  local column, there = slug:match("^add_(.+)_to_(.+)$")
  local made = slug:match("^create_(.+)$") or slug:match("^(.+)_table$")
  return {
    slug = slug,
    column = column or "column_name",
    table = there or made and made:gsub("_table$", "") or "table_name",
  }
end


local function indent(text)
  return (text:gsub("[^\n]+", "      %0"))
end


--- The text of a new file.
---@param slug string
---@param kind string sql or lua
---@param template string auto, or one of commands.lua
---@return string
function M.text(slug, kind, template)
  if template == "auto" then
    template = M.template_of(slug)
  end
  local sql = fill(SQL[template], values_of(slug))
  if kind == "sql" then
    return "-- " .. slug .. "\n\n" .. sql
  end
  local up, down = sql:match("^(.-)\n%-%- mtenant:down\n(.*)$")
  return fill(LUA, {
    slug = slug,
    up = indent(up or "SELECT 1;\n"),
    down = down and fill(LUA_DOWN, { down = indent(down) }) or "",
  })
end


return M
