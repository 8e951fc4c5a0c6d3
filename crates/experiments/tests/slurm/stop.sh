#!/usr/bin/env bash
# Ends what start.sh started in FOLDER, by its pid files, and nothing else. Does nothing where
# nothing runs, so it may be called twice, and after a kill.
set -euo pipefail
[ $# = 1 ] || { echo "usage: stop.sh FOLDER" >&2; exit 2; }
folder=$1
[ -d "$folder" ] || exit 0

# A pid file may be older than a restart of the machine: the process must also be what it was.
is_ours() { # is_ours PID PROGRAM
    # A process that has ended and was not waited for has a name but no program.
    [ "$(cat "/proc/$1/comm" 2>/dev/null || true)" = "$2" ] && readlink "/proc/$1/exe" >/dev/null
}
end() { # end PIDFILE PROGRAM
    local pid
    pid=$(cat "$1" 2>/dev/null || true)
    case $pid in '' | *[!0-9]*) return 0 ;; esac
    if is_ours "$pid" "$2"; then
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            is_ours "$pid" "$2" || break
            sleep 0.1
        done
        is_ours "$pid" "$2" && kill -KILL "$pid" 2>/dev/null || true
    fi
    rm -f "$1"
}

# Jobs first: the node daemon would leave their processes running.
if [ -f "$folder/slurm.conf" ] && is_ours "$(cat "$folder/slurmctld.pid" 2>/dev/null || echo 0)" slurmctld; then
    export SLURM_CONF="$folder/slurm.conf"
    timeout 10 scancel --user=root --quiet 2>/dev/null || true
    for _ in $(seq 50); do
        [ -n "$(timeout 5 squeue --noheader 2>/dev/null || true)" ] || break
        sleep 0.2
    done
fi
end "$folder/slurmd.pid" slurmd
end "$folder/slurmctld.pid" slurmctld
end "$folder/munge/munged.pid" munged
# Steps of a node daemon that was killed: they carry this folder's configuration and a job's number.
for environment in /proc/[0-9]*/environ; do
    grep -qszxF "SLURM_CONF=$folder/slurm.conf" "$environment" || continue
    pid=${environment#/proc/} && pid=${pid%/environ}
    if is_ours "$pid" slurmstepd || grep -qsz '^SLURM_JOB_ID=' "$environment"; then
        kill -KILL "$pid" 2>/dev/null || true
    fi
done
# State of an ended controller would bring its jobs back.
rm -rf "$folder/state" "$folder/spool" "$folder/munge"
