--- The notes service itself, for whatever web server: a request's method, path,
-- query and body in, status and a table for JSON out.
--
--   GET    /notes?after=ID&limit=N   a page of notes, the oldest first
--   POST   /notes {"body": TEXT}     201 and the note
--   GET    /notes/ID                 the note, or 404
--   DELETE /notes/ID                 204, or 404

local M = {}

local MAX_LIMIT, MAX_BODY = 100, 10000


-- what an error of the database is to the client
local function failed(err)
  local busy = err.retryable or err.code == "pool_exhausted"
    or err.code == "timeout" or err.code == "breaker_open"
  return busy and 503 or 500,
    { error = busy and "try again later" or "internal error" }
end


local function integer(text, least, most)
  local n = text and text:match("^%d+$") and tonumber(text)
  return n and n >= least and n <= most and n or nil
end


local function list(db, query)
  local after = query.after and integer(query.after, 0, 2147483647) or 0
  local limit = query.limit == nil and 20 or integer(query.limit, 1, MAX_LIMIT)
  if query.after and not integer(query.after, 0, 2147483647) or not limit then
    return 400, { error = "after and limit must be numbers, limit at most "
      .. MAX_LIMIT }
  end
  local rows, err = db:query("SELECT id, body FROM notes WHERE id > $1 "
    .. "ORDER BY id LIMIT $2", after, limit)
  if not rows then return failed(err) end
  return 200, { notes = rows, next = rows[limit] and rows[limit].id }
end


local function create(db, body)
  local text = type(body) == "table" and body.body
  if type(text) ~= "string" or text == "" or #text > MAX_BODY then
    return 400, { error = "body must be a text of 1 to " .. MAX_BODY
      .. " bytes" }
  end
  local note, err = db:one("INSERT INTO notes (body) VALUES ($1) "
    .. "RETURNING id, body", text)
  if not note then return failed(err) end
  return 201, note
end


local function with_one(db, id, sql, status)
  local note, err = db:one(sql, id)
  if err then return failed(err) end
  if not note then return 404, { error = "no such note" } end
  return status, status ~= 204 and note or nil
end


--- Answers a request.
---@param db mtenant.Db  the tenant's
---@param request table  method, path, query (a table), body (decoded JSON)
---@return integer status
---@return table|nil body
function M.answer(db, request)
  local method, path = request.method, request.path
  if path == "/notes" then
    if method == "GET" then return list(db, request.query) end
    if method == "POST" then return create(db, request.body) end
    return 405, { error = "GET or POST" }
  end
  local id = integer(path:match("^/notes/(%d+)$"), 1, 2147483647)
  if not id then return 404, { error = "not found" } end
  if method == "GET" then
    return with_one(db, id, "SELECT id, body FROM notes WHERE id = $1", 200)
  elseif method == "DELETE" then
    return with_one(db, id, "DELETE FROM notes WHERE id = $1 RETURNING id", 204)
  end
  return 405, { error = "GET or DELETE" }
end


return M
