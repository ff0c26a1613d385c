--- The demo's tenants, small shops: made with a schema and one row each, and
-- removed again. All through the shared database, with qualified names, so that
-- what the readers find was not written by the routing that they check.

local for_each = require "demo.for_each"
local policy = require "demo.policy"

local AT_A_TIME = 8

local FIRST = {
  "amber", "birch", "cedar", "coral", "delta", "ember", "fable", "frost",
  "grove", "hazel", "indigo", "ivory", "jade", "juniper", "lark", "linen",
  "maple", "north", "ocean", "olive", "onyx", "quartz", "river", "willow",
}

local SECOND = {
  "bakery", "bikes", "books", "coffee", "flowers", "garden", "guitars",
  "lamps", "music", "paper", "pottery", "radio", "shoes", "spices", "tea",
  "tools", "toys", "watches", "wine", "yarn",
}

local REGIONS = { "eu", "us", "ap" }
local PLANS = { "free", "pro" }

local DIRECTORY = [[
  CREATE SCHEMA IF NOT EXISTS mtenant_demo;
  CREATE TABLE IF NOT EXISTS mtenant_demo.tenants (
    id text PRIMARY KEY,
    region text NOT NULL,
    plan text NOT NULL
  );
]]

local REGISTER = [[
  INSERT INTO mtenant_demo.tenants (id, region, plan) VALUES ($1, $2, $3)
  ON CONFLICT (id) DO NOTHING
]]

-- One row at most, which says whose schema this is.
local SCHEMA = [[
  CREATE SCHEMA IF NOT EXISTS $schema;
  CREATE TABLE IF NOT EXISTS $schema.shop (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    tenant_id text NOT NULL
  );
  INSERT INTO $schema.shop (tenant_id) VALUES ($id)
  ON CONFLICT (only_row) DO NOTHING;
]]

local M = {}


local function pick(list, n)
  return list[n % #list + 1], n // #list
end


local function name_of(n)
  local first, rest = pick(FIRST, n)
  local second, round = pick(SECOND, rest)
  return first .. "-" .. second .. (round > 0 and "-" .. round + 1 or "")
end


--- The first n tenants, always the same.
---@return table[] list of { id =, region =, plan =, schema = }
function M.list(n)
  local list = {}
  for i = 1, n do
    local tenant = { id = name_of(i - 1) }
    local region, rest = pick(REGIONS, i - 1)
    tenant.region, tenant.plan = region, (pick(PLANS, rest))
    tenant.schema = policy.schema_name(tenant)
    list[i] = tenant
  end
  return list
end


local function create_one(shared, tenant)
  local names = {
    schema = shared:quote_ident(tenant.schema),
    id = shared:quote_literal(tenant.id),
  }
  return shared:transaction(function(tx)
    assert(tx:query(REGISTER, tenant.id, tenant.region, tenant.plan))
    return tx:exec((SCHEMA:gsub("%$(%w+)", names)))
  end)
end


--- Makes what is not there yet. Raises what goes wrong.
---@param progress fun(done: integer)
function M.create(shared, list, progress)
  assert(shared:exec(DIRECTORY))
  for_each(list, AT_A_TIME, progress, function(tenant)
    return create_one(shared, tenant)
  end)
end


--- How many tenants earlier runs have left, as `list` for `remove`.
function M.left(shared)
  if not assert(shared:query("SELECT to_regclass($1) AS directory",
                             policy.DIRECTORY .. ".tenants"))[1].directory then
    return {}
  end
  return assert(shared:query("SELECT id, region, plan FROM mtenant_demo.tenants"))
end


--- Removes tenants with all they have, and the directory at last.
function M.remove(shared, list, progress)
  for_each(list, AT_A_TIME, progress, function(tenant)
    local schema = shared:quote_ident(policy.schema_name(tenant))
    return shared:exec("DROP SCHEMA IF EXISTS " .. schema .. " CASCADE")
  end)
  assert(shared:exec("DROP SCHEMA IF EXISTS mtenant_demo CASCADE"))
end


return M
