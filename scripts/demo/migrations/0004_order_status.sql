-- Orders get a status; those that exist already are done.

ALTER TABLE orders
  ADD COLUMN status text NOT NULL DEFAULT 'shipped',
  ADD COLUMN shipped_at timestamptz;

UPDATE orders SET shipped_at = ordered_at;

ALTER TABLE orders ALTER COLUMN status SET DEFAULT 'new';
