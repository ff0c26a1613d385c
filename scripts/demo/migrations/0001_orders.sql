-- Customers, what is sold, and orders. No schema is named: each tenant gets
-- tables of its own in its own schema.

CREATE TABLE customers (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE products (
  sku text PRIMARY KEY,
  name text NOT NULL,
  price_cents integer NOT NULL
);

CREATE TABLE orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_id integer NOT NULL REFERENCES customers (id),
  sku text NOT NULL REFERENCES products (sku),
  quantity integer NOT NULL DEFAULT 1,
  ordered_at timestamptz NOT NULL DEFAULT now()
);
