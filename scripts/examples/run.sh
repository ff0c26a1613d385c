#!/usr/bin/env bash
# Runs an example with a private throwaway PostgreSQL; Ctrl-C ends both.
#
#   scripts/examples/run.sh NAME [--port=N] [--check]
#
#   openresty   a multi-tenant REST service in nginx with lua-nginx-module
#   lua-http    the same on lua-http
#   worker      a background worker that does many tenants' jobs
#   saas        a routing policy: customers by subdomain, with tiers
#   fleet       a routing policy: three PostgreSQL servers, sixty tenants
#   replicas    a routing policy: reads from a streaming standby
#
# The last three print what they do, and end. --port=N: on 127.0.0.1, a free one
# unless told. --check: asks it what it should answer, says what was wrong, and
# ends: status 0 or 1. On Debian, root installs the packages that are missing;
# others are told which.
set -uo pipefail
unset CDPATH
cd "$(dirname "$0")/../.." || exit 1
# shellcheck source=scripts/dev/deps.sh
source scripts/dev/deps.sh

name='' port='' check=false
for arg; do
  case $arg in
    --port=*) port=${arg#*=} ;;
    --check) check=true ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit ;;
    openresty | lua-http | worker | saas | fleet | replicas) name=$arg ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
  esac
done
[[ -n $name ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2 && exit 2; }

examples=$PWD/scripts/examples
build=${MT_BUILD_DIR:-$PWD/build/release}
dir=$(mktemp -d)
pids=()
replication=''

finish() {
  local pid
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
  [[ ! -s $dir/error.log ]] || tail -5 "$dir/error.log" >&2
  [[ -z $replication ]] || bash tests/support/pg.sh destroy "$replication"
  rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
  echo "run.sh: $*" >&2
  [[ ! -f $dir/error.log ]] || cat "$dir/error.log" >&2
  exit 1
}

build() {
  mtenant_install_deps test && {
    cmake --preset release &&
      cmake --build --preset release --target mtenant_run mtenant_lua \
        mtenant_luajit mtenant_nginx
  } >"$dir/build" 2>&1 || { cat "$dir/build" >&2 && exit 1; }
}

# ---- the database ----------------------------------------------------------------

start_server() {
  "$build/bin/mtenant-run" "$examples/notes/server.lua" >"$dir/url" &
  pids+=($!)
  local i
  for ((i = 0; i < 600; i++)); do
    [[ -s $dir/url ]] && { url=$(<"$dir/url") && return; }
    kill -0 "${pids[0]}" 2>/dev/null || break
    sleep 0.1
  done
  die "no PostgreSQL"
}

# ---- the service ------------------------------------------------------------------

free_port() {
  for port in $(shuf -i 20000-30000 -n 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || return 0
  done
}

wait_for_port() {
  local i
  for ((i = 0; i < 100; i++)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return
    kill -0 "${pids[-1]}" 2>/dev/null || break
    sleep 0.1
  done
  die "the service does not start"
}

start_openresty() {
  local user=''
  [[ $(id -u) != 0 ]] || user='user root;'
  sed -e "s|@DIR@|$dir|; s|@USER@|$user|; s|@PORT@|$port|; s|@URL@|${url//&/\\&}|" \
    -e "s|@MODULES@|/usr/lib/nginx/modules|; s|@LUA@|$PWD/lua|g" \
    -e "s|@EXAMPLES@|$examples|; s|@LIB@|$build/lib/luajit|" \
    "$examples/openresty/nginx.conf.in" >"$dir/nginx.conf"
  nginx -p "$dir" -c "$dir/nginx.conf" -e "$dir/error.log" &
  pids+=($!)
}

# Debian has lua-http for Lua 5.3 at most; it is plain Lua, and runs on 5.4.
start_lua-http() {
  local at=/usr/share/lua
  LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;$examples/?.lua;;$at/5.3/?.lua;$at/5.3/?/init.lua;$at/5.1/?.lua" \
    LUA_CPATH="$build/lib/?.so;;" \
    lua5.4 "$examples/lua-http/server.lua" "$url" "$port" &
  pids+=($!)
}

start_worker() { # arguments...
  LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;$examples/?.lua;;" \
    "$build/bin/mtenant-run" "$examples/worker/worker.lua" "$url" "$@" &
  pids+=($!)
}

# ---- routing policies ----------------------------------------------------------------

# A primary and its standby, as the tests start them: two URLs in the file "urls".
start_replication() {
  local pg=tests/support/pg.sh root primary standby server
  root=$(bash $pg root $$) || die "no directory for PostgreSQL"
  server=$(bash $pg create "$root") && primary=${server%%$'\n'*} &&
    server=$(bash $pg standby "$primary") && standby=${server%%$'\n'*} ||
    die "no PostgreSQL with a standby"
  urls=("postgresql://mtenant@/mtenant?host=$primary&port=5432"
    "postgresql://mtenant@/mtenant?host=$standby&port=5432")
  replication=$root
}

run_policy() { # arguments...
  LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;" timeout 120 \
    "$build/bin/mtenant-run" "$examples/$name/$name.lua" "$@"
}

# The policy's own tests, its spec, and what the program says.
check_policy() {
  local out wanted
  "$build/bin/mtenant" policy check "$examples/$name/policy.lua" -q || wrong=1
  LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;" \
    LUA_CPATH="$build/lib/?.so;;" \
    lua5.4 "$(command -v busted)" -o plainTerminal "$examples/$name/policy_spec.lua" \
    >"$dir/spec" 2>&1 || { cat "$dir/spec" && wrong=1; }
  out=$(run_policy "$@" 2>&1) || wrong=1
  wanted=$(<"$examples/$name/output")
  [[ $out = "$wanted" ]] || {
    printf 'it said:\n%s\n' "$out"
    wrong=1
  }
}

# ---- checks -----------------------------------------------------------------------

wrong=0

expect() { # status, pattern of the body, tenant, path, curl's options...
  local status=$1 pattern=$2 tenant=$3 path=$4 out
  shift 4
  out=$(curl -s -m 20 -w '%{http_code}' -H "Host: $tenant" "$@" \
    "http://127.0.0.1:$port$path")
  [[ $out = *$status && $out =~ $pattern ]] && return
  echo "$tenant $path: $status with $pattern expected, got: $out"
  wrong=1
}

check_service() {
  local json='Content-Type: application/json'
  expect 200 '"healthy":true' localhost /health
  expect 200 'notes_pool_open [0-9]' localhost /metrics
  expect 400 'Tenant ID is required' localhost /notes
  expect 403 'Invalid tenant' nobody.example.test /notes
  expect 403 'Invalid tenant' initech.example.test /notes
  expect 200 "acme's first note" acme.example.test /notes
  expect 201 '"body":"it.s \\"mine\\""' acme.example.test /notes -H "$json" \
    -d '{"body":"it'"'"'s \"mine\""}'
  expect 200 'mine' acme.example.test /notes/2
  expect 404 'no such note' globex.example.test /notes/2
  expect 200 '"next":1' acme.example.test '/notes?limit=1'
  expect 400 'must be numbers' acme.example.test '/notes?limit=many'
  expect 400 'body must be' acme.example.test /notes -H "$json" -d '{"body":5}'
  expect 204 '' acme.example.test /notes/2 -X DELETE
  expect 404 'no such note' acme.example.test /notes/2
  expect 405 'GET or POST' acme.example.test /notes -X PUT
  expect 404 'not found' acme.example.test /nothing
}

check_worker() {
  start_worker --once >"$dir/out"
  wait "${pids[-1]}" || wrong=1
  grep -q '^100 jobs done, 0 failed$' "$dir/out" || {
    cat "$dir/out"
    wrong=1
  }
}

# ---- run -------------------------------------------------------------------------------

[[ -n ${MT_BUILD_DIR:-} ]] || build
case $name in
  saas | fleet | replicas)
    urls=()
    [[ $name != replicas ]] || start_replication
    if $check; then check_policy "${urls[@]}"; else run_policy "${urls[@]}" || wrong=1; fi
    exit "$wrong"
    ;;
esac
start_server
if [[ $name = worker ]]; then
  if $check; then
    check_worker
    exit "$wrong"
  fi
  echo "PostgreSQL: $url"
  start_worker
else
  [[ -n $port ]] || free_port
  "start_$name"
  wait_for_port
  if $check; then
    check_service
    exit "$wrong"
  fi
  cat <<TEXT
PostgreSQL: $url
the service: http://127.0.0.1:$port (the tenant is the host's first label)

  curl -H 'Host: acme.example.test' http://127.0.0.1:$port/notes
  curl -H 'Host: acme.example.test' -d '{"body":"hello"}' http://127.0.0.1:$port/notes
  curl -H 'Host: globex.example.test' http://127.0.0.1:$port/notes
  curl http://127.0.0.1:$port/health

Ctrl-C ends it.
TEXT
fi
wait "${pids[-1]}"
