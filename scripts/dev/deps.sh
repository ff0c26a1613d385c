# Debian packages for the scripts here. To be sourced by bash.
#
#   mtenant_install_deps build   what building and a throwaway server need
#   mtenant_install_deps test    what all checks need, too
#
# Installs what is missing when root calls it, after saying so on stderr; else
# says which are missing and returns 1. What apt prints is shown when it fails.
# Where there is no dpkg it does nothing: the build tells what it does not find.
# shellcheck shell=bash

# CMake asks for cmocka wherever the tests are part of the build.
mtenant_build_packages=(
  gcc libc6-dev cmake ninja-build pkg-config libpq-dev libev-dev libc-ares-dev
  uthash-dev liblua5.4-dev libcmocka-dev postgresql
  libpg-query-dev libssl-dev lua-filesystem lua-argparse lua-cjson
  libmicrohttpd-dev lua-socket
)
mtenant_test_packages=(
  lua5.4 lua-busted lua-check lua-cjson lua-argparse clang-format-14 valgrind pgbouncer
  clang libclang-rt-14-dev openssl
  libluajit2-5.1-dev nginx nginx-dev libnginx-mod-http-lua lua-resty-core
  lua-cqueues lua-luv lua-http lua-socket lua-logging wrk curl prometheus
)

mtenant_missing_packages() {
  local package installed
  installed=$(dpkg-query -W -f '${Package} ${Status}\n' "$@" 2>/dev/null |
    sed -n 's/ install ok installed$//p')
  for package; do
    grep -qxF -- "$package" <<<"$installed" || echo "$package"
  done
}

mtenant_apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"
}

mtenant_install() (
  echo "installing packages: $*" >&2
  log=$(mktemp) || exit 1
  trap 'rm -f "$log"' EXIT
  { mtenant_apt update && mtenant_apt install -y --no-install-recommends "$@"; } \
    >"$log" 2>&1 </dev/null && exit
  cat "$log" >&2
  exit 1
)

mtenant_install_deps() { # build or test
  local packages=("${mtenant_build_packages[@]}") missing
  [[ $1 != test ]] || packages+=("${mtenant_test_packages[@]}")
  command -v dpkg-query >/dev/null || return 0
  mapfile -t missing < <(mtenant_missing_packages "${packages[@]}")
  ((${#missing[@]} > 0)) || return 0
  if [[ $(id -u) != 0 ]]; then
    echo "missing packages, to be installed by root: ${missing[*]}" >&2
    return 1
  fi
  mtenant_install "${missing[@]}"
}
