#!/usr/bin/env bash
# Checks the documentation: runs the examples of README.md and docs/, compares
# the reference pages with the code, follows the relative links. The rules are
# in the head of tests/support/docs.lua.
#
#   tests/check_docs.sh [PAGE.md...]   only these pages' examples and links
#
# It needs a build in $MT_BUILD_DIR (build/release) and a PostgreSQL server's
# programs; the server it uses is a throwaway of its own. Prints each failure,
# exit status 1 if there is one.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export LC_ALL=C.UTF-8 TZ=UTC

MT_BUILD_DIR=$(cd "${MT_BUILD_DIR:-build/release}" && pwd) || exit 2
export MT_BUILD_DIR PWD
export LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;$PWD/?.lua;;"
export LUA_CPATH="$MT_BUILD_DIR/lib/?.so;;"

pages=("$@")
((${#pages[@]} > 0)) || pages=(README.md docs/*.md)
exec lua5.4 tests/support/docs.lua "${pages[@]}"
