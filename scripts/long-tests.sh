#!/usr/bin/env bash
# The long runs of tests that `scripts/test.sh` runs shortly: many more seeds, rounds and cases. Nothing is skipped.
#
#   scripts/long-tests.sh [PART]...
#
# Parts: store (power cuts, flipped bits, kills), schema (many thousand generated requests against a live node), fuzz (each
# target of fuzz/ for NARVANA_FUZZ_SECONDS, an hour unless it is set, or only those that NARVANA_FUZZ_TARGETS names), torture
# (NARVANA_TORTURE_RUNS runs of whole clusters under faults, 200 unless it is set), planted (each bug of src/planted.rs, until a
# torture run notices it). Without an argument all parts run, one after the other. What they find is kept in docs/testing.md.
set -euo pipefail
cd "$(dirname "$0")/.."

SCHEMA_CASES_MIN=20000

store() {
    NARVANA_LONG_TESTS=1 cargo nextest run --profile long --no-fail-fast --no-capture \
        -E 'test(store::crash_points) or test(store::bit_flips) or test(node::durability)' </dev/null
}

# Requests generated from the OpenAPI document, as the owner: no server errors, no undocumented status or content type,
# no answer that breaks its schema. Left out: event streams, which do not end, and the log-out, which would end the run.
schema() {
    cargo build
    local folder node api token cases rc=0
    folder=$(mktemp -d)
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet schemathesis
    "${CARGO_TARGET_DIR:-target}/debug/narvana" init --data-dir "$folder/data" --name schema \
        --api-host 127.0.0.1 --api-port 0 --grpc-port 0 --ingress-http-port 0 \
        --engine "unix://$folder/no-engine.sock" </dev/null >"$folder/log" 2>&1 &
    node=$!
    for _ in $(seq 300); do
        [ -f "$folder/data/endpoints.json" ] && break
        sleep 0.1
    done
    api=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["api"])' "$folder/data/endpoints.json")
    token=$(curl --silent --fail -H 'Content-Type: application/json' \
        -d '{"email":"ada@example.org","password":"correct horse"}' "$api/auth/register" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])')
    # It leaves notes where it runs.
    generate() {
        (cd "$folder" && venv/bin/schemathesis run "$api/api/docs/openapi.json" -H "Authorization: Bearer $token" \
            --checks not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance \
            --exclude-path-regex '/stream$|^/auth/logout$' --continue-on-failure --request-timeout 10 \
            --suppress-health-check all --warnings off --max-examples 150 --no-color "$@") | tee -a "$folder/said"
    }
    # Some versions of Python fail here with more than one worker ("AST constructor recursion depth mismatch").
    generate --phases examples,coverage --workers 1 || rc=$?
    # These repeat until the time is over.
    generate --phases fuzzing,stateful --workers 2 --max-time "${NARVANA_SCHEMA_SECONDS:-1100}" || rc=$?
    kill "$node"
    wait "$node" || true
    if grep -E 'panicked|a request failed' "$folder/log"; then rc=1; fi
    # A run that was cut off, or that met a slow machine, must not look like one that found nothing.
    cases=$(sed -nE 's/^ *([0-9]+) generated.*/\1/p' "$folder/said" | awk '{ sum += $1 } END { print sum + 0 }')
    if [ "$cases" -lt "$SCHEMA_CASES_MIN" ]; then
        echo "schema: $cases cases ran, $SCHEMA_CASES_MIN are wanted: give it more time with NARVANA_SCHEMA_SECONDS" >&2
        rc=1
    fi
    rm -rf "$folder"
    return $rc
}

# What each run has found interesting is kept in NARVANA_FUZZ_FOLDER, and the next one begins with it.
fuzz() {
    if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
        echo "fuzzing needs cargo-fuzz, a nightly compiler and a C++ compiler:" >&2
        echo "  rustup toolchain install nightly --profile minimal && cargo install cargo-fuzz --locked" >&2
        return 1
    fi
    local folder targets target failed=()
    folder=$(realpath -m "${NARVANA_FUZZ_FOLDER:-${CARGO_TARGET_DIR:-target}/fuzz-runs}")
    read -ra targets <<<"${NARVANA_FUZZ_TARGETS:-log_entry snapshot backup join_token node_messages node_replies archive env_file dockerfile_scan}"
    fuzz/seeds.py "$folder"
    cargo +nightly fuzz build
    # Targets that write files do it in memory where they can. Leaks are not looked for: what a thread that is about to end
    # still holds counts as one.
    [ -w /dev/shm ] && export TMPDIR=/dev/shm
    for target in "${targets[@]}"; do
        cargo +nightly fuzz run "$target" "$folder/$target/corpus" -- -max_total_time="${NARVANA_FUZZ_SECONDS:-3600}" \
            -rss_limit_mb=2048 -malloc_limit_mb=256 -timeout=20 -detect_leaks=0 -print_final_stats=1 \
            -artifact_prefix="$folder/$target/" </dev/null >"$folder/$target/log" 2>&1 || failed+=("$target")
        echo "fuzz: $target: $(grep -E '^stat::number_of_executed_units' "$folder/$target/log" | grep -oE '[0-9]+$' || echo no) executions"
    done
    for target in "${failed[@]}"; do
        echo "fuzz: $target failed; see $folder/$target" >&2
    done
    [ ${#failed[@]} -eq 0 ]
}

torture() {
    scripts/torture.sh --runs "${NARVANA_TORTURE_RUNS:-200}" --seed "${NARVANA_TORTURE_FIRST_SEED:-1}"
}

# What the runs are for: each bug makes one of the first forty break a promise, and not merely go wrong.
planted() {
    local bug engines log rc=0
    log=$(mktemp)
    for bug in ack-before-sync local-read split-checkpoint forget-requests no-fence reuse-node-id cut-damaged-log used-token; do
        engines=()
        [ "$bug" != no-fence ] || engines=(--engines)
        scripts/torture.sh --runs 40 --seed 1 --members 3 --plant "$bug" "${engines[@]}" >"$log" 2>&1 || true
        if grep -m 1 '^broken: ' "$log"; then
            echo "planted: $bug was noticed: $(tail -n 1 "$log")"
        else
            echo "planted: nothing noticed $bug: $(tail -n 1 "$log")" >&2
            rc=1
        fi
    done
    rm -f "$log"
    return $rc
}

if [ $# -eq 0 ]; then
    set -- store schema fuzz torture planted
fi
for part in "$@"; do
    case $part in
        store | schema | fuzz | torture | planted) "$part" ;;
        *) echo "there is no part $part; see the head of $0" >&2; exit 2 ;;
    esac
done
