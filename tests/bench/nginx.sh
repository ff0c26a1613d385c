#!/bin/bash
# Measures mtenant in one nginx worker, beside pgmoon in the same worker when
# $PGMOON names a checkout of it. See README.md, or: tests/bench/nginx.sh --help
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
lib=${MTENANT_LIB:-$root/build/release/lib}/luajit
seconds=3 rounds=3

usage() {
  cat <<'TEXT'
usage: tests/bench/nginx.sh [--seconds=N] [--runs=N]
  --seconds=N    of load in each measurement (default 3)
  --runs=N       rounds (default 3); the programs take turns in each
environment: MTENANT_LIB (build/release/lib), PGMOON (directory with pgmoon/)
A select of one row with two parameters and two types, by wrk with 16 and 64
clients; and 200 requests at once of pg_sleep(0.05) over 50 connections.
TEXT
}

for arg; do
  case $arg in
    --seconds=*) seconds=${arg#*=} ;;
    --runs=*) rounds=${arg#*=} ;;
    --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
done

dir=$(mktemp -d)
pg_root=$("$root/tests/support/pg.sh" root $$)
finish() {
  [[ ! -f $dir/pid ]] || kill -QUIT "$(<"$dir/pid")" || true
  while [[ -f $dir/pid ]]; do sleep 0.1; done
  "$root/tests/support/pg.sh" destroy "$pg_root"
  rm -rf "$dir"
}
trap finish EXIT

read -r -d '' pg port < <("$root/tests/support/pg.sh" create "$pg_root" \
  max_connections=120) || true
for http in $(shuf -i 20000-30000 -n 50); do
  (exec 3<>"/dev/tcp/127.0.0.1/$http") 2>/dev/null || break
done

modules=/usr/lib/nginx/modules
cat >"$dir/nginx.conf" <<TEXT
pid $dir/pid; error_log $dir/error.log; worker_processes 1;
$([[ $(id -u) != 0 ]] || echo "user root;")
load_module $modules/ndk_http_module.so;
load_module $modules/ngx_http_lua_module.so;
events { worker_connections 1024; }
http {
  access_log off;
  lua_package_path "$root/lua/?.lua;$root/lua/?/init.lua;${PGMOON:-/nowhere}/?.lua;${PGMOON:-/nowhere}/?/init.lua;;";
  lua_package_cpath "$lib/?.so;;";
  init_worker_by_lua_block {
    db = assert(require("mtenant").create_tenant_manager {
      connection = {
        url = "postgresql://postgres@/postgres?host=$pg&port=$port",
        max_connections = 50, pool = { max = 50 },
      },
      isolation = {
        schema_name_template = function(id) return "t_" .. id end,
      },
    }):get_shared_db()
  }
  server {
    listen 127.0.0.1:$http;
    location = /mtenant { content_by_lua_block {
      local row = assert(db:one("select \$1::int as a, \$2::text as b", 5, "x"))
      ngx.say(row.a, row.b) } }
    location = /pgmoon { content_by_lua_block {
      local pg = require("pgmoon").new({
        host = "unix:$pg/.s.PGSQL.$port", user = "postgres",
        database = "postgres" })
      assert(pg:connect())
      local rows = assert(pg:query("select \$1::int as a, \$2::text as b", 5, "x"))
      pg:keepalive(60000, 20)
      ngx.say(rows[1].a, rows[1].b) } }
    location = /sleep { content_by_lua_block {
      assert(db:query("select pg_sleep(0.05)")) ngx.say("ok") } }
  }
}
TEXT
nginx -p "$dir" -c "$dir/nginx.conf" -e "$dir/error.log"
worker=$(pgrep -P "$(<"$dir/pid")" | head -1)

cpu_ticks() { awk '{ print $14 + $15 }' "/proc/$worker/stat"; }

measure() { # program, clients
  local before after text
  before=$(cpu_ticks)
  text=$(wrk -t1 -c"$2" -d"${seconds}s" --latency "http://127.0.0.1:$http/$1")
  after=$(cpu_ticks)
  awk -v program="$1" -v clients="$2" -v ticks=$((after - before)) '
    /requests in/ { n = $1 } /Requests\/sec/ { rate = $2 } / 99%/ { p99 = $2 }
    /Non-2xx/ { bad = $NF }
    END {
      printf "%-8s c=%d  %8.0f requests/s  %5.1f us of CPU each  p99 %s%s\n",
        program, clients, rate, ticks * 10000 / n, p99,
        bad ? "  FAILED: " bad : "" }' <<<"$text"
  ! grep -q Non-2xx <<<"$text"
}

programs=(mtenant)
[[ -z ${PGMOON:-} ]] || programs+=(pgmoon)
for clients in 16 64; do
  for ((round = 0; round < rounds; round++)); do
    for program in "${programs[@]}"; do measure "$program" "$clients"; done
  done
done

for ((i = 0; i < 200; i++)); do
  printf 'url = http://127.0.0.1:%s/sleep\noutput = /dev/null\n' "$http"
done >"$dir/urls"
for ((round = 0; round <= rounds; round++)); do
  start=$EPOCHREALTIME
  curl -s -f -Z --parallel-immediate --parallel-max 200 -K "$dir/urls" 2>/dev/null
  awk -v a="$start" -v b="$EPOCHREALTIME" -v round="$round" 'BEGIN {
    printf "200 x pg_sleep(0.05) over 50 connections: %.2f s%s\n", b - a,
      round == 0 ? " (cold: the connections are opened)" : "" }'
done
