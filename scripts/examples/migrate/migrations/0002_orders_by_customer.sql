-- mtenant:no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_by_customer ON orders (customer);

-- mtenant:down
DROP INDEX orders_by_customer;
