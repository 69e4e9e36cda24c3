#!/usr/bin/env bash
# Runs simulated clusters (src/simulation): each seed is one run, and the same one each time.
#
#   scripts/simulate.sh [--seeds N] [--from S] [--jobs J]   so many seeds, beginning with this one (100 from 1), on J cores (1)
#   scripts/simulate.sh --seed S                            one, with everything that happened
#
# Ends with a line for each job that says what was run; the first seed that fails is named with the command that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    printf 'simulate: %s\n' "$*" >&2
    exit 2
}

seeds=100 from=1 jobs=1
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || die "$1 needs a number"
    case $2 in '' | *[!0-9]*) die "$1 needs a number, not \"$2\"" ;; esac
    case $1 in
        --seeds) seeds=$2 ;;
        --from) from=$2 ;;
        --seed) seeds=1 from=$2 ;;
        --jobs) jobs=$2 ;;
        *) die "unknown: $1" ;;
    esac
    shift 2
done
if [ "$jobs" = 0 ] || [ "$seeds" -lt "$jobs" ]; then die "each of the $jobs jobs needs a seed"; fi

# RUSTFLAGS in the environment would take the place of .cargo/config.toml, which the simulator needs.
unset RUSTFLAGS
test=(cargo test --quiet --locked --profile simulation --lib)
"${test[@]}" --no-run
# The files beside the simulated disks are of no use afterwards, and a real disk would be waited for.
[ -w /dev/shm ] && export TMPDIR=/dev/shm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# run JOB FIRST COUNT: its last line has to say that the seeds held, so that a test that is not found is no success.
run() {
    NARVANA_SEED=$2 NARVANA_SEEDS=$3 "${test[@]}" -- --exact simulation::seeds_hold --nocapture >"$work/$1" 2>&1 &&
        grep -q "^$3 seeds from $2 held" "$work/$1"
}
pids=()
for ((job = 0; job < jobs; job++)); do
    count=$((seeds / jobs + (job < seeds % jobs)))
    run "$job" "$from" "$count" &
    pids+=($!)
    from=$((from + count))
done
failed=0
for job in "${!pids[@]}"; do
    if wait "${pids[$job]}"; then
        if [ "$seeds" = 1 ]; then cat "$work/$job"; else grep ' held in ' "$work/$job"; fi
    else
        failed=1
        cat "$work/$job" >&2
    fi
done
exit $failed
