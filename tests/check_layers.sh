#!/bin/sh
# Checks the house rules that a compiler doesn't: a file of src/ includes only
# its own layer or one to its left, outside libraries stay in their layer, and
# no file grows beyond 500 lines without saying why in its first ten. Prints
# each violation; exit status 1 if there is one.
set -u
cd "$(dirname "$0")/.." || exit 2

layers="base reactor pg pool tenant lua run"
violations=$(mktemp) || exit 2
trap 'rm -f "$violations"' EXIT

violation() { # file, what
  echo "$1: $2" >>"$violations"
}

rank() { # layer: its place in $layers, or nothing
  n=0
  for layer in $layers; do
    n=$((n + 1))
    if [ "$layer" = "$1" ]; then
      echo "$n"
      return
    fi
  done
}

includes() { # file: the name in each #include, with its quotes or brackets
  sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*\([<"][^>"]*\)[>"].*/\1/p' "$1"
}

check_internal() { # file, its layer, the included path
  file=$1 layer=$2 path=$3
  case $path in
    mtenant.h | mtenant_control.h | mtenant_query.h | mtenant_lua.h) return ;;
    */*) target=${path%%/*} ;;
    *)
      violation "$file" "includes \"$path\" without its layer"
      return
      ;;
  esac
  if [ -z "$(rank "$target")" ]; then
    violation "$file" "includes \"$path\", which is in no layer"
  elif [ "$(rank "$target")" -gt "$(rank "$layer")" ]; then
    violation "$file" "layer $layer includes \"$path\" from its right"
  fi
}

check_external() { # file, its layer, the included name
  file=$1 layer=$2 name=$3
  case $name in
    libpq-fe.h | libpq/* | postgres_ext.h | pg_config*.h | ares.h | ares_*.h)
      [ "$layer" = pg ] || violation "$file" "only pg may include <$name>"
      ;;
    pg_query.h)
      [ "$file" = src/lua/sqlfile.c ] ||
        violation "$file" "only src/lua/sqlfile.c may include <$name>"
      ;;
    openssl/*)
      [ "$file" = src/lua/crypto.c ] ||
        violation "$file" "only src/lua/crypto.c may include <$name>"
      ;;
    microhttpd.h)
      [ "$file" = src/lua/admin_http.c ] ||
        violation "$file" "only src/lua/admin_http.c may include <$name>"
      ;;
    ev.h)
      [ "$file" = src/reactor/reactor_ev.c ] ||
        violation "$file" "only src/reactor/reactor_ev.c may include <$name>"
      ;;
    lua.h | lauxlib.h | lualib.h | luaconf.h | luajit.h | lua5.*/*)
      [ "$layer" = lua ] || [ "$layer" = run ] ||
        violation "$file" "only lua and run may include <$name>"
      ;;
  esac
}

check_source() { # a .c or .h file of src/
  file=$1
  layer=${file#src/}
  case $layer in
    */*) layer=${layer%%/*} ;;
    *) layer=base ;; # src/mtenant.h stands left of all layers
  esac
  if [ -z "$(rank "$layer")" ]; then
    violation "$file" "is in no layer"
    return
  fi
  for include in $(includes "$file"); do
    case $include in
      '<'*) check_external "$file" "$layer" "${include#<}" ;;
      *)
        check_external "$file" "$layer" "${include#\"}"
        check_internal "$file" "$layer" "${include#\"}"
        ;;
    esac
  done
  if [ "$file" != src/lua/compat.h ] && grep -q LUA_VERSION_NUM "$file"; then
    violation "$file" "LUA_VERSION_NUM belongs in src/lua/compat.h"
  fi
}

check_length() { # any file of ours
  lines=$(wc -l <"$1")
  [ "$lines" -le 500 ] && return
  head -n 10 "$1" | grep -q "over 500 lines:" && return
  violation "$1" "has $lines lines, and doesn't say why"
}

count=0
for file in $(find src -name '*.[ch]' | sort); do
  check_source "$file"
done
for file in $(find src lua scripts tests -type f \
  \( -name '*.[ch]' -o -name '*.lua' -o -name '*.sh' \) 2>/dev/null | sort); do
  check_length "$file"
  count=$((count + 1))
done

cat "$violations"
bad=$(wc -l <"$violations")
echo "$count files checked, $bad violations"
[ "$bad" -eq 0 ]
