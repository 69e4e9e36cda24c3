#!/usr/bin/env bash
# The long runs of tests that `scripts/test.sh` runs shortly: many more seeds, rounds and cases. Nothing is skipped.
#
#   scripts/long-tests.sh [PART]...
#
# Parts: store (power cuts, flipped bits). Without an argument all parts run, one after the other. What they find is
# kept in docs/testing.md.
set -euo pipefail
cd "$(dirname "$0")/.."

store() {
    NARVANA_LONG_TESTS=1 cargo nextest run --profile long --no-fail-fast --no-capture \
        -E 'test(store::crash_points) or test(store::bit_flips) or test(node::durability)' </dev/null
}

if [ $# -eq 0 ]; then
    set -- store
fi
for part in "$@"; do
    case $part in
        store) "$part" ;;
        *) echo "there is no part $part; see the head of $0" >&2; exit 2 ;;
    esac
done
