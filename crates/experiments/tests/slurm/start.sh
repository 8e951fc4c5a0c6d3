#!/usr/bin/env bash
# Starts a Slurm of its own on this machine: munged, a controller and one node daemon, on free ports
# of 127.0.0.1, with every file below one folder. It neither reads nor disturbs a Slurm or a munge
# that is installed and running here.
#
#   eval "$(crates/experiments/tests/slurm/start.sh FOLDER)"   # exports SLURM_CONF for sbatch & co.
#   crates/experiments/tests/slurm/stop.sh FOLDER
#
# Slurm and munge are installed first where they are missing: with apt, as root on Debian.
# Exit code 77: not to be had here (not root, or missing and not Debian); 1: it should have worked.
# SLURM_TEST_PROCTRACK: how Slurm finds the processes of a task; default proctrack/pgid.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

say() { echo "slurm: $*" >&2; }
unavailable() { say "not started: $*"; exit 77; }

[ $# = 1 ] || { say "usage: start.sh FOLDER (an absolute path for its files, made if missing)"; exit 2; }
folder=$1
case $folder in /*) ;; *) say "FOLDER: expected an absolute path, found '$folder'"; exit 2 ;; esac

PATH=$PATH:/usr/sbin:/sbin
missing() {
    for program in munged slurmctld slurmd sbatch squeue scancel scontrol sinfo; do
        command -v "$program" >/dev/null 2>&1 || { echo "$program"; return; }
    done
}
[ "$(id -u)" = 0 ] || unavailable "the node daemon starts tasks as their users and must be root"
if [ -n "$(missing)" ]; then
    if ! command -v apt-get >/dev/null 2>&1 || [ ! -f /etc/debian_version ]; then
        unavailable "$(missing) is missing; install Slurm and munge (Debian: apt-get install slurm-wlm munge)"
    fi
    say "installing slurm-wlm and munge"
    log=$(mktemp)
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
        --no-install-recommends slurm-wlm munge; } >"$log" 2>&1; then
        cat "$log" >&2
        say "apt-get install slurm-wlm munge failed"
        exit 1
    fi
    rm -f "$log"
    [ -z "$(missing)" ] || { say "$(missing) is still missing after the installation"; exit 1; }
fi

# What an earlier start left in this folder, also after a kill.
"$here/stop.sh" "$folder"
mkdir -p "$folder"
chmod 755 "$folder"
mkdir -p "$folder"/{munge,state,spool,log}
# munged refuses a folder that others may write to.
chmod 700 "$folder/munge"
chmod 711 "$folder"

# Ports that nobody listens on.
free_port() {
    local port try
    for try in $(seq 200); do
        port=$((20000 + RANDOM % 10000))
        if [ "$port" != "${1:-}" ] && ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    say "no free port after $try tries"
    return 1
}
controller_port=$(free_port)
node_port=$(free_port "$controller_port")

(umask 077 && head -c 1024 /dev/urandom >"$folder/munge/munge.key")
munged --force --key-file="$folder/munge/munge.key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/munged.pid" --log-file="$folder/munge/munged.log" \
    --seed-file="$folder/munge/munged.seed" 2>"$folder/log/munged.start" ||
    { cat "$folder/log/munged.start" >&2; say "munged did not start"; exit 1; }

# Four CPUs whatever the machine has, so that tasks of an array run side by side. The limits on
# waiting are short because everything is on one machine.
cat >"$folder/slurm.conf" <<CONF
ClusterName=exp-test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldAddr=127.0.0.1
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=${SLURM_TEST_PROCTRACK:-proctrack/pgid}
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=15
MinJobAge=300
ReturnToService=2
SlurmctldTimeout=300
SlurmdTimeout=300
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=3000 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"

fail() {
    say "$*"
    tail -n 30 "$folder"/log/*.log >&2 || true
    "$here/stop.sh" "$folder"
    exit 1
}
slurmctld -i 2>"$folder/log/slurmctld.start" || fail "slurmctld did not start: $(cat "$folder/log/slurmctld.start")"
slurmd -N localhost 2>"$folder/log/slurmd.start" || fail "slurmd did not start: $(cat "$folder/log/slurmd.start")"

for _ in $(seq 150); do
    if [ "$(timeout 5 sinfo --noheader --format=%T 2>/dev/null || true)" = idle ]; then
        say "up: $(sinfo --version), ports $controller_port and $node_port, files in $folder"
        printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
        exit 0
    fi
    sleep 0.2
done
fail "the node was not idle after 30 s: $(sinfo 2>&1 || true)"
