#!/usr/bin/env bash
# Starts a Slurm of its own (start.sh), sends it an array of a toy study, cancels a task midway, sends
# it again, merges, compares with a local run, and stops the Slurm. Arguments choose what Cargo
# selects; without any it is `--package experiments`.
#
#   crates/experiments/tests/slurm/run.sh
#
# Exit code 77: Slurm is not to be had here; nothing was tested.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../../.."
[ $# -gt 0 ] || set -- --package experiments

folder=$(mktemp -d "${TMPDIR:-/tmp}/exp-slurm.XXXXXX")
finish() {
    "$here/stop.sh" "$folder" || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
exports=$("$here/start.sh" "$folder")
eval "$exports"
"${CARGO:-cargo}" build "$@" --example toy_trial
"${CARGO:-cargo}" test "$@" --test slurm -- --ignored --nocapture
