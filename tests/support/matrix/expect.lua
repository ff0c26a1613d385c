--- What cells of the fault matrix have in common in what they expect.

local M = {}

--- The loss is noticed before the statement is sent, or after.
M.LOST = "connection_lost retryable | connection_lost ambiguous"

--- In dispose: COMMIT had not been sent, so there is no doubt.
M.ENDED = "disposed | connection_lost retryable"


local function with(own, common)
  for state, outcome in pairs(own) do common[state] = outcome end
  return common
end


--- A connection is gone without a last word: what was sent may have been done,
-- what had not come to its COMMIT was not. `own` has the other states, and
-- what differs.
---@param own table
---@return table
function M.lost(own)
  return with(own, {
    statement = "connection_lost ambiguous",
    transaction = "connection_lost retryable",
    commit = "connection_lost ambiguous",
    pipeline = { "ok", "connection_lost ambiguous", "connection_lost ambiguous" },
    session = { "ok", M.LOST },
    dispose = M.ENDED,
  })
end


--- Who has a connection is not touched. `own` has `connecting`, and what
-- differs.
---@param own table
---@return table
function M.untouched(own)
  return with(own, {
    idle = "ok", waiting = "ok", statement = "ok", transaction = "ok",
    commit = "ok", pipeline = "ok", session = "ok", dispose = M.ENDED,
  })
end


return M
