# shellcheck shell=bash disable=SC2154 # work, server_own are run.sh's
# The throwaway PostgreSQL of the benchmark, sourced by run.sh. It lives in one
# directory under a mktemp directory and is gone when that is. It listens on
# TCP (as tenants' servers do) for one ordinary role, and on a socket that only
# its owner can reach for the superuser. No fsync: it measures clients.

server_role=bench
server_db=bench

# Owner of the server's processes: root may not be it.
as_server_user() {
  if [ "$(id -u)" != 0 ]; then
    "$@"
  elif id -u postgres >/dev/null 2>&1; then
    runuser -u postgres -- "$@"
  else
    runuser -u nobody -- "$@"
  fi
}

server_find_binaries() {
  local dir
  for dir in "${PG_BIN:-}" "$(pg_config --bindir 2>/dev/null)" \
    $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
    if [ -x "$dir/initdb" ]; then
      pg_bin=$dir
      return
    fi
  done
  die "no PostgreSQL server programs found; set PG_BIN"
}

server_write_config() { # DATA
  cat >>"$1/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$work/socket'
max_connections = 200
shared_buffers = 256MB
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
jit = off
max_parallel_workers_per_gather = 0
max_logical_replication_workers = 0
max_wal_size = 4GB
checkpoint_timeout = 1h
log_min_messages = fatal
CONF
  cat >"$1/pg_hba.conf" <<CONF
local all all trust
host $server_db $server_role 127.0.0.1/32 trust
CONF
}

server_start() {
  local attempt
  mkdir "$work/server" "$work/socket"
  chmod 700 "$work/server" "$work/socket"
  if [ "$(id -u)" = 0 ]; then
    chmod 711 "$work"
    chown "$(as_server_user id -un)" "$work/server" "$work/socket"
  fi
  (cd "$work/server" && as_server_user "$pg_bin/initdb" -D "$work/server/data" \
    -U postgres -A trust -E UTF8 --locale=C --no-sync) >"$work/initdb.log" \
    2>&1 || { cat "$work/initdb.log" >&2; die "initdb failed"; }
  server_write_config "$work/server/data"
  # Below the ports that the kernel gives to clients; a taken one is skipped.
  for attempt in 1 2 3 4 5 6 7 8; do
    PGPORT=$((20000 + (RANDOM % 12000)))
    server_ctl -w -t 30 -l "$work/server/log" -o "-p $PGPORT" start && break
    [ "$attempt" != 8 ] || { cat "$work/server/log" >&2
      die "PostgreSQL does not start"; }
  done
  read -r server_pid <"$work/server/data/postmaster.pid"
  export PGPORT PGHOST=127.0.0.1 PGUSER=$server_role PGDATABASE=$server_db
  export PGSSLMODE=disable PGGSSENCMODE=disable
  BENCH_URL="postgresql://$server_role@127.0.0.1:$PGPORT/$server_db"
  export BENCH_URL="$BENCH_URL?sslmode=disable"
}

# Sets server_own: how many processes the server has without any client.
server_count_own() {
  server_own=0
  nap 0.5
  server_list_children
  server_own=${#server_children[@]}
}

# server_restart MAX: the same server with other max_connections.
server_restart() {
  server_ctl -m fast -w -t 30 -l "$work/server/log" \
    -o "-p $PGPORT -c max_connections=$1" restart ||
    die "PostgreSQL does not restart"
  read -r server_pid <"$work/server/data/postmaster.pid"
  server_count_own
}

server_ctl() {
  (cd "$work/server" &&
    as_server_user "$pg_bin/pg_ctl" -D "$work/server/data" "$@") >/dev/null 2>&1
}

server_stop() {
  [ -s "$work/server/data/postmaster.pid" ] || return 0
  server_ctl -m immediate -w -t 20 stop ||
    { [ -n "${server_pid:-}" ] && kill -QUIT "$server_pid"; }
}

# psql as the superuser, not in the benchmark's database (whose sessions are
# counted) unless -d says so; and as the ordinary role.
admin_psql() {
  PGHOST=$work/socket PGUSER=postgres PGDATABASE=postgres \
    "$pg_bin/psql" -XAtq -v ON_ERROR_STOP=1 "$@"
}

role_psql() {
  "$pg_bin/psql" -XAtq -v ON_ERROR_STOP=1 "$@"
}

# server_fill FILLED SMALL: tenants 1..FILLED have a table with 100 rows each,
# those up to SMALL one with the first row only. Fifty tenants per transaction.
server_fill() {
  admin_psql <<SQL
create role $server_role login nosuperuser nocreatedb nocreaterole;
create database $server_db owner $server_role;
SQL
  role_psql -v filled="$1" -v small="$2" >/dev/null <<'SQL'
set client_min_messages = warning;
create function pg_temp.schema_of(t int) returns text language sql return
  'tenant_' || lpad(t::text, greatest(4, length(t::text)), '0');
create function pg_temp.fill(first int, last int) returns void
language plpgsql as $$
begin
  for t in first .. last loop
    execute format('create schema %1$I create table accounts(id int
      primary key, name text, email text, balance numeric(12,2),
      created_at timestamptz, active bool)', pg_temp.schema_of(t));
    execute format('insert into %I.accounts select i,
      ''name '' || $1 || ''-'' || i,
      ''user'' || i || ''@t'' || $1 || ''.example.org'',
      (i * $1 %% 100000) / 100.0, now(), i %% 2 = 0
      from generate_series(1, 100) i', pg_temp.schema_of(t)) using t;
  end loop;
end $$;
create function pg_temp.reserve(first int, last int) returns void
language plpgsql as $$
begin
  for t in first .. last loop
    execute format('create schema %I', pg_temp.schema_of(t));
    execute format('create table %I.accounts as select 1 as id,
      ''name '' || %s || ''-1'' as name', pg_temp.schema_of(t), t);
  end loop;
end $$;
select format('select pg_temp.fill(%s, %s)', t, least(t + 49, :filled))
from generate_series(1, :filled, 50) t \gexec
select format('select pg_temp.reserve(%s, %s)', t, least(t + 49, :small))
from generate_series(:filled + 1, :small, 50) t \gexec
create table public.accounts_big(id int primary key, name text, email text,
  balance numeric(12,2), created_at timestamptz, active bool);
insert into public.accounts_big select i,
  case when i % 10 <> 0 then 'name ' || i end, 'user' || i || '@example.org',
  (i % 1000000) / 100.0, now() - make_interval(secs => i), i % 2 = 0
from generate_series(1, 100000) i;
SQL
  admin_psql -d "$server_db" -c "vacuum analyze" -c checkpoint
}

# Sessions ever opened on the benchmark's database.
server_sessions() {
  admin_psql -c "select sessions from pg_stat_database
    where datname = '$server_db'"
}

# Sets server_children: pids of the server's processes. No fork: it is called
# many times a second while a program is being measured.
server_list_children() {
  local list=/proc/$server_pid/task/$server_pid/children
  if [ -r "$list" ]; then
    # The line has no newline at its end, so read answers false.
    read -ra server_children <"$list" || true
  else
    mapfile -t server_children < <(pgrep -P "$server_pid")
  fi
}

# Sets server_ticks: CPU of the server and all its processes, in clock ticks,
# those that have ended included.
server_cpu() {
  local pid line fields
  server_list_children
  read -r line <"/proc/$server_pid/stat"
  read -ra fields <<<"${line##*) }"
  server_ticks=$((fields[11] + fields[12] + fields[13] + fields[14]))
  for pid in "${server_children[@]}"; do
    { read -r line <"/proc/$pid/stat"; } 2>/dev/null || continue
    read -ra fields <<<"${line##*) }"
    server_ticks=$((server_ticks + fields[11] + fields[12]))
  done
}

# Waits until all clients' backends are gone, ten seconds at most.
server_wait_idle() {
  local i
  for ((i = 0; i < 500; i++)); do
    server_list_children
    [ "${#server_children[@]}" -gt "$server_own" ] || return 0
    nap 0.02
  done
  return 1
}
