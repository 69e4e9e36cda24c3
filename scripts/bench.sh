#!/usr/bin/env bash
# Measures a node as its users meet it, each figure next to its peer's of the same run, and prints one table.
#
#   scripts/bench.sh [ROW…]     rows: ready idle deploy-podman deploy-docker ingress reads rollout, and the benchmarks of
#                               benches/: propose state follow schedule for one node, replicate transfer cluster for three,
#                               thousand for as many; all of them without arguments
#
# Needs root, the machine set up by `scripts/setup.sh --tests`, and Debian's nginx, wrk and etcd-server. NARVANA_BIN names a program to
# measure instead of building one (release). Ratios on a machine that does something else at the same time mean little.
# Results that count are kept in docs/benchmarks.md.
# shellcheck disable=SC2317,SC2329 # Rows and clean-up are called by name.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

PAIRS=15        # deployments and containers that are timed in turn
STARTS=9        # starts of a new cluster
LOAD_PAIRS=5    # runs of the load generator on each side
LOAD_SECONDS=5
IDLE_SECONDS=30
ROLLOUT_SECONDS=40
CLIENTS=64
IMAGE=bench.narvana.invalid/nginx:1
EMAIL=bench@example.com

die() {
    printf 'bench: %s\n' "$*" >&2
    exit 1
}
note() { printf 'bench: %s\n' "$*" >&2; }
for program in curl nginx wrk etcd podman docker dockerd busybox; do
    command -v "$program" >/dev/null || die "needs $program: scripts/setup.sh --tests, apt-get install nginx wrk etcd-server"
done
[ "$(id -u)" = 0 ] || die "needs root, for the engines"

work=$(mktemp -d /tmp/narvana-bench.XXXXXX)
table=$work/table
network=narvana-bench-$$
node_pid='' engine_pid='' nginx_pid='' engine_socket=''

# --- numbers ---------------------------------------------------------------------------------------------------------

# In microseconds.
now() { printf '%s\n' "${EPOCHREALTIME/./}"; }
# Of the numbers on standard input.
median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
calculate() { awk "BEGIN { printf \"%.4g\", $1 }"; }

# row WHAT OURS PEER RATIO WANTED CONDITION → one line of the table; CONDITION is arithmetic.
row() {
    local verdict=MISSED
    if awk "BEGIN { exit !($6) }"; then verdict=ok; fi
    printf '%s|%s|%s|%s|%s|%s\n' "$1" "$2" "$3" "$4" "$5" "$verdict" >>"$table"
    note "$1: ours $2, peer $3, ratio $4, wanted $5: $verdict"
}

# wait_until SECONDS COMMAND…
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || die "waited in vain for: $*"
        sleep 0.005
    done
}

# --- engines and nodes -----------------------------------------------------------------------------------------------

# start_engine podman|docker → engine_socket, with IMAGE in its store.
start_engine() {
    engine_socket=$work/$1.sock
    case $1 in
    podman) podman system service --time=0 "unix://$engine_socket" >"$work/engine.log" 2>&1 & ;;
    docker)
        dockerd --data-root="$work/docker" --exec-root="$work/docker-exec" --pidfile="$work/docker.pid" \
            -H "unix://$engine_socket" >"$work/engine.log" 2>&1 &
        ;;
    esac
    engine_pid=$!
    wait_until 60 engine_answers
    make_image | program_of "$1" import - "$IMAGE" >"$work/answer" 2>&1
    ask_engine -H 'Content-Type: application/json' -d "{\"Name\":\"$network\"}" http://engine/networks/create >/dev/null
}
# The engine's own command line, at the service that was started.
program_of() {
    case $1 in
    podman) podman "${@:2}" ;;
    docker) docker -H "unix://$engine_socket" "${@:2}" ;;
    esac
}
ask_engine() { curl -fsS --unix-socket "$engine_socket" "$@"; }
engine_answers() { curl -fsS -o "$work/answer" --unix-socket "$engine_socket" http://engine/_ping 2>/dev/null; }

# A root of this machine's nginx and the libraries that it needs, which answers `ok` on port 8080, as a tar.
make_image() {
    local root=$work/image
    if [ ! -d "$root" ]; then
        mkdir -p "$root"/{etc,var/log/nginx,var/lib/nginx,tmp,dev}
        printf 'root:x:0:0::/:/\n' >"$root/etc/passwd"
        printf 'root:x:0:\n' >"$root/etc/group"
        nginx_settings 8080 'location / { return 200 "ok\n"; }' >"$root/etc/nginx.conf"
        # The loader, the libraries, the program.
        { ldd "$(command -v nginx)" | grep -o '/[^ ]*'; command -v nginx; } | sort -u |
            xargs -I{} cp -L --parents {} "$root"
    fi
    tar -C "$root" -c .
}
# nginx_settings PORT SERVER_BODY [HTTP_BODY]
nginx_settings() {
    printf 'daemon off; worker_processes 2; pid /tmp/nginx-%s.pid; error_log stderr; user root;\n' "$1"
    printf 'events { worker_connections 4096; }\n'
    printf 'http { access_log off; keepalive_requests 1000000; %s server { listen %s; %s } }\n' "${3:-}" "$1" "$2"
}

stop_engine() {
    local id
    [ -n "$engine_pid" ] || return 0
    # Whatever was made from the image, also by a row that was cut off.
    for id in $(ask_engine "http://engine/containers/json?all=true&filters=%7B%22ancestor%22%3A%5B%22$IMAGE%22%5D%7D" |
        grep -o '"Id":"[0-9a-f]\{64\}"' | cut -d'"' -f4); do
        ask_engine -X DELETE "http://engine/containers/$id?force=true" || true
    done
    ask_engine -X DELETE "http://engine/networks/$network" >/dev/null 2>&1 || true
    ask_engine -X DELETE "http://engine/images/$IMAGE?force=true" >/dev/null || true
    kill "$engine_pid" 2>/dev/null || true
    wait "$engine_pid" || true
    engine_pid=''
}

# launch FOLDER → a node on a new cluster, with node_pid; does not wait.
launch() {
    rm -rf "$1"
    "$narvana" init --data-dir "$1" --engine "unix://$engine_socket" --api-host 127.0.0.1 --api-port 0 \
        --ingress-host 127.0.0.1 --ingress-http-port auto --log warn >"$work/node.log" 2>&1 </dev/null &
    node_pid=$!
}
# Without a program per look, which would cost as much as what is measured.
is_there() { [ -e "$1" ] || ! kill -0 "$node_pid"; }
start_node() {
    launch "$work/node"
    wait_until 20 is_there "$work/node/endpoints.json"
    api=$(endpoint api)
    ingress=$(endpoint ingress_http)
    token=$(post /auth/register "{\"email\":\"$EMAIL\",\"password\":\"$(head -c 24 /dev/urandom | base64)\"}" | field token)
    post /v1/apps '{"name":"bench"}' >/dev/null
    wait_until 60 node_has_engine
}
endpoint() { sed -n 's/.*"'"$1"'": "\([^"]*\)".*/\1/p' "$work/node/endpoints.json"; }
# The first field of that name in the JSON on standard input.
field() { grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d'"' -f4; }
call() { curl -fsS -H "Authorization: Bearer ${token:-}" -H 'Content-Type: application/json' "$@"; }
post() { call -d "$2" "$api$1"; }
node_has_engine() { call "$api/v1/nodes" | grep -q '"healthy":true'; }
stop_node() {
    [ -n "$node_pid" ] || return 0
    kill "$node_pid" 2>/dev/null || true
    wait "$node_pid" || true
    node_pid=''
}

# create_service NAME [FIELDS]; then deploy NAME → returns when its deployment runs.
create_service() {
    post /v1/apps/bench/services "{\"name\":\"$1\",\"image\":\"$IMAGE\",\"ports\":[{\"container_port\":8080}],${2:-}
        \"command\":[\"$(command -v nginx)\",\"-c\",\"/etc/nginx.conf\"]}" >/dev/null
}
deploy() { follow_deployment "$(post "/v1/apps/bench/services/$1/deploy" '{}' | field id)"; }
# Its stream says at once that it runs; asking again and again would take a core from the start of the container.
follow_deployment() {
    local line event='' stream curl status=''
    exec {stream}< <(exec curl -fsSN -H "Authorization: Bearer $token" "$api/v1/deployments/$1/stream")
    curl=$!
    while [ -z "$status" ] && read -r line <&"$stream"; do
        case $event:$line in
        *:event:*) event=${line#event: } ;;
        deployment:data:*)
            # Fields come by name: its own status is after those of its instances.
            line=${line##*'"status":"'}
            case ${line%%'"'*} in
            running) status=running ;;
            failed | stopped) die "deployment $1 is ${line%%'"'*}" ;;
            esac
            ;;
        esac
    done
    exec {stream}<&-
    kill "$curl" 2>/dev/null || true
    [ -n "$status" ] || die "the stream of deployment $1 ended"
}
delete_service() { call -X DELETE "$api/v1/apps/bench/services/$1" >/dev/null; }
containers_of_node() { ask_engine "http://engine/containers/json?all=true" | grep -c "narvana-bench-$1-" || true; }
is_gone() { [ "$(containers_of_node "$1")" = 0 ]; }

# --- rows ------------------------------------------------------------------------------------------------------------

row_ready() {
    local i began times=()
    start_engine podman
    for ((i = 0; i < STARTS; i++)); do
        began=$(now)
        launch "$work/node"
        wait_until 20 is_there "$work/node/endpoints.json"
        curl -fsS -o "$work/answer" "$(endpoint api)/ready"
        times+=($(($(now) - began)))
        stop_node
    done
    stop_engine
    local ours
    ours=$(printf '%s\n' "${times[@]}" | median)
    row 'init to ready' "$(calculate "$ours / 1000000") s" '' '' '<= 0.5 s' "$ours <= 500000"
}

# Processor time of the node, in hundredths of a second.
ticks() { awk '{ print $14 + $15 }' "/proc/$node_pid/stat"; }
row_idle() {
    local before used memory
    start_engine podman
    start_node
    create_service idle
    deploy idle
    sleep 5 # What starting has begun is to end.
    before=$(ticks)
    sleep $IDLE_SECONDS
    used=$(calculate "($(ticks) - $before) * 100 / $(getconf CLK_TCK) / $IDLE_SECONDS")
    memory=$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/$node_pid/status")
    delete_service idle
    wait_until 60 is_gone idle
    stop_node
    stop_engine
    row 'idle memory, one app' "$(calculate "$memory") MB" '' '' '<= 60 MB' "$memory <= 60"
    row 'idle CPU, one app' "$used %" '' '' '<= 0.5 %' "$used <= 0.5"
}

# The same container by the engine's API: the same program, limits and published port, on a network that is there.
bare() {
    local id
    id=$(ask_engine -H 'Content-Type: application/json' http://engine/containers/create -d "{\"Image\":\"$IMAGE\",
        \"Cmd\":[\"$(command -v nginx)\",\"-c\",\"/etc/nginx.conf\"],\"Labels\":{\"narvana.bench\":\"1\"},
        \"ExposedPorts\":{\"8080/tcp\":{}},\"HostConfig\":{\"NetworkMode\":\"$network\",\"Init\":true,
        \"NanoCpus\":500000000,\"Memory\":536870912,\"MemorySwap\":536870912,\"PidsLimit\":4096,
        \"PortBindings\":{\"8080/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"\"}]}}}" | field Id)
    ask_engine -X POST "http://engine/containers/$id/start"
    printf '%s\n' "$id"
}
row_deploy() {
    local i began id
    start_engine "$1"
    start_node
    : >"$work/ours" && : >"$work/peer" && : >"$work/ratios"
    # The first of each is not counted: it makes the app's network and fills caches.
    for ((i = 0; i <= PAIRS; i++)); do
        create_service "s$i"
        began=$(now)
        deploy "s$i"
        local ours=$(($(now) - began))
        began=$(now)
        id=$(bare)
        local peer=$(($(now) - began))
        ask_engine -X DELETE "http://engine/containers/$id?force=true"
        delete_service "s$i"
        wait_until 60 is_gone "s$i"
        [ $i -gt 0 ] || continue
        printf '%s\n' $ours >>"$work/ours"
        printf '%s\n' $peer >>"$work/peer"
        calculate "$ours / $peer" >>"$work/ratios" && echo >>"$work/ratios"
    done
    stop_node
    stop_engine
    local ours peer ratio
    ours=$(median <"$work/ours") peer=$(median <"$work/peer") ratio=$(median <"$work/ratios")
    row "deploy to running, $1" "$(calculate "$ours / 1000") ms" "$(calculate "$peer / 1000") ms (create + start)" \
        "$ratio" '<= 1.25' "$ratio <= 1.25"
}
row_deploy-podman() { row_deploy podman; }
row_deploy-docker() { row_deploy docker; }

# load URL [ARGUMENT…] → wrk's report.
load() {
    local url=$1
    shift
    wrk -t2 -c$CLIENTS -d${LOAD_SECONDS}s --latency "$@" "$url" >"$work/wrk"
    if grep -Eq 'Socket errors|Non-2xx' "$work/wrk"; then die "failed requests: $(cat "$work/wrk")"; fi
}
rate() { awk '/^Requests\/sec/ { print $2 }' "$work/wrk"; }
# The 99th percentile in milliseconds.
slowest() { awk '$1 == "99%" { u = $2; sub(/[0-9.]+/, "", u); print $2 * (u == "us" ? 0.001 : u == "s" ? 1000 : 1) }' "$work/wrk"; }

row_ingress() {
    local i id address port host=web-bench.localhost
    start_engine podman
    start_node
    create_service web
    deploy web
    id=$(ask_engine "http://engine/containers/json" | grep -o '"Id":"[0-9a-f]*","Names":\["/narvana-bench-web-[^"]*"' | cut -d'"' -f4)
    address=$(backend_of "$id")
    port=18099
    # shellcheck disable=SC2016 # nginx expands it.
    nginx_settings "127.0.0.1:$port" 'location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; }' \
        "upstream backend { server $address; keepalive 128; }" >"$work/nginx.conf"
    nginx -p "$work" -c "$work/nginx.conf" 2>"$work/nginx.log" &
    nginx_pid=$!
    wait_until 10 curl -fsS -o "$work/answer" "http://127.0.0.1:$port/"
    wait_until 10 curl -fsS -o "$work/answer" -H "Host: $host" "$ingress/"
    : >"$work/ours" && : >"$work/peer" && : >"$work/ratios"
    for ((i = 0; i < LOAD_PAIRS; i++)); do
        load "$ingress/" -H "Host: $host"
        local ours peer
        ours=$(rate)
        load "http://127.0.0.1:$port/" -H "Host: $host"
        peer=$(rate)
        printf '%s\n' "$ours" >>"$work/ours"
        printf '%s\n' "$peer" >>"$work/peer"
        calculate "$ours / $peer" >>"$work/ratios" && echo >>"$work/ratios"
    done
    kill "$nginx_pid"
    wait "$nginx_pid" || true
    nginx_pid=''
    delete_service web
    wait_until 60 is_gone web
    stop_node
    stop_engine
    local ratio
    ratio=$(median <"$work/ratios")
    row 'ingress, 64 clients' "$(median <"$work/ours")/s" "$(median <"$work/peer")/s (nginx)" "$ratio" '>= 0.7' "$ratio >= 0.7"
}
# Where the node reaches the container: the port that it was given on this machine, else its own address.
backend_of() {
    local answer port
    answer=$(ask_engine "http://engine/containers/$1/json")
    port=$(printf '%s' "$answer" | grep -o '"HostPort":"[0-9]\+"' | head -n 1 | cut -d'"' -f4)
    if [ -n "$port" ]; then
        printf '127.0.0.1:%s\n' "$port"
    else
        printf '%s:8080\n' "$(printf '%s' "$answer" | grep -o '"IPAddress":"[0-9.]\+"' | tail -n 1 | cut -d'"' -f4)"
    fi
}

row_reads() {
    local i
    start_engine podman
    start_node
    : >"$work/ours" && : >"$work/slow"
    for ((i = 0; i < LOAD_PAIRS; i++)); do
        load "$api/v1/apps/bench" -H "Authorization: Bearer $token"
        rate >>"$work/ours"
        slowest >>"$work/slow"
    done
    stop_node
    stop_engine
    local ours slow
    ours=$(median <"$work/ours") slow=$(median <"$work/slow")
    row 'GET of an app, linearizable, 64 clients' "$ours/s" '' '' '>= 10000/s' "$ours >= 10000"
    row 'its 99th percentile' "$slow ms" '' '' '<= 10 ms' "$slow <= 10"
}

# Everything that changes instances, as often as it fits: a new version and back to the one before.
row_rollout() {
    local changes=0 requests failed load_pid
    start_engine podman
    start_node
    create_service web '"replicas":2,"health_check":{"path":"/"},'
    deploy web
    wait_until 10 curl -fsS -o "$work/answer" -H 'Host: web-bench.localhost' "$ingress/"
    wrk -t1 -c8 -d${ROLLOUT_SECONDS}s -H 'Host: web-bench.localhost' "$ingress/" >"$work/wrk" &
    load_pid=$!
    while [ $((changes += 2)) ] && kill -0 $load_pid 2>/dev/null; do
        deploy web
        follow_deployment "$(post /v1/apps/bench/services/web/rollback '{}' | field id)"
    done
    wait $load_pid
    delete_service web
    wait_until 60 is_gone web
    stop_node
    stop_engine
    requests=$(awk '/ requests in / { print $1 }' "$work/wrk")
    failed=$(awk '/Socket errors/ { gsub(",", ""); n += $4 + $6 + $8 + $10 } /Non-2xx/ { n += $NF } END { print n + 0 }' "$work/wrk")
    row "failed requests during $changes rollouts and rollbacks" "$failed of $requests" '' '' '0 of 10000' \
        "$failed == 0 && $requests >= 10000"
}

# bench NAME → the rows that this benchmark prints.
bench() {
    note "cargo bench --bench $1"
    cargo bench --quiet --bench "$1" </dev/null | tee "$work/bench" >&2
    sed -n 's/^row: //p' "$work/bench" >>"$table"
}
row_propose() { bench propose; }
row_state() { bench state; }
row_follow() { bench follow; }
row_schedule() { bench schedule; }
row_replicate() { bench replicate; }
row_transfer() { bench transfer; }
row_cluster() { bench cluster; }
row_thousand() { bench thousand; }

# ---------------------------------------------------------------------------------------------------------------------

clean_up() {
    [ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
    stop_node
    stop_engine
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

narvana=${NARVANA_BIN:-}
if [ -z "$narvana" ]; then
    cargo build --release --bin narvana
    narvana=${CARGO_TARGET_DIR:-target}/release/narvana
fi
[ $# -gt 0 ] || set -- propose state follow schedule ready idle deploy-podman deploy-docker ingress reads rollout replicate transfer cluster thousand
for name in "$@"; do
    declare -F "row_$name" >/dev/null || die "there is no row $name: see the top of scripts/bench.sh"
done
for name in "$@"; do "row_$name"; done
{ printf 'what|ours|peer|ratio|wanted|ok?\n' && cat "$table"; } | column -t -s '|' -o ' | '
! grep -q 'MISSED$' "$table"
