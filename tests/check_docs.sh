#!/usr/bin/env bash
# Checks the documentation: runs the examples of README.md and docs/, compares
# the reference pages with the code, follows the relative links. The rules are
# in the head of tests/support/docs.lua.
#
#   tests/check_docs.sh [PAGE.md...]   only these pages
#
# It needs a build in $MT_BUILD_DIR (build/release) and the programs of a
# PostgreSQL server; the server it uses is a throwaway of its own. Prints each
# failure, exit status 1 if there is one. With MT_DOCS_NO_EXAMPLES=1 nothing of
# the pages is run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export LC_ALL=C.UTF-8 TZ=UTC

MT_BUILD_DIR=$(cd "${MT_BUILD_DIR:-build/release}" && pwd) || exit 2
export MT_BUILD_DIR PWD
export LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;$PWD/?.lua;;"
export LUA_CPATH="$MT_BUILD_DIR/lib/?.so;;"

required=(README.md docs/getting-started.md docs/configuration.md
  docs/retry.md docs/api-reference.md docs/embedding.md docs/embedding-c.md docs/embedding-nginx.md docs/embedding-cqueues.md docs/embedding-luv.md docs/pgbouncer.md docs/fairness.md docs/routing.md docs/strategies.md docs/read-replicas.md docs/operations.md docs/failover.md docs/health.md docs/admin.md docs/observability.md docs/logging.md
  docs/testing-policies.md docs/cli.md docs/migrations.md docs/migration-formats.md
  docs/troubleshooting.md docs/porting-from-drizzle-multitenant.md
  docs/design.md)
missing=0
for page in "${required[@]}"; do
  [[ -f $page ]] || { echo "$page is missing" && missing=1; }
done
pages=("$@")
((${#pages[@]} > 0)) || pages=(README.md docs/*.md)
lua5.4 tests/support/docs.lua "${pages[@]}" && ((missing == 0))
