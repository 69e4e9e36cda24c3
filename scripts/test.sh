#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Nothing is skipped: what is missing fails.
#
#   scripts/test.sh [ARGUMENTS OF cargo nextest run]
#
# With arguments (`scripts/test.sh engine::`, `scripts/test.sh -E 'binary(it)'`) only what they select runs, and the
# documentation's examples are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh --tests

log=$(mktemp)
trap 'rm -f "$log"' EXIT
rc=0
# A test that reads standard input must not wait for a person.
cargo nextest run --workspace --no-fail-fast "$@" </dev/null 2>&1 | tee "$log" || rc=$?
closing_line=$(grep -E '^ *Summary \[' "$log" | tail -n 1) || closing_line='  nextest ended before its summary'

if [ $# -eq 0 ]; then
    cargo test --doc --workspace --quiet </dev/null || rc=$?
fi
printf '\n%s\n' "$closing_line"
exit $rc
