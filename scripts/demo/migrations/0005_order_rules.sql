-- What the application has always assumed.

ALTER TABLE orders
  ADD CONSTRAINT orders_quantity CHECK (quantity BETWEEN 1 AND 999),
  ADD CONSTRAINT orders_status
    CHECK (status IN ('new', 'paid', 'shipped', 'cancelled')),
  ADD CONSTRAINT orders_shipped
    CHECK (status <> 'shipped' OR shipped_at IS NOT NULL);

CREATE VIEW turnover AS
SELECT count(*) AS orders,
       coalesce(sum(o.quantity * p.price_cents), 0) AS cents
FROM orders o JOIN products p USING (sku)
WHERE o.status <> 'cancelled';
