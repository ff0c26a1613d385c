-- The two ways orders are looked up, and one customer per address.

CREATE UNIQUE INDEX customers_email ON customers (lower(email));
CREATE INDEX orders_customer ON orders (customer_id, ordered_at DESC);
CREATE INDEX orders_sku ON orders (sku);
