#!/usr/bin/env bash
# Builds what the demo needs and runs it; options are scripts/demo.lua's, see
# --help. On Debian, root installs the packages that are missing; others are
# told which. Says nothing of its own unless there is something to do.
set -uo pipefail
unset CDPATH
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=scripts/dev/deps.sh
source scripts/dev/deps.sh

# The tests' programs are left out: they take longest.
build() {
  cmake --preset release && cmake --build --preset release --target mtenant_run
}

build_quietly() (
  [[ -x build/release/bin/mtenant-run ]] || echo "building" >&2
  log=$(mktemp) || exit 1
  trap 'rm -f "$log"' EXIT
  build >"$log" 2>&1 </dev/null && exit
  cat "$log" >&2
  exit 1
)

mtenant_install_deps build && build_quietly || exit 1
exec build/release/bin/mtenant-run scripts/demo.lua "$@"
