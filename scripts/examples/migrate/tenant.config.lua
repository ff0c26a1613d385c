--- Shops, a schema each; the table shops knows them. For migrate.lua, and for
-- `mtenant status` and the other commands in this directory.

return {
  isolation = {
    schema_name_template = function(id) return "shop_" .. id end,
  },
  migrations = {
    tenant_folder = "migrations",
    lock_timeout_ms = 2000, -- rather fail than hold up a shop
    tenant_discovery = function(shared)
      local rows, err = shared:query("SELECT id FROM shops ORDER BY ring, id")
      if not rows then return nil, err end
      local ids = {}
      for i, row in ipairs(rows) do ids[i] = row.id end
      return ids
    end,
  },
}
