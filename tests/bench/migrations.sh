#!/bin/bash
# Measures the migrator beside libpq and psql doing the same on the same server.
# See README.md, or: tests/bench/migrations.sh --help
set -euo pipefail

bench_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$bench_dir/../.." && pwd)
lib=${MTENANT_LIB:-$root/build/release/lib}
program=${lib%/lib}/bin/mtenant
tenants=200 idle=10000 rounds=5 only=

usage() {
  cat <<'TEXT'
usage: tests/bench/migrations.sh [--runs=N] [--tenants=N] [--idle=N]
         [--only=NAME,NAME]
  --runs=N      rounds (default 5); the programs take turns in each
  --tenants=N   empty schemas that get five files (default 200); 0: none
  --idle=N      tenants with nothing pending (default 10000); 0: none
  --only=NAMES  programs for the empty schemas, of libpq-N, keeping-N, thinking-N,
                mtenant-N, mtenant-auto, drizzle
environment: MTENANT_LIB (build/release/lib), DRIZZLE (a directory with
  node_modules/drizzle-multitenant, measured on the empty schemas, too)
TEXT
}

for arg; do
  case $arg in
    --runs=*) rounds=${arg#*=} ;;
    --tenants=*) tenants=${arg#*=} ;;
    --idle=*) idle=${arg#*=} ;;
    --only=*) only=${arg#*=} ;;
    --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
done

dir=$(mktemp -d)
pg_root=$("$root/tests/support/pg.sh" root $$)
finish() {
  "$root/tests/support/pg.sh" destroy "$pg_root"
  rm -rf "$dir"
}
trap finish EXIT

read -r -d '' pg port < <("$root/tests/support/pg.sh" create "$pg_root" \
  fsync=off synchronous_commit=off full_page_writes=off autovacuum=off \
  shared_buffers=256MB jit=off checkpoint_timeout=1h max_wal_size=4GB) || true
export PGHOST=$pg PGPORT=$port PGUSER=mtenant PGDATABASE=mtenant
export BENCH_URL="postgresql://mtenant@/mtenant?host=$pg&port=$port"
export LUA_PATH="$bench_dir/lua/?.lua;$root/lua/?.lua;$root/lua/?/init.lua;;"
export LUA_CPATH="$dir/?.so;$lib/?.so;;"

psql() { command psql -XAtq -v ON_ERROR_STOP=1 "$@"; }

build() {
  local pq lua flags="-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra"
  pq=$(pkg-config --cflags --libs libpq)
  lua=$(pkg-config --cflags lua5.4)
  # The flags are lists of words.
  # shellcheck disable=SC2086
  cc $flags "$bench_dir/raw/migrate.c" "$bench_dir/raw/bench.c" \
    -o "$dir/migrate" $pq
  # shellcheck disable=SC2086
  cc $flags -fPIC -shared "$bench_dir/raw/luaclock.c" -o "$dir/luaclock.so" $lua
}

field() { grep -o "\"$1\":[0-9.]*" | cut -d: -f2; }

# median of the numbers on standard input
median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# ---- empty schemas ----------------------------------------------------------

files() {
  mkdir "$dir/files"
  cat >"$dir/files/0001_customers.sql" <<'SQL'
CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL,
  email text UNIQUE, created_at timestamptz DEFAULT now());
CREATE INDEX customers_name ON customers (name);
SQL
  cat >"$dir/files/0002_orders.sql" <<'SQL'
CREATE TABLE orders (id serial PRIMARY KEY, customer_id int NOT NULL,
  total numeric(12,2) NOT NULL DEFAULT 0, placed_at timestamptz DEFAULT now());
CREATE INDEX orders_placed ON orders (placed_at);
SQL
  cat >"$dir/files/0003_items.sql" <<'SQL'
CREATE TABLE items (id serial PRIMARY KEY, order_id int NOT NULL,
  sku text NOT NULL, qty int NOT NULL DEFAULT 1);
CREATE INDEX items_order ON items (order_id);
SQL
  cat >"$dir/files/0004_phone.sql" <<'SQL'
ALTER TABLE customers ADD COLUMN phone text;
CREATE INDEX orders_customer ON orders (customer_id);
SQL
  cat >"$dir/files/0005_rows.sql" <<'SQL'
INSERT INTO customers (name, email)
  SELECT 'customer ' || i, 'c' || i || '@example.org'
  FROM generate_series(1, 10) i;
ALTER TABLE orders ADD CONSTRAINT orders_customer_fk
  FOREIGN KEY (customer_id) REFERENCES customers (id);
SQL
}

empty() {
  psql <<SQL
SET client_min_messages = error;
DROP SCHEMA IF EXISTS mtenant CASCADE;
SELECT format('DROP SCHEMA IF EXISTS m_%1\$s CASCADE; CREATE SCHEMA m_%1\$s',
  to_char(i, 'FM0000')) FROM generate_series(1, $tenants) i \gexec
SQL
  [[ $1 = keeping-* || $1 = thinking-* ]] && psql <<SQL
CREATE SCHEMA mtenant CREATE TABLE checksums (schema_name text, table_name text,
  name text, checksum text NOT NULL, applied_at timestamptz NOT NULL
  DEFAULT clock_timestamp(), PRIMARY KEY (schema_name, table_name, name));
SQL
  "$root/tests/support/pg.sh" psql "$pg" -qd mtenant <<<"VACUUM" >/dev/null
}

records() {
  psql -c "SELECT coalesce(sum((xpath('/row/c/text()', query_to_xml(format(
    'SELECT count(*) AS c FROM %I.__drizzle_migrations', nspname), false, true,
    '')))[1]::text::int), 0) FROM pg_namespace WHERE nspname ~ '^m_[0-9]{4}'"
}

fresh() { # NAME COMMAND...
  local name=$1 seconds
  shift
  empty "$name"
  seconds=$("$@" | field wall_s)
  [[ $(records) = $((tenants * 5)) ]] || { echo "$name: records missing" >&2; exit 1; }
  awk -v s="$seconds" -v n="$tenants" 'BEGIN { print n / s }' >>"$dir/$name"
}

drizzle() {
  ln -sfn "$DRIZZLE/node_modules" "$dir/node_modules"
  cat >"$dir/drizzle.mjs" <<JS
const main = await import('drizzle-multitenant');
const make = main.createMigrator
  ?? (await import('drizzle-multitenant/migrator')).createMigrator;
const ids = Array.from({ length: $tenants },
  (_, i) => String(i + 1).padStart(4, '0'));
const migrator = make(main.defineConfig({
  connection: { url: 'postgresql://mtenant@localhost:$port/mtenant?host=$pg' },
  isolation: { strategy: 'schema', schemaNameTemplate: (id) => 'm_' + id },
  schemas: { tenant: {} },
}), { migrationsFolder: '$dir/files', tenantDiscovery: async () => ids });
const start = performance.now();
await migrator.migrateAll({ concurrency: 10 });
console.log('{"wall_s":' + (performance.now() - start) / 1000 + '}');
process.exit(0);
JS
  node "$dir/drizzle.mjs"
}

# One contestant: libpq-N, keeping-N (libpq and the migrator's promises, see
# raw/migrate.c), thinking-N (that, and the migrator's CPU time), mtenant-N, drizzle.
contest() {
  local k=${1##*-}
  case $1 in
    libpq-*) fresh "$1" "$dir/migrate" --tenants="$tenants" --conns="$k" \
      "$dir/files" ;;
    keeping-*) fresh "$1" "$dir/migrate" --tenants="$tenants" --conns="$k" \
      --kept "$dir/files" ;;
    thinking-*) fresh "$1" "$dir/migrate" --tenants="$tenants" --conns="$k" \
      --kept --think_us=350 "$dir/files" ;;
    mtenant-*) fresh "$1" lua5.4 "$bench_dir/lua/migrate.lua" \
      --tenants="$tenants" --concurrency="$k" --folder="$dir/files" ;;
    drizzle) fresh drizzle drizzle ;;
  esac
}

fastest() { sort -g | tail -1; }

best_of() { # median|fastest PREFIX
  local file
  for file in "$dir/$2"-*; do [[ ! -f $file ]] || "$1" <"$file"; done | fastest
}

# What disturbs a machine makes programs slower, never faster: the fastest round
# of each says more than the median where others are at work.
table() { # median|fastest NAME...
  local how=$1 name raw keeping
  shift
  raw=$(best_of "$how" libpq) keeping=$(best_of "$how" keeping)
  for name; do
    awk -v name="$name" -v r="$("$how" <"$dir/$name")" -v raw="$raw" \
      -v keeping="$keeping" 'BEGIN {
      printf "  %-13s %6.0f", name, r
      if (raw) printf "  %.2f", r / raw
      if (keeping) printf "  %.2f", r / keeping
      print "" }'
  done
}

compare_fresh() {
  local i k n
  local names=(libpq-1 libpq-2 libpq-4 libpq-10 keeping-2 keeping-4 mtenant-2
    mtenant-auto)
  [[ -z ${DRIZZLE:-} ]] || names+=(drizzle)
  [[ -z $only ]] || IFS=, read -ra names <<<"$only"
  n=${#names[@]}
  for ((i = 0; i < rounds; i++)); do # each round begins with another one
    for ((k = 0; k < n; k++)); do contest "${names[(k + i * 3) % n]}"; done
  done
  echo "$tenants empty schemas, five files: tenants a second, over the best of" \
    "libpq's, over that which keeps our promises; medians:"
  table median "${names[@]}"
  echo "the fastest round of each:"
  table fastest "${names[@]}"
}

# ---- nothing pending -----------------------------------------------------------

fill() {
  psql <<SQL
SET client_min_messages = error;
SELECT format('CREATE SCHEMA i_%1\$s CREATE TABLE __drizzle_migrations (
  id SERIAL PRIMARY KEY, name VARCHAR(255) NOT NULL UNIQUE,
  applied_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP);
  INSERT INTO i_%1\$s.__drizzle_migrations (name)
  VALUES (''0001_customers''), (''0002_orders''), (''0003_items''),
    (''0004_phone''), (''0005_rows'')', to_char(i, 'FM00000'))
  FROM generate_series(1, $idle) i \gexec
SQL
  "$root/tests/support/pg.sh" psql "$pg" -qd mtenant <<<"VACUUM ANALYZE" >/dev/null
  mkdir "$dir/project"
  cat >"$dir/project/tenant.config.lua" <<'LUA'
return {
  connection = { url = os.getenv "BENCH_URL" },
  isolation = { schema_name_template = function(id) return "i_" .. id end },
  migrations = {
    tenant_folder = "../files",
    tenant_discovery = function(shared)
      local ids = {}
      for i, row in ipairs(assert(shared:query(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'i\\_%'"))) do
        ids[i] = row.nspname:sub(3)
      end
      return ids
    end,
  },
}
LUA
}

# What the migrator asks, in chunks of 500, over two psql at a time.
chunks() {
  local first last
  for ((first = 1; first <= idle; first += 500)); do
    last=$((first + 499 < idle ? first + 499 : idle))
    psql -c "SELECT string_agg(format('%L', 'i_' || to_char(i, 'FM00000')), ',')
      FROM generate_series($first, $last) i" >"$dir/names"
    cat <<SQL
SELECT n.nspname, n.oid, (SELECT string_agg(a.attname || ':' || t.typname, ','
    ORDER BY a.attnum) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
  FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid
    AND c.relname = '__drizzle_migrations' AND c.relkind IN ('r', 'p')
  WHERE n.nspname = ANY (ARRAY[$(<"$dir/names")]::name[]);
SQL
    psql -c "SELECT string_agg(format('SELECT %s, (SELECT string_agg(name, e''\n'')
      FROM %I.__drizzle_migrations)', i, 'i_' || to_char(i, 'FM00000')),
      ' UNION ALL ') || ';' FROM generate_series($first, $last) i"
  done
}

floor() {
  psql -o /dev/null -f "$dir/even" &
  psql -o /dev/null -f "$dir/odd"
  wait $!
}

timed() { # NAME COMMAND...
  local name=$1 start=$EPOCHREALTIME
  shift
  "$@" >"$dir/out"
  awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }' >>"$dir/$name"
}

run_idle() {
  (cd "$dir/project" && exec /usr/bin/env time -f %M -o "$dir/rss-$1" -- \
    "$program" "$@")
}

compare_idle() {
  local i name seconds best
  fill
  chunks >"$dir/all"
  awk -v RS=';\n' -v ORS=';\n' -v dir="$dir" 'NF {
    print > (dir "/" (int((NR - 1) / 2) % 2 ? "odd" : "even")) }' "$dir/all"
  for ((i = 0; i < rounds; i++)); do
    timed idle-psql floor
    timed idle-migrate run_idle migrate --all --quiet
    timed idle-status run_idle status --all --quiet
  done
  best=$(median <"$dir/idle-psql")
  echo "$idle tenants, nothing pending: seconds, over psql's, memory"
  printf '  %-13s %6.2f\n' psql "$best"
  for name in migrate status; do
    seconds=$(median <"$dir/idle-$name")
    awk -v name="$name" -v s="$seconds" -v best="$best" \
      -v kb="$(<"$dir/rss-$name")" 'BEGIN {
      printf "  %-13s %6.2f  %.2f  %.0f MiB\n", name, s, s / best, kb / 1024 }'
  done
}

build
files
((tenants == 0)) || compare_fresh
((idle == 0)) || compare_idle
