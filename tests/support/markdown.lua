--- The few parts of Markdown that the check of the documentation needs: fenced
-- blocks, headings, tables, links. Pure; used by docs.lua.

local M = {}


--- The anchor that a heading gets on the web, without a number for repeats.
function M.slug(text)
  text = text:gsub("`", ""):gsub("%[([^%]]*)%]%([^)]*%)", "%1"):lower()
  text = text:gsub("[^%w%s_\128-\255-]", "")
  return (text:gsub("%s", "-"))
end


local function add_heading(page, line, number)
  local marks, text = line:match("^(#+)%s+(.-)%s*$")
  if not marks then
    return
  end
  local slug = M.slug(text)
  local n = page.slugs[slug]
  page.slugs[slug] = (n or 0) + 1
  page.anchors[n and slug .. "-" .. n or slug] = true
  page.headings[#page.headings + 1] = { text = text, line = number,
                                        level = #marks }
end


local function add_links(page, line, number)
  line = line:gsub("`[^`]*`", "")
  for target in line:gmatch("%]%(([^)%s]+)[^)]*%)") do
    page.links[#page.links + 1] = { target = target, line = number }
  end
end


--- The cells of a row of a table, or nil; `\|` is no border.
function M.cells(line)
  local inner = line:match("^%s*|(.*)|%s*$")
  if not inner or inner:match("^[%s|:-]+$") then
    return nil
  end
  local cells = {}
  for cell in (inner:gsub("\\|", "\1") .. "|"):gmatch("([^|]*)|") do
    cells[#cells + 1] = (cell:gsub("\1", "|"):match("^%s*(.-)%s*$"))
  end
  return cells
end


local function add_row(page, line, number)
  local cells = M.cells(line)
  if cells then
    cells.line = number
    page.rows[#page.rows + 1] = cells
  end
end


--- Takes a page apart: `blocks` ({ language, info, text, line }: `info` is
--- what follows the language, as a set of words; `line` is that of the first
--- line inside), `headings`, `anchors` (a set), `links`, `rows` of tables,
--- `prose` (the lines outside of blocks, by number).
function M.parse(text)
  local page = { blocks = {}, headings = {}, anchors = {}, links = {},
                 rows = {}, prose = {}, slugs = {} }
  local number, block, fence = 0, nil, nil
  for line in (text:gsub("\n?$", "\n")):gmatch("(.-)\n") do
    number = number + 1
    local marks, info = line:match("^%s*(```+)%s*(.-)%s*$")
    if block and marks and info == "" and #marks >= #fence then
      block = nil
    elseif block then
      block.lines[#block.lines + 1] = line
    elseif marks then
      fence = marks
      block = { lines = {}, info = {}, line = number + 1,
                language = info:match("^%S*") }
      for word in info:gsub("^%S*", ""):gmatch("%S+") do
        block.info[word] = true
      end
      page.blocks[#page.blocks + 1] = block
    else
      page.prose[number] = line
      add_heading(page, line, number)
      add_links(page, line, number)
      add_row(page, line, number)
    end
  end
  for _, one in ipairs(page.blocks) do
    one.text = table.concat(one.lines, "\n") .. "\n"
  end
  page.unclosed = block and block.line - 1 or nil
  return page
end


return M
