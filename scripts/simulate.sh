#!/usr/bin/env bash
# Runs simulated clusters (src/simulation): each seed is one run, and the same one each time.
#
#   scripts/simulate.sh [--seeds N] [--from S]   so many seeds, beginning with this one (100 from 1)
#   scripts/simulate.sh --seed S                 one, with everything that happened
#
# Ends with a line that says what was run; the first seed that fails is named with the command that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    printf 'simulate: %s\n' "$*" >&2
    exit 2
}

seeds=100 from=1
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || die "$1 needs a number"
    case $2 in '' | *[!0-9]*) die "$1 needs a number, not \"$2\"" ;; esac
    case $1 in
        --seeds) seeds=$2 ;;
        --from) from=$2 ;;
        --seed) seeds=1 from=$2 ;;
        *) die "unknown: $1" ;;
    esac
    shift 2
done

# RUSTFLAGS in the environment would take the place of .cargo/config.toml, which the simulator needs.
unset RUSTFLAGS
NARVANA_SEED=$from NARVANA_SEEDS=$seeds cargo test --quiet --locked --profile simulation --lib -- \
    --exact simulation::seeds_hold --nocapture
