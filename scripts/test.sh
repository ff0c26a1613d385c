#!/usr/bin/env bash
# Builds everything and runs every check: what CI runs, and the same on a
# laptop. Prints one line per suite, the output of the suites that failed, and
# at the end `N passed, N failed`; exit status 1 if anything failed.
#
#   scripts/test.sh [--quick]     --quick leaves valgrind and fuzzing out
#
# Tests that need PostgreSQL start throwaway servers of their own. On Debian,
# root installs the packages that are missing; others are told which.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export LC_ALL=C.UTF-8 TZ=UTC
unset DATABASE_URL "${!PG@}" # the caller's server is none of the tests'

. scripts/dev/deps.sh
quick=false
case ${1:-} in
  --quick) quick=true ;;
  '') ;;
  *)
    echo "usage: scripts/test.sh [--quick]" >&2
    exit 2
    ;;
esac

passed=0
failed=0
since=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
built=" "

# A suite that ran nothing has failed, whatever it says.
report() { # name, passed, failed, log
  local ok=$2 bad=$3
  ((ok + bad > 0)) || bad=1
  printf '%-28s %d passed, %d failed, %d s\n' "$1" "$ok" "$bad" \
    "$((SECONDS - since))"
  since=$SECONDS
  ((bad == 0)) || sed 's/^/    /' "$4"
  passed=$((passed + ok))
  failed=$((failed + bad))
}

sum() { # the numbers that a sed script finds in a file, added up
  sed -n "$1" "$2" | awk '{ n += $1 } END { print n + 0 }'
}

finish() {
  echo "$passed passed, $failed failed"
  ((failed == 0))
  exit
}

# ---- tools --------------------------------------------------------------------

install_packages() {
  local log=$work/packages
  mtenant_install_deps test >"$log" 2>&1 && return
  report packages 0 1 "$log"
  finish
}

build() { # preset
  local log=$work/build-$1
  if { cmake --preset "$1" && cmake --build --preset "$1"; } >"$log" 2>&1; then
    built+="$1 "
    printf '%-28s ok, %d s\n' "build $1" "$((SECONDS - since))"
    since=$SECONDS
  else
    report "build $1" 0 1 "$log"
  fi
}

is_built() { [[ $built = *" $1 "* ]]; }

# ---- suites -------------------------------------------------------------------

sanitizer_options() {
  export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1
  export UBSAN_OPTIONS=print_stacktrace=1
  export LSAN_OPTIONS=print_suppressions=0
  [[ ! -f tests/support/lsan.supp ]] ||
    LSAN_OPTIONS+=:suppressions=$PWD/tests/support/lsan.supp
}

# Returns when fewer than so many of our jobs run.
await_room() {
  while (($(jobs -rp | wc -l) >= $1)); do wait -n; done
}

# One program; what it says and how it ends are left in files named after it.
run_c_test() { # program, command before it...
  local program=$1 name status
  name=$work/c-$(basename "$program")
  shift
  timeout -k 10 600 "$@" "$program" >"$name.out" 2>&1 </dev/null
  status=$?
  echo "$status" >"$name.status"
}

# Two at a time: they wait more than they compute, each on servers of its own.
# A program that ends badly without a failed test has failed as a whole (a
# crash, a leak, a report of valgrind).
run_c_tests() { # suite, preset, command before the program...
  local suite=$1 preset=$2 log=$work/log ok=0 bad=0
  local source program name status p f
  shift 2
  : >"$log"
  rm -f "$work"/c-*
  is_built "$preset" || echo "not built" >"$log"
  for source in tests/c/test_*.c; do
    is_built "$preset" || break
    await_room 2
    run_c_test "build/$preset/tests/$(basename "$source" .c)" "$@" &
  done
  wait
  for source in tests/c/test_*.c; do
    is_built "$preset" || break
    name=$work/c-$(basename "$source" .c)
    status=$(<"$name.status")
    p=$(sum 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' "$name.out")
    f=$(sum 's/^\[  FAILED  \] \([0-9]*\) test(s).*/\1/p' "$name.out")
    ((f > 0 || (status == 0 && p > 0))) || f=1
    if ((f > 0)); then
      program=$(basename "$source" .c)
      { echo "$program: exit status $status"; cat "$name.out"; } >>"$log"
    fi
    ok=$((ok + p))
    bad=$((bad + f))
  done
  report "$suite" "$ok" "$bad" "$log"
}

run_valgrind() {
  local options=(-q --error-exitcode=99 --leak-check=full
    --errors-for-leak-kinds=definite --child-silent-after-fork=yes)
  [[ ! -f tests/support/valgrind.supp ]] ||
    options+=("--suppressions=tests/support/valgrind.supp")
  run_c_tests "C tests, valgrind" release valgrind "${options[@]}"
}

# One process per file: a spec that hangs or crashes fails alone. What it says
# and how it ends are left in files named after its number.
run_spec() { # number, preset, interpreter, LUA_PATH, LUA_CPATH, spec
  local out=$work/spec-$1
  MT_BUILD_DIR=$PWD/build/$2 MTENANT_RUN=$PWD/build/$2/bin/mtenant-run \
    LUA_PATH=$4 LUA_CPATH=$5 timeout -k 10 600 "$3" "$(command -v busted)" \
    -o plainTerminal "$6" >"$out" 2>&1 </dev/null
  echo "$?" >"$out.status"
}

run_specs() { # suite, preset, interpreter, at a time, options of find...
  local suite=$1 preset=$2 lua=$3 jobs=$4 log=$work/log ok=0 bad=0 i=0
  local spec status p f out specs=() cpath='lib/?.so;' more_lua=
  shift 4
  if [[ $lua = *luajit-host ]]; then
    more_lua="$PWD/?.lua;/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua;"
    cpath='lib/luajit/?.so;/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;'
  fi
  : >"$log"
  rm -f "$work"/spec-*
  is_built "$preset" || echo "not built" >"$log"
  ! is_built "$preset" ||
    mapfile -t specs < <(find tests/lua -name '*_spec.lua' "$@" | sort)
  for spec in "${specs[@]}"; do
    await_room "$jobs"
    run_spec "$i" "$preset" "$lua" \
      "$PWD/lua/?.lua;$PWD/lua/?/init.lua;$PWD/tests/?.lua;$more_lua;" \
      "$PWD/build/$preset/$cpath;" "$spec" &
    i=$((i + 1))
  done
  wait
  i=0
  for spec in "${specs[@]}"; do
    out=$work/spec-$i
    i=$((i + 1))
    status=$(<"$out.status")
    p=$(sum 's/^\([0-9]*\) success.* : .*/\1/p' "$out")
    f=$(sum 's/^[0-9]* success[a-z]* \/ \([0-9]*\) failure.*/\1/p' "$out")
    f=$((f + $(sum 's/^[0-9]* success.* \/ \([0-9]*\) error.*/\1/p' "$out")))
    ((f > 0 || (status == 0 && p > 0))) || f=1
    if ((f > 0)); then
      { echo "$spec: exit status $status"; cat "$out"; } >>"$log"
    fi
    ok=$((ok + p))
    bad=$((bad + f))
  done
  report "$suite" "$ok" "$bad" "$log"
}

run_luacheck() {
  local log=$work/log ok bad
  luacheck --no-color --codes lua scripts tests >"$log" 2>&1
  ok=$(grep -c '^Checking .* OK$' "$log")
  bad=$(grep -c '^Checking .*[^K]$' "$log")
  sed -i '/^Checking .* OK$/d' "$log"
  report luacheck "$ok" "$bad" "$log"
}

run_clang_format() {
  local log=$work/log out=$work/out ok=0 bad=0 file
  : >"$log"
  while read -r file; do
    if clang-format-14 --dry-run -Werror "$file" >"$out" 2>&1; then
      ok=$((ok + 1))
    else
      grep -m 1 : "$out" >>"$log"
      bad=$((bad + 1))
    fi
  done < <(find src tests -name '*.[ch]' | sort)
  report clang-format "$ok" "$bad" "$log"
}

run_layers() {
  local log=$work/log files bad
  tests/check_layers.sh >"$log" 2>&1
  files=$(sum 's/^\([0-9]*\) files checked.*/\1/p' "$log")
  bad=$(sum 's/.* checked, \([0-9]*\) violations$/\1/p' "$log")
  report layers $((files > bad ? files - bad : 0)) "$bad" "$log"
}

run_docs() {
  local log=$work/log
  [[ -f tests/check_docs.sh ]] || return 0
  if bash tests/check_docs.sh >"$log" 2>&1; then
    report docs 1 0 "$log"
  else
    report docs 0 1 "$log"
  fi
}

run_c_hosts() { # suite, preset
  local log=$work/log
  timeout -k 10 600 tests/host/c_hosts.sh "build/$2" >"$log" 2>&1 </dev/null
  report "$1" "$(sum 's/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$log")" \
    "$(sum 's/^[0-9]* passed, \([0-9]*\) failed$/\1/p' "$log")" "$log"
}

run_isolation() { # suite, preset
  local log=$work/log
  MT_BUILD_DIR=$PWD/build/$2 timeout -k 10 900 tests/isolation/run.sh \
    >"$log" 2>&1 </dev/null
  report "$1" "$(sum 's/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$log")" \
    "$(sum 's/^[0-9]* passed, \([0-9]*\) failed$/\1/p' "$log")" "$log"
}

# What the bench measures means nothing here; that its programs run, read the
# right rows and leave no connection behind does.
run_bench() {
  local log=$work/log workload
  for workload in W5 W6 W8; do
    if MTENANT_LIB=$PWD/build/release/lib timeout -k 10 300 \
      tests/bench/run.sh "$workload" --quick >"$log" 2>&1 </dev/null; then
      report "bench $workload" 1 0 "$log"
    else
      report "bench $workload" 0 1 "$log"
    fi
  done
}

# A short run from a new seed; tests/fuzz/run.sh alone does the long one.
run_fuzz() {
  local log=$work/log
  timeout -k 10 900 tests/fuzz/run.sh --runs=30000 --peer-runs=6000 \
    >"$log" 2>&1 </dev/null
  grep '^seed ' "$log"
  report fuzz "$(sum 's/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$log")" \
    "$(sum 's/^[0-9]* passed, \([0-9]*\) failed$/\1/p' "$log")" "$log"
}

install_packages
build release
build asan
run_c_tests "C tests" release
$quick || run_valgrind
# what has bounds of time that others on the machine could break
alone=(storm loop admin_hostile admin_health sandbox_limits policy_reload
  policy_swap prometheus prometheus_text fairness budget nginx_load)
alone_regex=".*/($(IFS='|' && echo "${alone[*]}"))_spec.lua"
run_specs "specs" release lua5.4 2 -regextype posix-extended \
  ! -name 'fault_matrix_*' ! -regex "$alone_regex"
run_specs "specs, one at a time" release lua5.4 1 -regextype posix-extended \
  -regex "$alone_regex"
run_specs "fault matrix" release lua5.4 1 -name 'fault_matrix_*'
run_c_hosts "C hosts" release
# what differs by Lua version: values, iteration, coroutines, finalizers
on_luajit=(values params statements transactions sessions rows pipeline tasks
  entries isolation schemas context luajit errors retry config schema testing
  readers route_settings route_fields route_moves crypto identify identify_jwt
  sandbox sandbox_escapes sandbox_patterns route_cache policy policy_cache
  listen policies policies_joined policies_sandbox metrics admin log tracing
  debug)
run_specs "specs, LuaJIT" release build/release/tests/luajit-host 2 \
  -regextype posix-extended \
  -regex ".*/($(IFS='|' && echo "${on_luajit[*]}"))_spec.lua" \
  ! -path '*/integration/testing_spec.lua'
run_specs "specs, LuaJIT, one at a time" release \
  build/release/tests/luajit-host 1 -regextype posix-extended \
  -regex ".*/(sandbox_limits|policy_reload|prometheus_text)_spec.lua"
run_isolation isolation release
run_bench
$quick || run_fuzz
run_luacheck
run_clang_format
run_layers
run_docs
sanitizer_options
run_c_tests "C tests, sanitizers" asan
run_c_hosts "C hosts, sanitizers" asan
# what waits for long or for real time, and what is about others' programs, ran
# above
run_specs "specs, sanitizers" asan build/asan/tests/lua-host 2 \
  -regextype posix-extended ! -regex "$alone_regex" \
  ! -name 'fault_matrix_*' ! -name 'proxy_spec.lua' \
  ! -name 'breaker_spec.lua' ! -name 'bouncer_*' ! -name 'roles_setup_spec.lua' \
  ! -name 'nginx_*' ! -name 'examples_spec.lua' ! -name 'deaf_peer_spec.lua' \
  ! -name 'demo_spec.lua' ! -name 'failover_*' ! -name 'connect_errors_spec.lua' \
  ! -name 'cli_terminal_spec.lua' ! -name 'migrator_kill_spec.lua' \
  ! -name 'restart_spec.lua' ! -name 'control_spec.lua' \
  ! -name 'observability_spec.lua' \
  ! -path '*/integration/testing_spec.lua'
finish
