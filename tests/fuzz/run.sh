#!/usr/bin/env bash
# Runs the fuzz targets one after the other. Prints the seed, one line per
# target, what a failure printed and how to run its input again, and at the
# end `N passed, N failed`; exit status 1 if anything failed.
#
#   tests/fuzz/run.sh [--runs=N] [--peer-runs=N] [--seed=S] [target...]
#
# N executions of each target, 1,000,000 unless told; --peer-runs for the one
# that talks over a socket, which is slower. Targets: the files fuzz_<target>.c
# here, all unless named. Inputs found on the way stay in
# build/fuzz/fuzz/found/<target> and are where the next run goes on.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
export LC_ALL=C.UTF-8

runs=1000000
peer_runs=
seed=$((RANDOM * 32768 + RANDOM + 1))
targets=()
for arg; do
  case $arg in
    --runs=*) runs=${arg#*=} ;;
    --peer-runs=*) peer_runs=${arg#*=} ;;
    --seed=*) seed=${arg#*=} ;;
    -*)
      sed -n 's/^#   //p' "$0" >&2
      exit 2
      ;;
    *) targets+=("$arg") ;;
  esac
done
if ((${#targets[@]} == 0)); then
  for source in tests/fuzz/fuzz_*.c; do
    source=${source##*/fuzz_}
    targets+=("${source%.c}")
  done
fi

export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1 LSAN_OPTIONS=print_suppressions=0
dir=build/fuzz/fuzz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

build() {
  cmake --preset fuzz && cmake --build --preset fuzz
}

run() { # target
  local target=$1 n=$runs log=$work/log options crash start ms count
  local program=$dir/fuzz_$target
  [[ $target != peer ]] || n=${peer_runs:-$runs}
  mkdir -p "$dir/found/$target" "$dir/crashes"
  options=(-seed="$seed" -runs="$n" -max_len=1024 -timeout=10
    -rss_limit_mb=2048 -print_final_stats=1
    "-artifact_prefix=$dir/crashes/$target-")
  [[ ! -f tests/fuzz/$target.dict ]] ||
    options+=("-dict=tests/fuzz/$target.dict")
  start=$(date +%s%3N)
  if "$program" "${options[@]}" "$dir/found/$target" \
    "tests/fuzz/corpus/$target" >"$log" 2>&1 </dev/null; then
    ms=$(($(date +%s%3N) - start + 1))
    count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf '%-10s ok      %8d executions, %d exec/s\n' "$target" "$count" \
      $((count * 1000 / ms))
    passed=$((passed + 1))
    return
  fi
  failed=$((failed + 1))
  printf '%-10s FAILED\n' "$target"
  grep -vE '^(INFO|#|stat::|Dictionary|	)' "$log" | head -n 60 | sed 's/^/    /'
  crash=$(sed -n 's/.*Test unit written to //p' "$log" | head -n 1)
  [[ -z $crash ]] || echo "    again: $program $crash"
}

if ! build >"$work/build" 2>&1; then
  sed 's/^/    /' "$work/build"
  echo "0 passed, 1 failed"
  exit 1
fi
echo "seed $seed"
for target in "${targets[@]}"; do run "$target"; done
echo "$passed passed, $failed failed"
((failed == 0))
