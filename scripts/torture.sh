#!/usr/bin/env bash
# Many runs of whole clusters under faults (tests/real/torture): a seed decides what each of them is. Needs root.
#
#   scripts/torture.sh --runs N --seed S [--members 3|5] [--steps N] [--engines] [--plant BUG] [--keep DIR]
#
# Seeds S to S+N-1. Without --members the seed decides. --engines gives each machine a container engine and runs a service on
# them that must never run twice; without it the seed decides (one run of ten). --plant puts a bug of src/planted.rs into the
# nodes: a run that fails is then what should be. --keep keeps the histories and logs of good runs too. The first run that
# fails ends it, with its folder and the command that repeats it. The last line is the verdict.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=1 seed=1 keep='' steps=8 members='' engines='' plant=''
while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=$2; shift 2 ;;
        --seed) seed=$2; shift 2 ;;
        --members) members=$2; shift 2 ;;
        --steps) steps=$2; shift 2 ;;
        --engines) engines=1; shift ;;
        --plant) plant=$2; shift 2 ;;
        --keep) keep=$2; shift 2 ;;
        *) echo "there is no $1; see the head of $0" >&2; exit 2 ;;
    esac
done

# Built once; NARVANA_TORTURE_BINARY names one that is built already.
binary=${NARVANA_TORTURE_BINARY:-}
if [ -z "$binary" ]; then
    binary=$(cargo test --no-run --test real 2>&1 | tee /dev/stderr | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
operations=0 lost=0 stale=0 passed=0
last=$((seed + runs - 1))
verdict() {
    echo "torture: $passed of $runs runs passed, seeds $seed..$last, $operations operations, $lost lost, $stale stale"
}

for ((one = seed; one <= last; one++)); do
    rc=0
    env NARVANA_TORTURE_SEED="$one" NARVANA_TORTURE_STEPS="$steps" \
        ${members:+NARVANA_TORTURE_MEMBERS="$members"} ${engines:+NARVANA_TORTURE_ENGINES="$engines"} \
        ${plant:+NARVANA_TORTURE_PLANT="$plant"} ${keep:+NARVANA_TORTURE_KEEP="$keep"} \
        "$binary" --exact torture::a_cluster_keeps_its_promises_whatever_goes_wrong --nocapture \
        </dev/null >"$log" 2>&1 || rc=$?
    line=$(grep -m 1 -E "^torture: seed $one (passed|failed)" "$log" || true)
    number() { grep -oE "[0-9]+ $1" <<<"$line" | head -n 1 | grep -oE '^[0-9]+' || echo 0; }
    operations=$((operations + $(number operations)))
    lost=$((lost + $(number lost)))
    stale=$((stale + $(number stale)))
    # A test that is not found is no success.
    if [ $rc -ne 0 ] || [[ $line != *passed* ]]; then
        cat "$log"
        verdict
        exit 1
    fi
    passed=$((passed + 1))
    echo "$line"
done
verdict
