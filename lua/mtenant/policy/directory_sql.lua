--- The script that makes a directory's table, with triggers that tell who listens
--- which tenants have changed. Pure; used by directory.lua.

local common = require "mtenant.policy.common"


-- The channel as the shared database has it: see db:listen.
local SHARED_SCHEMA = "public"
local NAME_MAX = 63

local SQL = [[
CREATE TABLE IF NOT EXISTS %(table) (%(id) text PRIMARY KEY%(columns));
CREATE OR REPLACE FUNCTION %(function)() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
  IF TG_OP IN ('UPDATE', 'DELETE') THEN
    PERFORM pg_notify(%(channel), OLD.%(id)::text);
  END IF;
  IF TG_OP IN ('INSERT', 'UPDATE') THEN
    PERFORM pg_notify(%(channel), NEW.%(id)::text);
  END IF;
  IF TG_OP = 'TRUNCATE' THEN PERFORM pg_notify(%(channel), ''); END IF;
  RETURN NULL;
END $f$;
CREATE OR REPLACE TRIGGER mtenant_rows AFTER INSERT OR UPDATE OR DELETE
  ON %(table) FOR EACH ROW EXECUTE FUNCTION %(function)();
CREATE OR REPLACE TRIGGER mtenant_all AFTER TRUNCATE
  ON %(table) FOR EACH STATEMENT EXECUTE FUNCTION %(function)();
]]


local function channel_of(opts)
  local name = SHARED_SCHEMA .. "." .. opts.channel
  if #name > NAME_MAX then
    error(("[mtenant] policy.directory: channel is longer than %d bytes")
      :format(NAME_MAX - #SHARED_SCHEMA - 1), 4)
  end
  return "'" .. name:gsub("'", "''") .. "'"
end


local function columns_of(opts)
  local columns = {}
  for i, field in ipairs(opts.fields) do
    columns[i] = ", " .. common.quote(opts.columns[field]) .. " text"
  end
  if opts.label then
    columns[#columns + 1] = ", " .. common.quote(opts.label) .. " text"
  end
  if opts.active then
    columns[#columns + 1] = ", " .. common.quote(opts.active)
      .. " boolean NOT NULL DEFAULT true"
  end
  return table.concat(columns)
end


---@param opts table  as directory.lua has completed them
---@return string
return function(opts)
  local words = {
    table = common.quote_path(opts.table), id = common.quote(opts.id),
    columns = columns_of(opts), channel = channel_of(opts),
    ["function"] = common.quote_path(opts.table .. "_changed"),
  }
  return (SQL:gsub("%%%((%w+)%)", words))
end
