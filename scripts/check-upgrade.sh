#!/usr/bin/env bash
# Upgrades clusters of a program that really is older, one node after the other, while people use them: the tests of
# tests/real/node/upgrade.rs, which otherwise have this program stand for an older one.
#
#   scripts/check-upgrade.sh COMMIT
#
# COMMIT is built in a folder of its own, with the same target folder, so that only narvana itself is built twice.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# = 1 ] || { echo "which commit is the older program? see the head of $0" >&2; exit 2; }
commit=$(git rev-parse --verify --end-of-options "$1^{commit}")
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")

folder=$(mktemp -d)
cleanup() {
    # Its sources are older than what was built of them just now, and cargo goes by time.
    touch src/main.rs src/lib.rs
    git worktree remove --force "$folder/source" || true
    rm -rf "$folder"
}
trap cleanup EXIT
git worktree add --quiet --detach "$folder/source" "$commit"
(cd "$folder/source" && CARGO_TARGET_DIR=$target cargo build --locked --bin narvana)
cp "$target/debug/narvana" "$folder/older"
touch src/main.rs src/lib.rs

NARVANA_OLDER_PROGRAM=$folder/older cargo nextest run --locked --test real -E 'test(node::upgrade)' </dev/null
echo "upgraded from ${commit:0:12}"
