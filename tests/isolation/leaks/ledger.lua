--- What each tenant was told of its writes: `acked` must be in its table,
-- `maybe` (the outcome was ambiguous) may be, anything else must not.

local M = {}

local FULL = 150 -- rows; then the tenant is looked at, and starts anew


--- The fate of one write. Over a change of the schema all is open.
function M.enter(c, id, ok, err)
  local t = c.t
  if ok or err and err.ambiguous then
    local clear = ok and not c:disturbed()
    t[clear and "acked" or "maybe"][id] = true
    t.written = t.written + 1
  end
end


--- The fate of all writes of one transaction.
function M.enter_all(c, ids, ok, err)
  for _, id in ipairs(ids) do M.enter(c, id, ok, err) end
end


--- From now on it is open whether the rows are still there.
function M.forget(t)
  for id in pairs(t.acked) do t.maybe[id] = true end
  t.acked = {}
end


function M.is_full(t)
  return t.written >= FULL
end


--- Compares the rows of a tenant's table, `{ owner, id }`, with the ledger.
-- Nothing of the tenant may be under way.
function M.compare(c, rows)
  local t, seen = c.t, {}
  for _, row in ipairs(rows) do
    seen[row.id] = true
    if row.owner ~= t.mark or row.home ~= t.mark then
      c.world:leak("row", c, ("table of %s has a row of %s, made for %s")
        :format(t.mark, tostring(row.owner), tostring(row.home)))
    elseif not t.acked[row.id] and not t.maybe[row.id] then
      c.world:problem(c, ("row %d (operation %d) was refused or rolled back "
        .. "but is there"):format(row.id, row.id // 64))
    end
  end
  for id in pairs(t.acked) do
    if not seen[id] then
      c.world:problem(c, ("row %d (operation %d) was acknowledged but is lost")
        :format(id, id // 64))
    end
  end
  c.world.verified = (c.world.verified or 0) + #rows
end


local function clear(t)
  t.acked, t.maybe, t.written = {}, {}, 0
end


--- Checks the tenant's table through its own handle and empties it. The
-- caller has seen to it that nothing else of the tenant is under way.
function M.settle(c)
  for _ = 1, 20 do
    local rows, err = c.db:query("SELECT owner, id, home FROM items")
    if rows then
      M.compare(c, rows)
      local ok
      ok, err = c.db:query("DELETE FROM items")
      if ok then return clear(c.t) end
      if err.ambiguous then M.forget(c.t) end
    end
    c:fail(err)
    if c.world.stopped then return end
  end
  c.world:problem(c, "could not read the table")
end


return M
