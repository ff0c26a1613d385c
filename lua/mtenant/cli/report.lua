--- What is said about an operation on many tenants, while it runs and at its
-- end: the live line, a line or an object per tenant, the summary.

local errors = require "mtenant.errors"
local mtenant = require "mtenant"
local terminal = require "mtenant.cli.terminal"

local SHOWN_FAILURES = 5
local BAR = { least = 5, most = 40 }

local count = terminal.count

local methods = {}
local mt = { __name = "mtenant.report", __index = methods }

local M = {}


--- For commands that change tenants.
---@param console mtenant.console
---@param total integer how many tenants
---@param words table  done ("migrated"); same: what a tenant is where nothing
--- had to be done ("up to date"); items(result): the names of what was done;
--- shape(result): the result to speak of, in the place of the migrator's;
--- changed(result): whether something was, where that has no names;
--- unit: what happened to these files ("applied"), if they are files; dry_run:
--- list their names at the end; again: a second run does what is left; verbose
function M.new(console, total, words)
  local self = setmetatable({
    console = console, words = words, total = total, began = mtenant.now_ms(),
    taken = {}, done = 0, changed = 0, same = 0, failed = 0, skipped = 0,
    items = 0, by_name = {}, busy_ms = 0, failures = {},
  }, mt)
  console:show(function(width) return self:live_line(width) end)
  return self
end


local function took(ms)
  return ms < 1000 and ("%.0f ms"):format(ms) or terminal.seconds(ms)
end


local function eta(ms)
  local s = math.ceil(ms / 1000)
  if s < 3600 then
    return ("%d:%02d"):format(math.floor(s / 60), s % 60)
  end
  return ("%d:%02d:%02d"):format(math.floor(s / 3600),
                                 math.floor(s / 60) % 60, s % 60)
end


--- Bar, done/total, tenants a second, time left, failures.
function methods:live_line(width)
  local elapsed = math.max(mtenant.now_ms() - self.began, 1)
  local rate = self.done * 1000 / elapsed
  local text = ("  %s/%s"):format(count(self.done), count(self.total))
  if self.done > 0 then
    text = text .. ("  %s/s  ETA %s"):format(
      rate < 10 and ("%.1f"):format(rate) or count(math.floor(rate)),
      eta((self.total - self.done) * 1000 / rate))
  end
  local failed = self.failed > 0 and ("  %s failed"):format(count(self.failed))
    or ""
  local room = width - #text - #failed
  local size = math.max(BAR.least, math.min(BAR.most, room))
  local full, empty = self.console.err:bar(self.done, self.total, size)
  return { full, empty, text, { "red", failed } }
end


local function plural(n, word)
  return count(n) .. " " .. word .. (n == 1 and "" or "s")
end


-- Had nothing to be done to it?
local function is_same(words, result, names)
  if not words.same then
    return false
  end
  return #names == 0 and not (words.changed and words.changed(result))
end


-- Also of a tenant that failed: what came before is done.
local function note_items(self, result)
  local names = self.words.items and self.words.items(result) or {}
  self.items = self.items + #names
  for _, name in ipairs(names) do
    self.by_name[name] = (self.by_name[name] or 0) + 1
  end
  return names
end


local function outcome(words, result, names)
  return is_same(words, result, names) and words.same or words.done
end


local function say_tenant(self, result, names)
  local what = outcome(self.words, result, names)
  if #names > 0 then
    what = what .. ": " .. table.concat(names, ", ")
  end
  self.console:say({ "bold", result.tenant_id }, " ", what, { "dim",
    result.duration_ms and (" (%.0f ms)"):format(result.duration_ms) or "" })
end


local function note_failure(self, result)
  self.failed = self.failed + 1
  local err = result.error
  local text = tostring(err)
  if not errors.is(err) or err.tenant_id ~= result.tenant_id then
    text = result.tenant_id .. ": " .. text
  end
  self.failures[#self.failures + 1] = text
  if self.console.content then
    self.console:warn({ "red", self.console.err.glyphs.bad }, " ", text)
  end
end


--- A tenant is done, one way or the other.
---@param result table
function methods:take(result)
  result = self.words.shape and self.words.shape(result) or result
  local id = result.tenant_id
  if self.taken[id] then
    return
  end
  self.taken[id] = true
  self.done = self.done + 1
  self.console:event(M.event("tenant", result))
  if result.skipped then
    self.skipped = self.skipped + 1
    return
  end
  self.busy_ms = self.busy_ms + (result.duration_ms or 0)
  local names = note_items(self, result)
  if not result.success then
    return note_failure(self, result)
  elseif is_same(self.words, result, names) then
    self.same = self.same + 1
  else
    self.changed = self.changed + 1
  end
  if self.words.verbose then
    say_tenant(self, result, names)
  end
end


--- A result as what --json prints.
---@return table
function M.event(kind, result)
  local out = { event = kind }
  for key, value in pairs(result) do
    out[key] = value
  end
  return out
end


--- Numbers of the summary, for programs.
local function numbers_of(self)
  local ran = self.changed + self.same + self.failed
  local duration_ms = mtenant.now_ms() - self.began
  return {
    event = "summary", total = self.total, succeeded = self.changed + self.same,
    changed = self.changed, unchanged = self.same, failed = self.failed,
    skipped = self.skipped, dry_run = self.words.dry_run,
    files = self.words.unit and self.items,
    duration_ms = math.floor(duration_ms + 0.5),
    average_ms = ran > 0 and math.floor(self.busy_ms / ran + 0.5) or 0,
  }
end


--- What became of them: how many of each, or of the only one what.
local function outcomes(self)
  local words, parts = self.words, {}
  local function add(n, text, always)
    if text and (n > 0 or always) then
      parts[#parts + 1] = self.total == 1 and text or count(n) .. " " .. text
    end
  end
  local many = self.total ~= 1
  add(self.changed, words.done, many)
  add(self.same, words.same, many)
  add(self.failed, "failed", many)
  add(self.skipped, "skipped", many)
  local who = many and plural(self.total, "tenant") or next(self.taken)
  return who .. ": " .. table.concat(parts, ", ")
end


local function say_line(self, numbers)
  local words, out = self.words, self.console.out
  local good = self.failed + self.skipped == 0
  local text = outcomes(self)
  if words.unit then
    text = text .. "; " .. plural(self.items, "file") .. " " .. words.unit
  end
  local glyph = out.live and out.glyphs[good and "ok" or "bad"] .. " " or ""
  self.console:say({ good and "green" or "red", glyph }, { "bold", text },
    { "dim", " in " .. took(numbers.duration_ms) },
    { "dim", self.total > 1 and ", " .. took(numbers.average_ms) .. " a tenant"
      or "" })
end


--- Which files concern how many tenants.
local function say_names(self)
  local names = {}
  for name in pairs(self.by_name) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local where = self.total > 1 and "  " .. plural(self.by_name[name], "tenant")
    self.console:say("  ", name, { "dim", where or "" })
  end
end


local function warn_failures(self)
  if self.console.json then
    return
  end
  local shown = math.min(#self.failures, SHOWN_FAILURES)
  for i = 1, shown do
    self.console:warn("  ", self.failures[i])
  end
  if #self.failures > shown then
    self.console:warn(("  and %s more"):format(count(#self.failures - shown)))
  end
end


--- What became of the shared schema. Returns whether all is well.
---@param console mtenant.console
---@param words table
---@param result table
---@return boolean
function M.shared(console, words, result)
  console:event(M.event("shared", result))
  local names = words.items and words.items(result) or {}
  if not result.success then
    if not console.json then
      console:warn({ "red", "shared schema: " }, tostring(result.error))
    end
    return false
  end
  console:say({ "bold", "shared schema" }, ": ", outcome(words, result, names))
  for _, name in ipairs(names) do
    console:say("  ", name)
  end
  return true
end


--- The end: takes the live line away, says how it went. Returns the exit
-- status.
function methods:finish()
  self.console:hide()
  local numbers = numbers_of(self)
  self.console:event(numbers)
  say_line(self, numbers)
  if self.words.dry_run or self.total == 1 then
    say_names(self)
  end
  warn_failures(self)
  return self.failed + self.skipped == 0 and 0 or 1
end


--- The end before time.
---@param reason mtenant.error
function methods:interrupt(reason)
  self.console:hide()
  local numbers = numbers_of(self)
  local done = self.changed + self.same + self.failed
  numbers.cancelled, numbers.left = true, self.total - done
  self.console:event(numbers)
  warn_failures(self)
  self.console:warn(("%s: %s of %s done, %s left"):format(reason.message,
    count(done), plural(self.total, "tenant"), count(numbers.left)),
    self.words.again and "; run the same command again to continue" or "")
end


return M
