--- The policy of a manager over time: watches its file, loads and tests what is
-- new, and swaps it in; keeps the policy's own task for invalidations running.
-- On any error the policy that was there stays. Part of router.lua.

local core = require "mtenant.core"
local errors = require "mtenant.errors"
local policies = require "mtenant.policy"
local task = require "mtenant.task"


local pcall, setmetatable, type = pcall, setmetatable, type

-- a file that is being written changes several times
local DEBOUNCE_MS = 50
local BACKOFF_MS, BACKOFF_MAX_MS = 100, 5000
-- an invalidations task that has run for so long starts afresh
local HEALTHY_MS = 10000


local methods = {}
local mt = { __name = "mtenant.reload", __index = methods }


-- ---- reloading ------------------------------------------------------------

local function refused(self, reason, err)
  self.failed = self.failed + 1
  self.last_error = { message = err.message, code = err.code, reason = reason,
                      at = os.time() }
  self._router:tell("reload_failed", { reason = reason, error = err })
  return nil, err
end


local function first_failure(results)
  for _, case in ipairs(results) do
    if not case.ok then return case end
  end
end


-- loaded and tested; or nil and an error
local function load_new(self, what)
  local cfg = self._router._manager._config
  local policy, err = policies.load(what, cfg.routing)
  if not policy then return nil, err end
  local results
  results, err = policies.run_selftest(policy, cfg)
  if results and results.failed > 0 then
    local case = first_failure(results)
    err = errors.new("policy", string.format("selftest %s failed: %s",
                                             case.name, case.message))
  end
  if not err then return policy end
  policy.close()
  return nil, err
end


local function swap(self, policy, reason)
  local router = self._router
  self.reloads = self.reloads + 1
  self.last_error = nil
  self:stop_invalidations()
  router:use(policy, reason)
  router:tell("reloaded", { reason = reason, hash = policy.hash })
  self:start_invalidations()
end


local function reload(self, reason, what)
  local policy, err = load_new(self, what)
  if not policy then return refused(self, reason, err) end
  if self._over then
    policy.close()
    return nil, self._router.disposed()
  end
  self._what, self.seen_hash = what, policy.hash
  self:watch()
  swap(self, policy, reason)
  return true
end


--- Loads the policy, or another one, and swaps it in; one at a time. Waits.
---@param reason string  file, signal or manual
---@param what? string|table|function  another policy than before
---@return boolean|nil ok
---@return mtenant.error|nil err  and the policy that was there stays
function methods:reload(reason, what)
  what = what or self._what
  if type(what) ~= "string" and what == self._what then
    return nil, errors.new("policy", "this policy is no file: give the one "
      .. "that is to take its place")
  end
  while self._busy do
    local _, err = task.suspend(function(resume)
      self._waiting[#self._waiting + 1] = resume
    end)
    if err then return nil, err end
  end
  self._busy = true
  local ran, ok, err = pcall(reload, self, reason, what)
  self._busy = false
  -- all of them, in their order: one may have been told to stop meanwhile
  local waiting = self._waiting
  self._waiting = {}
  for i = 1, #waiting do waiting[i]() end
  if not ran then return refused(self, reason, errors.wrap(ok, "policy")) end
  return ok, err
end


-- ---- the file ------------------------------------------------------------

-- Only a file with another content is loaded, and one that can't be read is
-- told of; an editor may touch it, or write a copy beside it.
local function look(self)
  if self._over or type(self._what) ~= "string" then return end
  local source, err = policies.read(self._what)
  if not source then return refused(self, "file", err) end
  local hash = policies.hash(source)
  if hash == self.seen_hash then return end
  self.seen_hash = hash
  return self:reload("file")
end


local function settle(self)
  repeat
    self._changed = false
    local _, err = task.sleep(DEBOUNCE_MS)
    if err then break end
  until not self._changed
  self._settling = nil
  look(self)
end


-- The file itself, or what Kubernetes renames where it is a link of its own.
local function concerns(self, names)
  for i = 1, #names do
    local name = names[i]
    if name == "" or name == self._base or name:find("^%.%.") then return true end
  end
  return false
end


local function on_change(self, names)
  if self._over or not concerns(self, names) then return end
  self._changed = true
  if self._settling then return end
  self._settling = task.spawn(settle, self)
  self._settling.observed = true
end


--- Watches the folder of the policy's file: editors put a new file in the place
-- of the old one. Where that can't be had there is reload_policy yet.
function methods:watch()
  if self._watched == self._what then return end
  if self._watcher then self._watcher:close() end
  self._watcher, self._watched = nil, self._what
  if not self._wants_watch or type(self._what) ~= "string" then return end
  local dir, base = self._what:match("^(.*)/([^/]*)$")
  self._base = base or self._what
  local weak = setmetatable({ self }, { __mode = "v" })
  self._watcher, self.watch_error = core.watch_folder(
    dir == "" and "/" or dir or ".", function(names)
      if weak[1] then on_change(weak[1], names) end
    end)
end


-- ---- invalidations ------------------------------------------------------------

local function invalidate(self, version)
  return function(id)
    local router = self._router
    if self._over or router.version ~= version then return end
    if id == nil then return router:outdate_all() end
    if type(id) ~= "string" then
      errors.misuse(2, "invalidate: a tenant's id must be a string, got %s",
                    type(id))
    end
    router._manager:invalidate(id)
  end
end


-- A loop that does not look at what sleep returns must end, too.
local function sleep(ms)
  local ok, err = task.sleep(ms)
  if not ok then error(err, 0) end
  return ok
end


local function run_once(self, version)
  local ctx = setmetatable({ sleep = sleep }, self._router._ctx_mt)
  local ok, what, err = version:call(version.policy.invalidations, ctx,
                                     invalidate(self, version))
  if ok then return err or errors.new("policy", "invalidations has ended") end
  return errors.wrap(what, "policy")
end


-- What was missed while it did not run is unknown: all is asked again.
local function keep_running(self, version)
  local delay = BACKOFF_MS
  while true do
    local since = core.now_ms()
    local err = run_once(self, version)
    if self._over or self._router.version ~= version then return end
    self.invalidations_error = errors.text_of(err)
    self._router:tell("invalidations_failed", { error = err, delay_ms = delay })
    if core.now_ms() - since > HEALTHY_MS then delay = BACKOFF_MS end
    if not task.sleep(delay) then return end
    delay = math.min(delay * 2, BACKOFF_MAX_MS)
    if self._over or self._router.version ~= version then return end
    self._router:outdate_all()
  end
end


--- Starts the policy's own task, once the manager is in use.
function methods:start_invalidations()
  local version = self._router.version
  if not self._started or not version.policy.invalidations then return end
  self.invalidations_error = nil
  self._task = task.spawn(keep_running, self, version)
  self._task.observed = true
end


function methods:stop_invalidations()
  local running = self._task
  self._task = nil
  if running then running:cancel("the policy has gone") end
end


-- ---- life ------------------------------------------------------------

function methods:start()
  self._started = true
  self:start_invalidations()
end


function methods:stop()
  self._over = true
  self:stop_invalidations()
  if self._watcher then self._watcher:close() end
  self._watcher = nil
end


--- How it stands, for get_policy_status.
---@return table
function methods:status()
  return {
    reloads = self.reloads, failed_reloads = self.failed,
    last_error = self.last_error,
    watched = self._watcher ~= nil, watch_error = self.watch_error,
    invalidations = self._task and "running" or nil,
    invalidations_error = self.invalidations_error,
  }
end


local M = {}


--- Of a router whose first policy is in use.
function M.new(router, cfg)
  local self = setmetatable({
    reloads = 0, failed = 0,
    seen_hash = router.version.policy.hash,
    _router = router, _what = cfg.policy, _waiting = {}, _busy = false,
    _over = false, _started = false, _wants_watch = cfg.routing.reload,
  }, mt)
  self:watch()
  local host = package.loaded["mtenant.runner_host"]
  if host and type(cfg.policy) == "string" then host.catch_hangup() end
  return self
end


return M
