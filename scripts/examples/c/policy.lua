--- The routing policy that embed.c loads, and what it serves: a table with a
-- function `serve(id, done)`, which the host calls for each tenant.

local mtenant = require "mtenant"

local tenants = mtenant.create_tenant_manager {
  connection = { url = os.getenv("DATABASE_URL"), retry = { max_attempts = 5 } },
  isolation = {
    schema_name_template = function(id) return "tenant_" .. id end,
  },
}

local policy = {}

--- Calls done(text) or done(nil, err) when the tenant's statement is answered.
function policy.serve(id, done)
  mtenant.spawn(function()
    local db = tenants:get_db(id)
    done(db:value("SELECT current_schema() || ', slept' FROM pg_sleep(0.05)"))
  end)
end

--- Calls done() when every connection is closed.
function policy.dispose(done)
  mtenant.spawn(function()
    tenants:dispose()
    done()
  end)
end

return policy
