#!/bin/bash
# pg.sh: throwaway PostgreSQL servers for tests, behind pg.lua and pg.h.
#
#   pg.sh root PID                   prints a new private directory ROOT, which
#                                    goes away with everything in it when the
#                                    process PID does
#   pg.sh create ROOT [NAME=VALUE..] starts a new server with these settings;
#                                    prints its directory DIR and its port.
#                                    tcp=true: on 127.0.0.1 as well.
#                                    $MT_PG_HBA replaces pg_hba.conf.
#   pg.sh standby DIR                starts a streaming standby of a server;
#                                    prints its directory and its port, which
#                                    is on its unix socket
#   pg.sh promote DIR
#   pg.sh tls DIR                    gives a server that runs a certificate
#   pg.sh start DIR
#   pg.sh stop|restart DIR [MODE]    smart, fast (default), immediate, kill
#   pg.sh psql DIR [ARG..]           SQL from standard input, as the superuser
#   pg.sh remove DIR
#   pg.sh bouncer DIR [NAME=VALUE..] starts a PgBouncer in transaction mode, one
#                                    connection wide, before a server; prints
#                                    its directory BDIR, which has its socket
#                                    (port 6432) and its log; connect_query is
#                                    what its connections begin with
#   pg.sh unbounce BDIR
#   pg.sh destroy ROOT
#
# Servers run as the user `postgres` or `nobody` when called by root. The
# superuser is `postgres`; the role and the database `mtenant` are ordinary.
set -euo pipefail
umask 077

die() {
  echo "pg.sh: $*" >&2
  exit 1
}

# A server or a watcher must not keep the pipes and sockets of a test open.
close_inherited() {
  local fd
  for fd in "/proc/$BASHPID/fd"/*; do
    fd=${fd##*/}
    if [[ $fd =~ ^[0-9]+$ ]] && ((fd > 2 && fd < 255)); then
      eval "exec $fd>&-" 2>/dev/null || true
    fi
  done
}

clean_environment() {
  local name
  for name in $(compgen -e PG || true); do
    [[ $name = PG_BINDIR ]] || unset "$name"
  done
  export LC_ALL=C
}

choose_user() {
  as_user=()
  [[ $(id -u) = 0 ]] || return 0
  local user
  for user in postgres nobody; do
    if id "$user" >/dev/null 2>&1; then
      as_user=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --init-groups)
      return 0
    fi
  done
  die "PostgreSQL does not run as root, and there is no other user for it"
}

program_dirs() {
  if [[ -n ${PG_BINDIR:-} ]]; then
    echo "$PG_BINDIR"
    return 0
  fi
  pg_config --bindir 2>/dev/null || true
  printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV
  dirname "$(command -v initdb || echo none)"
}

find_programs() {
  local dir
  while read -r dir; do
    if [[ -x $dir/initdb && -x $dir/postgres ]]; then
      bin=$dir
      return 0
    fi
  done < <(program_dirs)
  die "no PostgreSQL server is installed"
}

# The last reason in a log, for a message of one line.
reason_in() {
  { grep -E 'PANIC|FATAL|ERROR|error:|could not' "$1" || tail -n 1 "$1"; } \
    2>/dev/null | tail -n 1
}

# A process that nobody has waited for yet is as good as gone.
is_alive() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  stat=${stat##*) }
  [[ ${stat:0:1} != [ZX] ]]
}

server_pid() {
  local pid
  pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) || return 1
  is_alive "$pid" && echo "$pid"
}

# Every process of a server has its data directory as working directory.
processes_of() {
  { find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1/data" || true; } \
    2>/dev/null | sed 's|^/proc/||; s|/cwd$||'
}

await_gone() {
  local i
  for ((i = 0; i < $2; i++)); do
    is_alive "$1" || return 0
    sleep 0.01
  done
  return 1
}

kill_all() {
  local pids i
  for ((i = 0; i < 100; i++)); do
    pids=$(processes_of "$1")
    [[ -n $pids ]] || return 0
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.01
  done
}

# What a server that was killed leaves behind: processes, a segment of shared
# memory, lock files that name a process which nobody may have waited for.
clear_crash() {
  local id
  kill_all "$1"
  id=$(awk 'NR == 7 { print $2 }' "$1/data/postmaster.pid" 2>/dev/null || true)
  [[ -z $id ]] || ipcrm -m "$id" 2>/dev/null || true
  rm -f "$1/data/postmaster.pid" "$1"/.s.PGSQL.*
}

settings() {
  local setting value
  cat <<END
listen_addresses = ''
max_connections = 100
fsync = off
full_page_writes = off
dynamic_shared_memory_type = mmap
unix_socket_directories = '$1'
END
  shift
  for setting in "$@"; do
    value=${setting#*=}
    printf "%s = '%s'\n" "${setting%%=*}" "${value//\'/\'\'}"
  done
}

make_template() {
  local dir=$1/template
  "${as_user[@]}" mkdir "$dir"
  cd "$dir" # the caller's may be closed to the server's user
  "${as_user[@]}" "$bin/initdb" -D "$dir/data" -U postgres -A trust --no-sync \
    --locale=C -E UTF8 >"$1/initdb.log" 2>&1 ||
    die "initdb failed: $(reason_in "$1/initdb.log")"
  printf '%s\n' 'CREATE ROLE mtenant LOGIN NOSUPERUSER' \
    'CREATE DATABASE mtenant OWNER mtenant' |
    "${as_user[@]}" "$bin/postgres" --single -c fsync=off -D "$dir/data" \
      postgres >"$1/single.log" 2>&1 ||
    die "cannot create the database: $(reason_in "$1/single.log")"
}

is_port_taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

choose_port() {
  port=$((20000 + RANDOM % 12000))
  while is_port_taken "$port"; do
    port=$((20000 + RANDOM % 12000))
  done
}

await_ready() {
  local dir=$1 pid=$2 i file
  for ((i = 0; i < 6000; i++)); do
    is_alive "$pid" || return 1
    file=()
    { mapfile -t file <"$dir/data/postmaster.pid"; } 2>/dev/null || true
    if [[ ${file[0]:-} = "$pid" && ${file[7]:-} = ready* ]]; then
      return 0
    fi
    sleep 0.005
  done
  return 1
}

start_server() {
  local dir=$1 pid
  [[ -d $dir/data ]] || die "there is no server in $dir"
  server_pid "$dir" >/dev/null && return 0
  clear_crash "$dir"
  cd "$dir"
  : >"$dir/start.log"
  setsid "${as_user[@]}" "$bin/postgres" -D "$dir/data" \
    >>"$dir/start.log" 2>&1 </dev/null &
  pid=$!
  await_ready "$dir" "$pid"
}

start() {
  start_server "$1" ||
    die "the server did not start: $(reason_in "$1/start.log")"
}

stop() {
  local dir=$1 mode=${2:-fast} pid sig
  case $mode in
    smart) sig=TERM ;;
    fast) sig=INT ;;
    immediate) sig=QUIT ;;
    kill) sig=KILL ;;
    *) die "unknown mode $mode" ;;
  esac
  pid=$(server_pid "$dir") || return 0
  kill "-$sig" "$pid" 2>/dev/null || true
  await_gone "$pid" 1000 || die "the server does not stop"
  [[ $mode != kill ]] || clear_crash "$dir"
}

create() {
  local root=$1 dir tcp='' i
  shift
  [[ $root = */mtenant-test-?????? ]] || die "not a test directory: $root"
  [[ -d $root/template ]] || make_template "$root"
  if [[ ${1:-} = tcp=* ]]; then
    tcp=${1#tcp=}
    shift
  fi
  dir=$("${as_user[@]}" mktemp -d "$root/sXXXXXX")
  "${as_user[@]}" cp -a "$root/template/data" "$dir/data"
  settings "$dir" "$@" >>"$dir/data/postgresql.conf"
  if [[ -n ${MT_PG_HBA:-} ]]; then
    printf '%s\n' "$MT_PG_HBA" >"$dir/data/pg_hba.conf"
  fi
  port=5432
  for ((i = 0; i < 5; i++)); do
    if [[ $tcp = true ]]; then
      choose_port
      printf "listen_addresses = '127.0.0.1'\nport = %s\n" "$port" \
        >>"$dir/data/postgresql.conf"
    fi
    echo "$port" >"$dir/port"
    if start_server "$dir"; then
      printf '%s\n%s\n' "$dir" "$port"
      return 0
    fi
    # Somebody may have taken the port first; everything else is final.
    grep -q 'could not bind' "$dir/start.log" || break
  done
  die "the server did not start: $(reason_in "$dir/start.log")"
}

# A server like any other, but for where its data comes from.
standby() {
  local primary=$1 dir
  [[ $primary = */mtenant-test-*/s?????? ]] || die "not a test server: $primary"
  dir=$("${as_user[@]}" mktemp -d "${primary%/*}/sXXXXXX")
  cd "$dir"
  "${as_user[@]}" "$bin/pg_basebackup" -D "$dir/data" -h "$primary" \
    -p "$(<"$primary/port")" -U postgres -R -c fast -N >"$dir/backup.log" 2>&1 ||
    die "no base backup: $(reason_in "$dir/backup.log")"
  printf "unix_socket_directories = '%s'\nlisten_addresses = ''\nport = 5432\n" \
    "$dir" >>"$dir/data/postgresql.conf"
  echo 5432 >"$dir/port"
  start "$dir"
  printf '%s\n5432\n' "$dir"
}

promote() {
  cd "$1"
  "${as_user[@]}" "$bin/pg_ctl" promote -w -t 30 -D "$1/data" >/dev/null ||
    die "the standby was not promoted"
}

tls() {
  local dir=$1 pid
  command -v openssl >/dev/null || die "openssl is not installed"
  cd "$dir"
  "${as_user[@]}" openssl req -x509 -newkey rsa:2048 -nodes -days 2 \
    -subj /CN=localhost -keyout "$dir/data/server.key" \
    -out "$dir/data/server.crt" >"$dir/openssl.log" 2>&1 ||
    die "no certificate: $(reason_in "$dir/openssl.log")"
  chmod 600 "$dir/data/server.key"
  echo 'ssl = on' >>"$dir/data/postgresql.conf"
  pid=$(server_pid "$dir") || die "the server does not run"
  kill -HUP "$pid"
}

bouncer_settings() {
  local setting begin=
  for setting in "${@:3}"; do
    [[ $setting != connect_query=* ]] || begin="connect_query='${setting#*=}'"
  done
  cat <<END
[databases]
mtenant = host=$2 port=$(<"$2/port") $begin
[pgbouncer]
unix_socket_dir = $1
listen_port = 6432
logfile = $1/log
auth_type = trust
auth_file = $1/users
admin_users = postgres
pool_mode = transaction
default_pool_size = 1
END
  shift 2
  for setting in "$@"; do
    [[ $setting = connect_query=* ]] || echo "${setting%%=*} = ${setting#*=}"
  done
}

# The file is there a moment before anybody listens.
listens() { # path of a socket
  grep -q " 00010000 .* $1\$" /proc/net/unix
}

# It writes its log by itself, so what it says on stderr is not needed.
bouncer() {
  local server=$1 dir pid i
  shift
  command -v pgbouncer >/dev/null || die "PgBouncer is not installed"
  dir=$("${as_user[@]}" mktemp -d "$server/bXXXXXX")
  bouncer_settings "$dir" "$server" "$@" >"$dir/ini"
  printf '"%s" ""\n' mtenant postgres >"$dir/users"
  chmod 644 "$dir/ini" "$dir/users"
  cd "$dir"
  setsid "${as_user[@]}" "$(command -v pgbouncer)" -q "$dir/ini" \
    >/dev/null 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$dir/pid"
  for ((i = 0; i < 1000; i++)); do
    is_alive "$pid" || break
    listens "$dir/.s.PGSQL.6432" && echo "$dir" && return 0
    sleep 0.01
  done
  die "PgBouncer did not start: $(reason_in "$dir/log")"
}

unbounce() {
  local dir=$1 pid
  [[ $dir = */mtenant-test-*/s??????/b?????? ]] || die "not a test pooler: $dir"
  [[ -d $dir ]] || return 0
  pid=$(<"$dir/pid")
  kill -INT "$pid" 2>/dev/null || true
  await_gone "$pid" 200 || kill -KILL "$pid" 2>/dev/null || true
  rm -rf "$dir"
}

remove() {
  local dir=$1 pid pooler
  [[ $dir = */mtenant-test-*/s?????? ]] || die "not a test server: $dir"
  for pooler in "$dir"/b??????; do
    [[ ! -d $pooler ]] || unbounce "$pooler"
  done
  if pid=$(server_pid "$dir"); then
    kill -QUIT "$pid" 2>/dev/null || true
    await_gone "$pid" 200 || true
  fi
  clear_crash "$dir"
  [[ ! -d $dir/disk ]] || umount "$dir/disk" 2>/dev/null || true # a spec's own
  rm -rf "$dir"
}

destroy() {
  local root=$1 dir
  [[ $root = */mtenant-test-?????? ]] || die "not a test directory: $root"
  [[ -d $root ]] || return 0
  cd /
  for dir in "$root"/s??????; do
    [[ ! -d $dir ]] || remove "$dir"
  done
  rm -rf "$root"
}

watch() {
  while is_alive "$2"; do
    [[ -d $1 ]] || return 0
    sleep 0.1
  done
  destroy "$1"
}

# In TMPDIR if a server can live there: its user gets in, and the path of a
# socket is short enough and needs no quoting.
make_root() {
  local dir='' tmp=${TMPDIR:-/tmp}
  if [[ $tmp =~ ^/[A-Za-z0-9/._-]{1,60}$ ]]; then
    dir=$("${as_user[@]}" mktemp -d "$tmp/mtenant-test-XXXXXX" 2>/dev/null) ||
      dir=''
  fi
  [[ -n $dir ]] || dir=$("${as_user[@]}" mktemp -d /tmp/mtenant-test-XXXXXX)
  setsid bash "$0" watch "$dir" "$1" </dev/null >/dev/null 2>&1 &
  echo "$dir"
}

run_psql() {
  local dir=$1 psql=psql
  shift
  [[ ! -x $bin/psql ]] || psql=$bin/psql
  exec "$psql" -XAtq -v ON_ERROR_STOP=1 -h "$dir" -p "$(<"$dir/port")" \
    -U postgres -d mtenant -f - "$@"
}

main() {
  local command=${1:-}
  [[ $# -ge 2 ]] || die "usage: pg.sh COMMAND ARG..; see its first lines"
  shift
  close_inherited
  clean_environment
  choose_user
  find_programs
  case $command in
    root) make_root "$1" ;;
    watch) watch "$1" "$2" ;;
    create | standby | promote | tls | start | stop | remove | destroy | bouncer | \
      unbounce)
      "$command" "$@"
      ;;
    restart)
      stop "$@"
      start "$1"
      ;;
    psql) run_psql "$@" ;;
    *) die "unknown command $command" ;;
  esac
}

main "$@"
