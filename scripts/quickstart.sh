#!/usr/bin/env bash
# From a fresh clone to a running application: installs what is missing, builds narvana, starts a node on a data folder
# of its own, registers the first user, deploys examples/hello from its source, fetches it, and leaves the node running
# until interrupted. The application's container goes on; running this again adopts it.
#
#   scripts/quickstart.sh [--data-dir DIR] [--api-port N] [--grpc-port N] [--ingress-port N] [--once [--clean]]
#
#   --data-dir   where the node, its log and the first user's password are kept
#                (default $XDG_DATA_HOME/narvana-quickstart, else ~/.local/share/narvana-quickstart)
#   --*-port     default 8080, 9090 and 8081, or the next free ones
#   --once       stop the node after the application has answered
#   --clean      with --once: also remove the application, its container and the data folder
#
# NARVANA_BIN names a program to use instead of building one; NARVANA_PROFILE=dev builds the development profile.
# shellcheck disable=SC2317 # Conditions are called through wait_until.
set -euo pipefail
cd "$(dirname "$0")/.."

APP=quickstart
SERVICE=hello
EMAIL=admin@example.com
# The image that examples/hello is compiled in, and what stands in for it where no registry can be reached.
BASE_IMAGE=docker.io/library/debian:bookworm-slim
LOCAL_BASE_IMAGE=quickstart.narvana.invalid/debian:bookworm-slim
# Debug builds on two busy cores start in seconds; this is for a machine that is far worse.
START_SECONDS_MAX=60

data_dir=${XDG_DATA_HOME:-$HOME/.local/share}/narvana-quickstart
api_port='' grpc_port='' ingress_port='' once=false clean=false node_pid=''

say() { printf '\n==> %s\n' "$*"; }
die() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 1
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --once) once=true ;;
        --clean) clean=true ;;
        --data-dir | --api-port | --grpc-port | --ingress-port)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in
            --data-dir) data_dir=$2 ;;
            --api-port) api_port=$2 ;;
            --grpc-port) grpc_port=$2 ;;
            --ingress-port) ingress_port=$2 ;;
            esac
            shift
            ;;
        -h | --help)
            sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' scripts/quickstart.sh
            exit 0
            ;;
        *) die "unknown argument $1; --help lists what there is" ;;
        esac
        shift
    done
    $once || ! $clean || die "--clean needs --once: the node must be about to stop"
}

# wait_until SECONDS COMMAND… → fails when the command has not succeeded by then.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.2
    done
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port FIRST OTHER… → the first port from FIRST on that nobody listens on and that is not one of the others.
free_port() {
    local port=$1
    shift
    while listening "$port" || [[ " $* " == *" $port "* ]]; do port=$((port + 1)); done
    printf '%s\n' "$port"
}

# --- the program -----------------------------------------------------------------------------------------------------

build() {
    narvana=${NARVANA_BIN:-}
    if [ -z "$narvana" ]; then
        local profile=${NARVANA_PROFILE:-release} folder
        folder=$profile
        [ "$profile" != dev ] || folder=debug
        say "Building narvana (profile $profile; the first time takes minutes)"
        cargo build --profile "$profile" --bin narvana
        narvana=${CARGO_TARGET_DIR:-target}/$folder/narvana
    fi
    [ -x "$narvana" ] || die "there is no program at $narvana"
}

# --- the node --------------------------------------------------------------------------------------------------------

# endpoint NAME → an address out of the file that the node writes when it is ready to serve.
endpoint() { sed -n 's/.*"'"$1"'"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$node_dir/endpoints.json" | head -n 1; }

# The endpoints file of an earlier run may still be there: only a newer one counts.
node_is_ready() {
    kill -0 "$node_pid" 2>/dev/null || return 0
    [ "$node_dir/endpoints.json" -nt "$data_dir/started" ] && curl -fsS -o /dev/null "$(endpoint api)/ready" 2>/dev/null
}

# launch init|run
launch() {
    say "Starting a node (narvana $1) on $node_dir; its log is $data_dir/node.log"
    rm -f "$data_dir/started"
    touch "$data_dir/started"
    # A process group of its own: Ctrl-C reaches this script only, which then stops the node once and in order.
    set -m
    INGRESS_HTTPS_PORT=0 "$narvana" "$1" --data-dir "$node_dir" --api-host 127.0.0.1 --api-port "$api_port" \
        --grpc-port "$grpc_port" --ingress-http-port "$ingress_port" </dev/null >>"$data_dir/node.log" 2>&1 &
    node_pid=$!
    set +m
}

node_came_up() { wait_until $START_SECONDS_MAX node_is_ready && kill -0 "$node_pid" 2>/dev/null; }

start_node() {
    local first=true
    [ ! -e "$data_dir/initialised" ] || first=false
    api_port=${api_port:-$(free_port 8080)}
    grpc_port=${grpc_port:-$(free_port 9090 "$api_port")}
    ingress_port=${ingress_port:-$(free_port 8081 "$api_port" "$grpc_port")}

    if $first; then launch init; else launch run; fi
    # An earlier first run may have been interrupted after it had made the node: then init says so and ends.
    if ! node_came_up && ! { $first && ! kill -0 "$node_pid" 2>/dev/null && launch run && node_came_up; }; then
        tail -n 20 "$data_dir/node.log" >&2
        die "the node did not become ready; above are the last lines of $data_dir/node.log"
    fi
    touch "$data_dir/initialised"
    api=$(endpoint api)
    printf 'API %s, ingress %s\n' "$api" "$(endpoint ingress_http)"
}

stop_node() {
    [ -n "$node_pid" ] || return 0
    local pid=$node_pid
    node_pid=''
    if kill -TERM "$pid" 2>/dev/null; then
        say "Stopping the node"
        wait "$pid" || die "the node did not stop cleanly: see $data_dir/node.log"
    fi
}

# --- the first user --------------------------------------------------------------------------------------------------

# post PATH → the answer's body; reads the request's body from standard input, so no secret is in a process's arguments.
post() { curl -sS --fail-with-body -H 'Content-Type: application/json' --data-binary @- "$api$1"; }

credentials() { printf '{"email":"%s","password":"%s"}' "$EMAIL" "$(cat "$data_dir/password")"; }

sign_in() {
    # The password is on disk before the user exists: an interruption between the two must not lock anyone out.
    if [ ! -s "$data_dir/password" ]; then
        (umask 077 && head -c 24 /dev/urandom | base64 >"$data_dir/password")
    fi
    local answer refused=''
    if ! answer=$(credentials | post /auth/register 2>/dev/null); then
        refused=$answer
        answer=$(credentials | post /auth/login) || die "could not register ($refused) nor log in ($answer)"
    else
        say "Registered the first user $EMAIL; the password is in $data_dir/password"
    fi
    NARVANA_TOKEN=$(printf '%s' "$answer" | sed -n 's/.*"token"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p')
    [ -n "$NARVANA_TOKEN" ] || die "the node's answer holds no token"
    (umask 077 && printf '%s\n' "$NARVANA_TOKEN" >"$data_dir/token")
    export NARVANA_TOKEN NARVANA_API="$api"
}

# --- the application -------------------------------------------------------------------------------------------------

# The engine that the node uses, as far as this script must know: where images go.
engine() {
    local program=docker
    if [ -n "${NARVANA_ENGINE:-}" ]; then
        case $NARVANA_ENGINE in *podman*) program=podman ;; esac
    elif [ -n "${PODMAN_SOCKET:-}" ] || { [ -z "${DOCKER_HOST:-}" ] && command -v podman >/dev/null; }; then
        program=podman
    fi
    "$program" "$@"
}

image_is_here() { engine image inspect "$1" >/dev/null 2>&1; }

# Where the base image cannot be pulled: a root file system of Debian's packages with what compiling the sample needs.
make_local_base_image() {
    say "No registry can be reached: making $LOCAL_BASE_IMAGE from Debian's packages (once)"
    scripts/setup.sh --base-image
    mmdebstrap --quiet --variant=extract --include=dash,gcc,libc6-dev bookworm - | engine import - "$LOCAL_BASE_IMAGE"
}

# Sets `source` to the folder to deploy: the sample, or a copy of it that names the local base image.
prepare_source() {
    source=examples/hello
    if image_is_here "$BASE_IMAGE"; then return; fi
    if ! image_is_here "$LOCAL_BASE_IMAGE"; then
        say "Pulling $BASE_IMAGE"
        if engine pull "$BASE_IMAGE"; then return; fi
        make_local_base_image
    fi
    source=$data_dir/source
    rm -rf "$source"
    cp -R examples/hello "$source"
    sed -i "s|^FROM $BASE_IMAGE|FROM $LOCAL_BASE_IMAGE|" "$source/Dockerfile"
}

deploy() {
    prepare_source
    say "narvana deploy $source --app $APP --service $SERVICE"
    "$narvana" deploy "$source" --app "$APP" --service "$SERVICE"
}

application_answers() { answer=$(curl -fsS -m 10 --resolve "$host:$port:127.0.0.1" "http://$host:$port/" 2>&1); }

fetch() {
    local host=$SERVICE-$APP.localhost port answer=''
    port=$(endpoint ingress_http)
    port=${port##*:}
    port=${port%%/*}
    say "curl http://$host:$port/"
    wait_until 10 application_answers || die "the application does not answer at http://$host:$port/: $answer"
    printf '%s\n' "$answer"
    [[ $answer == *Hello* ]] || die "that is not the sample's greeting"
}

no_container_left() { [ -z "$(engine ps -aq --filter "label=narvana.app=$1")" ]; }

remove_application() {
    local id
    say "Removing the application"
    id=$(curl -fsS -H "Authorization: Bearer $NARVANA_TOKEN" "$api/v1/apps/$APP" |
        sed -n 's/^[^"]*"id"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' | head -n 1)
    [ -n "$id" ] || die "the node's answer holds no app id"
    curl -fsS -o /dev/null -X DELETE -H "Authorization: Bearer $NARVANA_TOKEN" "$api/v1/apps/$APP"
    wait_until 60 no_container_left "$id" || die "a container of app $id is still there a minute after the app was deleted"
}

# Removes what this script put into the data folder, and the folder if nothing else is in it.
forget() {
    rm -rf "$node_dir" "$data_dir/source"
    rm -f "$data_dir"/{initialised,started,node.log,password,token}
    rmdir --ignore-fail-on-non-empty "$data_dir"
}

# ---------------------------------------------------------------------------------------------------------------------

parse_arguments "$@"
mkdir -p "$data_dir"
data_dir=$(cd "$data_dir" && pwd)
node_dir=$data_dir/node

scripts/setup.sh
build
trap stop_node EXIT
trap 'exit 130' INT TERM
start_node
sign_in
deploy
fetch

if $once; then
    if $clean; then remove_application; fi
    stop_node
    if $clean; then forget; fi
    say "Done"
    exit 0
fi

cat <<END

narvana is running. In another terminal:
  export NARVANA_API=$api NARVANA_TOKEN=\$(cat $data_dir/token)
  $narvana status
  $narvana deploy <folder with a Dockerfile> --app <app>
Ctrl-C stops the node; the application goes on and is adopted by the next start. To remove everything:
  scripts/quickstart.sh --data-dir $data_dir --once --clean
END
trap 'exit 0' INT TERM
wait "$node_pid" || true
die "the node ended by itself: see $data_dir/node.log"
