-- What every new shop starts with.

INSERT INTO products (sku, name, price_cents) VALUES
  ('GIFT-10', 'Gift card, 10', 1000),
  ('GIFT-50', 'Gift card, 50', 5000),
  ('MUG', 'Mug; white, with "handle"', 790),
  ('TEE-M', 'T-shirt, M', 1990),
  ('TEE-L', 'T-shirt, L', 1990);

INSERT INTO customers (name, email) VALUES
  ('Ada', 'ada@example.com'),
  ('Grace', 'grace@example.com'),
  ('Edsger', 'edsger@example.com');

INSERT INTO orders (customer_id, sku, quantity)
SELECT c.id, p.sku, 1 + (c.id + length(p.sku)) % 3
FROM customers c CROSS JOIN products p;
