#!/usr/bin/env bash
# Runs the tests of the feature `postgres` on a private PostgreSQL server: makes a cluster in a
# temporary folder, starts it on a socket there (no port, nothing of the machine's own servers is
# touched), runs the tests and removes it all.
#
#   crates/experiments/tests/postgres/run.sh                # the conformance and server tests
#   crates/experiments/tests/postgres/run.sh COMMAND...     # COMMAND with EXP_TEST_POSTGRES set
#
# The programs are taken from PG_BIN, the PATH, or /usr/lib/postgresql/VERSION/bin (the newest).
# Started by root, the server runs as the user `postgres` (or PG_USER), since it refuses root.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

bin=${PG_BIN:-}
if [ -z "$bin" ] && found=$(command -v initdb); then
  bin=$(dirname "$(readlink -f "$found")")
fi
if [ -z "$bin" ]; then
  bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
fi
if [ ! -x "$bin/initdb" ] || [ ! -x "$bin/pg_ctl" ]; then
  echo "run.sh: PostgreSQL's initdb and pg_ctl are not in $bin." >&2
  echo "Install the server (Debian: apt-get install postgresql; it need not be started)," >&2
  echo "or name the folder of its programs: PG_BIN=/path/to/bin $0" >&2
  exit 3
fi

user=$(id -un)
as_user=()
if [ "$(id -u)" = 0 ]; then
  user=${PG_USER:-postgres}
  if ! id "$user" >/dev/null 2>&1; then
    echo "run.sh: PostgreSQL refuses to run as root, and there is no user '$user'." >&2
    echo "Run this as another user, or name one: PG_USER=nobody $0" >&2
    exit 3
  fi
  as_user=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
fi

# Short, because the path of a socket is at most 107 bytes.
folder=$(mktemp -d /tmp/exp-pg-XXXXXX)
started=
finish() {
  code=$?
  if [ -n "$started" ]; then
    "${as_user[@]}" "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null || true
  fi
  if [ "$code" != 0 ] && [ -f "$folder/log" ]; then
    echo "run.sh: the end of the server's log:" >&2
    tail -n 20 "$folder/log" >&2
  fi
  rm -rf "$folder"
}
trap finish EXIT
if [ "$(id -u)" = 0 ]; then chown "$user" "$folder"; fi

# Nothing outlives the tests, so nothing need reach the disk.
(
  cd "$folder"
  export LC_ALL=C HOME=$folder
  "${as_user[@]}" "$bin/initdb" -D data --username=exp --auth=trust --encoding=UTF8 \
    --locale=C.UTF-8 --no-sync >initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
  "${as_user[@]}" "$bin/pg_ctl" -D data -l log -w -t 60 \
    -o "-k $folder -c listen_addresses='' -c fsync=off -c max_connections=50" start >/dev/null
) || exit 1
started=yes

export EXP_TEST_POSTGRES="postgresql:///postgres?host=$folder&user=exp"
if [ $# = 0 ]; then
  cargo build -p experiments --features postgres --example toy_trial
  set -- cargo test -p experiments --features postgres \
    --test store_conformance --test store_postgres -- --nocapture
fi
"$@"
