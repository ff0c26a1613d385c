#!/usr/bin/env bash
# Databases of drizzle-multitenant continued by mtenant, and back. See README.md.
#
#   tests/compat/run.sh [directory where its packages are, or are to be]
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
packages=${1:-$(mktemp -d)}
work=$(mktemp -d)
trap 'rm -rf "$work"; [[ -n ${1:-} ]] || rm -rf "$packages"' EXIT

if [[ ! -d $packages/node_modules/drizzle-multitenant ]]; then
  npm install --prefix "$packages" --no-audit --no-fund --silent \
    drizzle-multitenant@1.3.5 drizzle-orm@0.45.4 pg@8.23.1
fi
ln -s "$packages/node_modules" "$work/node_modules"
cp "$top/tests/compat/theirs.mjs" "$work"

COMPAT_WORK=$work timeout 120 \
  "$top/build/release/bin/mtenant-run" --pg "$top/tests/compat/ours.lua"
