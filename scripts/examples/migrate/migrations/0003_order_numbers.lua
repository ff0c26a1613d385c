--- Numbers that people can say: the year and how manieth of it.

local function numbered(orders)
  local year, n, out = nil, 0, {}
  for i, order in ipairs(orders) do
    n = order.year == year and n + 1 or 1
    year = order.year
    out[i] = ("%d-%04d"):format(year, n)
  end
  return out
end


return {
  up = function(tx)
    assert(tx:exec("ALTER TABLE orders ADD COLUMN number text UNIQUE"))
    local orders = assert(tx:query("SELECT id, extract(year FROM ordered_at)::int "
      .. "AS year FROM orders ORDER BY ordered_at, id"))
    for i, number in ipairs(numbered(orders)) do
      assert(tx:query("UPDATE orders SET number = $1 WHERE id = $2", number,
                      orders[i].id))
    end
    return tx:exec("ALTER TABLE orders ALTER COLUMN number SET NOT NULL")
  end,

  down = function(tx)
    return tx:exec("ALTER TABLE orders DROP COLUMN number")
  end,
}
