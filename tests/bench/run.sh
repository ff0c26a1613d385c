#!/bin/bash
# Measures mtenant beside raw libpq programs on the same work.
# See README.md, or: tests/bench/run.sh --help
set -euo pipefail

bench_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$bench_dir/../.." && pwd)
all_workloads="W1 W2 W3 W4 W5 W6 W7 W8"

usage() {
  cat <<'TEXT'
usage: tests/bench/run.sh [W1 ... W8] [options]
  --runs=N       rounds (default 3); the programs take turns in each
  --quick        one round of little work: does everything run?
  --only=TEXT    only programs with TEXT in their name, such as --only=raw
  --json[=FILE]  results as JSON, to FILE or instead of the tables
  --strict       exit 1 also if a target is not met
environment: MTENANT_LIB (build/release/lib), MTENANT_LUA (lua), PG_BIN,
  CC, CFLAGS, LUA (lua5.4), PIN (the CPU for W1), TMPDIR
exit status: 0; 1 if a program failed or read wrong rows; 2 for bad usage
TEXT
}

die() {
  echo "bench: $*" >&2
  exit 1
}

say() {
  echo "bench: $*" >&2
}

# Sleeps without a process of its own.
exec {nap_fd}<> <(:)
nap() {
  read -rt "$1" -u "$nap_fd" _ || true
}

# shellcheck source=server.sh
. "$bench_dir/server.sh"

parse_options() {
  workloads="" runs="" quick="" only="" json="" strict=""
  local word
  for word in "$@"; do
    case $word in
      W[1-8]) workloads="$workloads $word" ;;
      --runs=[1-9] | --runs=[1-9][0-9]) runs=${word#*=} ;;
      --quick) quick=1 ;;
      --only=?*) only=${word#*=} ;;
      --json) json=- ;;
      --json=?*) json=${word#*=} ;;
      --strict) strict=1 ;;
      -h | --help) usage; exit 0 ;;
      *) echo "bench: unknown argument: $word" >&2; usage >&2; exit 2 ;;
    esac
  done
  workloads=${workloads:-$all_workloads}
  runs=${runs:-${quick:+1}}
  runs=${runs:-3}
}

wants() {
  case " $workloads " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}

build_programs() {
  local flags pq lua program
  flags="-std=c11 -D_GNU_SOURCE -O2 -g -Wall -Wextra ${CFLAGS:-}"
  pq=$(pkg-config --cflags --libs libpq) || die "libpq-dev is missing"
  lua=$(pkg-config --cflags lua5.4) || die "liblua5.4-dev is missing"
  mkdir "$work/bin"
  # The flags are lists of words.
  # shellcheck disable=SC2086
  for program in w1 w2 w3 w4 w6 w7; do
    ${CC:-cc} $flags "$bench_dir/raw/$program.c" "$bench_dir/raw/bench.c" \
      "$bench_dir/raw/lane.c" -o "$work/bin/$program" $pq
  done
  # shellcheck disable=SC2086
  for program in luarows luaclock; do
    ${CC:-cc} $flags -fPIC -shared "$bench_dir/raw/$program.c" \
      -o "$work/bin/$program.so" $lua $pq
  done
}

find_module() {
  local lib=${MTENANT_LIB:-$root/build/release/lib}
  local lua_dir=${MTENANT_LUA:-$root/lua}
  lua_bin=${LUA:-lua5.4}
  command -v "$lua_bin" >/dev/null || die "$lua_bin is missing"
  unset LUA_PATH_5_4 LUA_CPATH_5_4 LUA_INIT LUA_INIT_5_4
  export LUA_PATH="$bench_dir/lua/?.lua;$lua_dir/?.lua;$lua_dir/?/init.lua;;"
  export LUA_CPATH="$work/bin/?.so;$lib/?.so;;"
}

# ---- the programs ----------------------------------------------------------

# program NAME OPS VERIFY WORD...: one contestant of workload $w. OPS is how
# many operations it must report, VERIFY more options for the run before the
# first round that checks whose rows come back ("" for no such run). report.lua
# knows which program is compared with which.
program() {
  [[ -z $only || $1 == *"$only"* ]] || return 0
  names+=("$1")
  ops+=("$2")
  verifies+=("$3")
  commands+=("$(printf '%q ' "${@:4}")")
}

# amount FULL QUICK: how much to do.
amount() {
  if [ -n "$quick" ]; then echo "$2"; else echo "$1"; fi
}

plan_W1() {
  local n check="--n=1000 --warm=0 --verify"
  n=$(amount 20000 2000)
  program "raw scope" "$n" "$check" "$work/bin/w1" --n="$n" --scope
  program "raw plain" "$n" "$check" "$work/bin/w1" --n="$n"
  program "mtenant" "$n" "$check" "$lua_bin" "$bench_dir/lua/w1.lua" --n="$n"
}

plan_W2() {
  local n check="--n=5000 --warm=500 --verify"
  n=$(amount 100000 10000)
  program "raw c4 affinity" "$n" "$check" "$work/bin/w2" --n="$n" --affinity
  program "raw c4" "$n" "$check" "$work/bin/w2" --n="$n"
  program "mtenant c4" "$n" "$check" \
    "$lua_bin" "$bench_dir/lua/w2.lua" --n="$n" --conns=4
  program "mtenant c4 uncounted" "$n" "$check" \
    "$lua_bin" "$bench_dir/lua/w2.lua" --n="$n" --conns=4 --metrics=0
}

plan_W3() {
  local iters n stream form check="--iters=1 --verify"
  local lua_w3=("$lua_bin" "$bench_dir/lua/w3.lua")
  local floor=("$lua_bin" "$bench_dir/lua/w3_floor.lua")
  iters=$(amount 5 1)
  stream=$(amount 10000000 300000)
  n=$((iters * 100000))
  program "raw text" "$n" "$check" "$work/bin/w3" --iters="$iters"
  for form in hash array get; do
    program "raw floor $form" "$n" "" \
      "${floor[@]}" --form=$form --iters="$iters"
  done
  for form in hash array get index; do
    program "mtenant $form" "$n" "$check" \
      "${lua_w3[@]}" --form=$form --iters="$iters"
  done
  [ "$round" = 1 ] || return 0 # once is enough for these two
  program "raw stream" "$stream" "" "$work/bin/w3" --stream="$stream"
  program "mtenant stream" "$stream" "" \
    "${lua_w3[@]}" --form=stream --rows="$stream"
}

plan_W4() {
  local n=$filled check=--verify
  local raw=("$work/bin/w4" --tenants="$n")
  local lua_w4=("$lua_bin" "$bench_dir/lua/w4.lua" --tenants="$n")
  program "raw c20" "$n" "$check" "${raw[@]}" --conns=20
  program "raw c20 scope" "$n" "$check" "${raw[@]}" --conns=20 --scope
  program "raw c4 scope" "$n" "$check" "${raw[@]}" --conns=4 --scope
  program "mtenant c20" "$n" "$check" "${lua_w4[@]}" --conns=20
  program "mtenant c4" "$n" "$check" "${lua_w4[@]}" --conns=4
}

plan_W5() {
  local n
  n=$(amount 1000 200)
  program "mtenant auto" "$n" "" "$lua_bin" "$bench_dir/lua/w5.lua" \
    --tenants=100 --each=$((n / 100))
}

plan_W6() {
  local noise each load
  noise=$(amount 10000 2000)
  each=$(amount 40 4)
  load=(--noise="$noise" --tenants=50 --each="$each")
  program "mtenant" $((50 * each)) "" \
    "$lua_bin" "$bench_dir/lua/w6.lua" "${load[@]}"
  program "raw private" $((50 * each)) "" "$work/bin/w6" "${load[@]}"
  program "raw private n10" $((50 * each)) "" "$work/bin/w6" "${load[@]}" \
    --noise_conns=10
}

plan_W7() {
  local n=$((small - 100)) mode
  program "raw connections" 100 "" "$work/bin/w7" --conns=100
  for mode in async query; do
    program "mtenant $mode" "$n" "" "$lua_bin" "$bench_dir/lua/w7.lua" \
      --tenants="$small" --warm=100 --mode=$mode
  done
}

plan_W8() {
  local again n lua_w8=("$lua_bin" "$bench_dir/lua/w8.lua")
  again=$((small / 2))
  n=$((small - 100 + again))
  lua_w8+=(--tenants="$small" --again="$again")
  program "mtenant c20" "$n" "" "${lua_w8[@]}"
  program "mtenant grown" "$n" "" "${lua_w8[@]}" --grown
}

# ---- running ---------------------------------------------------------------

# Runs a command, its output to $work/out; samples the server's connections
# into `peak`. The status is the command's.
measure() {
  local count
  peak=0
  timeout -k 5 600 "$@" >"$work/out" 2>"$work/err" &
  running=$!
  while kill -0 "$running" 2>/dev/null; do
    server_list_children
    count=$((${#server_children[@]} - server_own))
    [ "$count" -le "$peak" ] || peak=$count
    nap 0.02
  done
  local status=0
  wait "$running" || status=$?
  running=""
  return "$status"
}

failed() { # NAME WHAT
  say "FAILED: $w $1: $2"
  sed -n '1,12s/^/  | /p' "$work/err" >&2
  printf '{"workload":"%s","contestant":"%s","round":%d,"failed":1}\n' \
    "$w" "$1" "$round" >>"$work/results"
  failures=$((failures + 1))
  broken[$1]=1
}

# One run of one program: a line in $work/results.
run_program() { # NAME OPS WORD...
  local name=$1 expected=$2 ticks sessions line
  shift 2
  sessions=$(server_sessions)
  server_wait_idle || die "connections are left on the server"
  server_cpu
  ticks=$server_ticks
  if ! measure "${pinned[@]}" "$@"; then
    failed "$name" "exit status not 0"
    return
  fi
  server_wait_idle || { failed "$name" "left connections behind"; return; }
  server_cpu
  line=$(tail -n 1 "$work/out")
  if [[ $line != \{* ]]; then
    failed "$name" "no result line"
    return
  fi
  printf '{"workload":"%s","contestant":"%s","round":%d,"expected_n":%d,%s' \
    "$w" "$name" "$round" "$expected" \
    "\"server_s\":$(((server_ticks - ticks) * 1000 / ticks_per_s))e-3," \
    >>"$work/results"
  printf '"peak_conns":%d,"sessions":%d,%s\n' "$peak" \
    $(($(server_sessions) - sessions)) "${line#\{}" >>"$work/results"
}

# Whose rows are they? Once per program, not measured.
verify_program() { # NAME WORD...
  local name=$1
  shift
  server_wait_idle || die "connections are left on the server"
  measure "$@" || failed "$name" "reads wrong rows or does not run"
}

pin() { # CPU list, of the server and what it starts
  taskset -cp "$1" "$server_pid" >/dev/null
}

run_workload() {
  local i names ops verifies commands words pinned=()
  local -A broken=() # failed once: not run again
  for ((round = 1; round <= runs; round++)); do
    names=() ops=() verifies=() commands=()
    "plan_$w"
    [ "${#names[@]}" != 0 ] || return 0
    say "$w round $round of $runs"
    for i in "${!names[@]}"; do
      [[ $round = 1 && -n ${verifies[i]} ]] || continue
      eval "words=(${commands[i]} ${verifies[i]})"
      verify_program "${names[i]}" "${words[@]}"
    done
    if [[ $w = W1 && -n $pin_cpu ]]; then
      pin "$pin_cpu"
      pinned=(taskset -c "$pin_cpu")
    fi
    for i in "${!names[@]}"; do
      [ -z "${broken[${names[i]}]:-}" ] || continue
      eval "words=(${commands[i]})"
      run_program "${names[i]}" "${ops[i]}" "${words[@]}"
    done
    [ -z "$pin_cpu" ] || pin "$all_cpus"
  done
}

cleanup() {
  trap '' INT TERM HUP
  if [ -n "$running" ]; then
    kill "$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
  fi
  server_stop || true
  rm -rf "$work"
}

main() {
  parse_options "$@"
  running="" failures=0
  work=$(mktemp -d "${TMPDIR:-/tmp}/mtenant-bench.XXXXXX")
  export BENCH_NOISE=$work/noise
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  find_module
  server_find_binaries
  build_programs

  pin_cpu="" all_cpus="" ticks_per_s=$(getconf CLK_TCK)
  if command -v taskset >/dev/null; then
    all_cpus=$(taskset -cp $$)
    all_cpus=${all_cpus##*: }
    pin_cpu=${PIN:-${all_cpus##*[,-]}}
  fi
  filled=$(amount 1000 200) small=$filled
  if wants W7 || wants W8; then small=$(amount 10000 1000); fi

  say "starting PostgreSQL in $work"
  server_start
  server_count_own
  say "filling $filled tenants and $((small - filled)) small ones"
  server_fill "$filled" "$small"
  server_wait_idle || die "connections are left on the server"

  : >"$work/results"
  for w in $workloads; do
    [ "$w" != W5 ] || server_restart 40
    run_workload
    [ "$w" != W5 ] || server_restart 200
  done
  "$lua_bin" "$bench_dir/report.lua" "$work/results" \
    ${json:+"--json=$json"} ${strict:+--strict} || failures=$((failures + 1))
  [ "$failures" = 0 ]
}

main "$@"
