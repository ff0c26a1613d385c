#!/usr/bin/env bash
# C hosts, as their authors see the library: installed. The headers compile
# alone, the libraries export nothing else, pkg-config suffices, and the
# examples and tests/host/c_*.c run against a throwaway PostgreSQL.
#
#   tests/host/c_hosts.sh [BUILD]     build/release; build/asan for sanitizers
#
# Prints each failure with its output, and last `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
export LC_ALL=C.UTF-8

top=$PWD
build=${1:-build/release}
work=$(mktemp -d)
root=
trap '[[ -z $root ]] || tests/support/pg.sh destroy "$root"; rm -rf "$work"' EXIT
passed=0
failed=0

check() { # name, command or function...
  local name=$1
  shift
  if "$@" >"$work/out" 2>&1 </dev/null; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "$name:"
    sed 's/^/  /' "$work/out"
  fi
}

die() {
  echo "c_hosts.sh: $*"
  echo "0 passed, 1 failed"
  exit 1
}

# ---- an installed tree ----------------------------------------------------------

cmake --install "$build" --prefix "$work/tree" >"$work/install" 2>&1 ||
  die "cmake --install: $(tail -n 1 "$work/install")"
pc=$(find "$work/tree" -name mtenant.pc)
[[ -n $pc ]] || die "no mtenant.pc was installed"
export PKG_CONFIG_PATH=${pc%/*}
export LD_LIBRARY_PATH=${pc%/*/*}
export LUA_PATH="$work/tree/share/lua/5.4/?.lua;$work/tree/share/lua/5.4/?/init.lua"
export MT_SUITE=$top # where c_suite_lua.c finds tests/host/suite.lua
export LUA_CPATH= # the module comes with the library

sanitize=()
if nm -D "$LD_LIBRARY_PATH/libmtenant.so" | grep __asan_init >/dev/null; then
  sanitize=(-fsanitize=address,undefined -g)
fi
cc=(cc -std=c11 -Wall -Wextra -pedantic -Werror "${sanitize[@]}")

compile() { # source, program, packages...
  local source=$1 program=$2
  shift 2
  # shellcheck disable=SC2046
  "${cc[@]}" "$source" $(pkg-config --cflags --libs "$@") -lev -o "$program"
}

# ---- headers and symbols --------------------------------------------------------

# A file that includes this header and nothing else.
header() { # header, extension, compiler...
  local name=$1 file=$work/header.$2
  shift 2
  printf '#include <%s>\nint main(void) { return mt_check_abi(MT_ABI_VERSION); }\n' \
    "$name" >"$file"
  # shellcheck disable=SC2046
  "$@" -Wall -Wextra -pedantic -Werror -fsyntax-only \
    $(pkg-config --cflags mtenant) "$file"
}

only_ours() { # library
  local others
  others=$(nm -D --defined-only "$1" | awk '{ print $3 }' |
    grep -vE '^(mt_|luaopen_|_init$|_fini$|__odr_asan)')
  echo "$others"
  [[ -z $others ]]
}

# What a header declares is there.
declared_is_exported() {
  local name missing=0
  nm -D --defined-only "$LD_LIBRARY_PATH/libmtenant.so" >"$work/exported"
  for name in $("${cc[@]}" -E -x c "$work/tree/include/mtenant.h" |
    tr '\n' ' ' | sed 's/__attribute__ *((visibility("default")))/\n@/g' |
    sed -n 's/^@[^(]*[ *]\(mt_[a-z_0-9]*\)(.*/\1/p'); do
    grep -q " T $name\$" "$work/exported" && continue
    echo "$name is declared, and not exported"
    missing=1
  done
  return "$missing"
}

for name in mtenant.h mtenant_control.h mtenant_query.h mtenant_lua.h; do
  check "$name as C11" header "$name" c cc -std=c11
  ! command -v c++ >/dev/null ||
    check "$name as C++" header "$name" cc c++ -std=c++11
done
for library in "$LD_LIBRARY_PATH"/libmtenant.so \
  "$LD_LIBRARY_PATH"/libmtenant-lua5.4.so \
  "$work/tree/lib/lua/5.4/mtenant/core.so"; do
  check "symbols of $library" only_ours "$library"
done
check "the header's functions" declared_is_exported

# ---- programs -------------------------------------------------------------------

root=$(tests/support/pg.sh root $$)
{ read -r dir && read -r port; } < <(tests/support/pg.sh create "$root")
[[ -n ${port:-} ]] || die "no PostgreSQL server"
export DATABASE_URL="host=$dir port=$port user=mtenant dbname=mtenant"
tests/support/pg.sh psql "$dir" >"$work/out" 2>&1 <<'END' || die "no schemas"
SET SESSION AUTHORIZATION mtenant;
CREATE SCHEMA tenant_acme;
CREATE TABLE tenant_acme.notes (id serial PRIMARY KEY, body text);
CREATE SCHEMA tenant_globex;
CREATE TABLE tenant_globex.notes (id serial PRIMARY KEY, body text);
END

# The lines of tenants come in any order.
prints() { # what to expect, sorted; program...
  local expected=$1 seen
  shift
  seen=$("$@" 2>&1 | sort)
  [[ $seen = "$expected" ]] && return
  echo "$seen"
  return 1
}

example() { # name, packages..., -- output, arguments...
  local name=$1 packages=() output
  shift
  while [[ $1 != -- ]]; do packages+=("$1") && shift; done
  output=$2
  shift 2
  check "$name compiles" compile "scripts/examples/c/$name.c" "$work/$name" \
    "${packages[@]}"
  check "$name runs" prints "$output" timeout 60 "$work/$name" "$@"
}

example plain mtenant -- "2 tenants
acme: INSERT 0 2
acme: committed
acme: n = 42
acme: nothing = NULL
acme: schema = tenant_acme
globex: INSERT 0 2
globex: committed
globex: n = 42
globex: nothing = NULL
globex: schema = tenant_globex" acme globex
example embed mtenant-lua5.4 lua5.4 -- "acme: tenant_acme, slept
globex: tenant_globex, slept
the host's timer ticked" "$top/scripts/examples/c/policy.lua" acme globex
for source in tests/host/c_*.c; do
  name=$(basename "$source" .c)
  packages=(mtenant)
  [[ $name != *_lua ]] || packages=(mtenant-lua5.4 lua5.4)
  check "$name compiles" compile "$source" "$work/$name" "${packages[@]}"
  # each check prints `ok NAME` or says what is wrong
  timeout -k 10 120 "$work/$name" >"$work/out" 2>&1 </dev/null
  status=$?
  passed=$((passed + $(grep -c '^ok ' "$work/out")))
  if ((status != 0)); then
    failed=$((failed + 1))
    echo "$name: exit status $status"
    sed '/^ok /d; s/^/  /' "$work/out"
  fi
done

echo "$passed passed, $failed failed"
((failed == 0))
