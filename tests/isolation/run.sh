#!/usr/bin/env bash
# Runs the leak checker twice: as it is, with a random seed, and with the reset
# of connections switched off, where it must find a leak. Prints a line per
# case, the output of those that failed, and `N passed, N failed`.
#
#   tests/isolation/run.sh [--operations=N] [--seed=S]
#
# MT_BUILD_DIR is the build to test (build/release).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

operations=20000
seed=$((RANDOM * 32768 + RANDOM + 1))
for word in "$@"; do
  case $word in
    --operations=?*) operations=${word#*=} ;;
    --seed=?*) seed=${word#*=} ;;
    *) echo "usage: tests/isolation/run.sh [--operations=N] [--seed=S]" >&2
       exit 2 ;;
  esac
done

build=${MT_BUILD_DIR:-build/release}
unset LUA_PATH_5_4 LUA_CPATH_5_4
export LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;"
export LUA_CPATH="$build/lib/?.so;;"
out=$(mktemp)
trap 'rm -f "$out"' EXIT
passed=0
failed=0

report() { # what, is it right?
  if $2; then
    passed=$((passed + 1))
    echo "ok: $1"
  else
    failed=$((failed + 1))
    echo "FAILED: $1"
    sed 's/^/    /' "$out"
  fi
}

# Sets `status`; at least a hundred operations a second are asked for.
checker() { # options...
  timeout -k 10 $((120 + operations / 100)) \
    "$build/bin/mtenant-run" tests/isolation/leaks.lua "$@" >"$out" 2>&1 \
    </dev/null
  status=$?
}

checker --operations="$operations" --seed="$seed"
[ "$status" = 0 ] && right=true || right=false
report "no leak in $operations operations, seed $seed" "$right"

checker --operations="$operations" --seed="$seed" --no-reset
if [ "$status" = 2 ] && grep -q 'not built' "$out"; then
  echo "left out: the reset cannot be switched off in this build"
else
  [ "$status" = 1 ] && grep -q '^LEAK' "$out" && right=true || right=false
  report "a leak is found without the reset, seed $seed" "$right"
fi

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
