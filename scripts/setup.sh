#!/usr/bin/env bash
# Installs what narvana needs on this machine and is missing, saying what it does. Running it again changes nothing.
#
#   scripts/setup.sh                what building and running need: build tools, a container engine, Rust (checked only)
#   scripts/setup.sh --tests        also what the tests and lints need
#   scripts/setup.sh --base-image   also what makes a base image where no container registry can be reached
#
# With NARVANA_BIN set, nothing is built and the build tools are left out. Debian and Ubuntu are set up with apt-get; on
# other distributions it prints what to install and stops. Settings that exist are never changed.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # Debian keeps ip and iptables there, outside a plain user's path.

# What to look for (a command, or a file when it starts with "/") and the Debian package that brings it.
BUILD_TOOLS=(cc:build-essential mold:mold git:git)
RUN_TOOLS=(curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates busybox:busybox-static)
TEST_TOOLS=(dockerd:docker.io docker-registry:docker-registry ip:iproute2 shellcheck:shellcheck nix:nix-bin
    /lib/systemd/system/nix-daemon.service:nix-setup-systemd bwrap:bubblewrap go:golang-go
    patchelf:patchelf pip3:python3-pip caddy:caddy)
# Package managers of Node.js, by their commands, with the versions that npm installs.
NODE_TOOLS=(yarn:yarn@1.22.22 pnpm:pnpm@9.15.9)
BASE_IMAGE_TOOLS=(mmdebstrap:mmdebstrap)
# Podman and the parts that Debian only recommends, or leaves to choice. Releases that lack one of them have it built in
# or use another, so parts that apt does not know are left out.
PODMAN_PARTS=(runc netavark aardvark-dns catatonit iptables uidmap slirp4netns fuse-overlayfs)
# The system-wide or, without root, the user's own folder of additions to Podman's settings.
if [ "$(id -u)" = 0 ]; then
    PODMAN_SETTINGS=/etc/containers/containers.conf.d/narvana.conf
else
    PODMAN_SETTINGS=${XDG_CONFIG_HOME:-$HOME/.config}/containers/containers.conf.d/narvana.conf
fi

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}
have() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac; }
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "needs root for: $* (run it as root, or install sudo)"
    fi
}

# missing_packages LOOK_FOR:PACKAGE… → the packages whose command or file is not there, one a line.
missing_packages() {
    local entry
    for entry in "$@"; do
        have "${entry%:*}" || printf '%s\n' "${entry##*:}"
    done
}

install_packages() {
    [ $# -gt 0 ] || return 0
    have apt-get || die "this is not Debian or Ubuntu. Install these (Debian's names) and run it again: $*"
    say "installing with apt-get: $*"
    as_root apt-get update -qq </dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

# Podman with those of its parts that this release offers.
install_podman() {
    local part parts=()
    if have apt-get; then
        say "asking apt-get what it offers"
        as_root apt-get update -qq </dev/null
        for part in "${PODMAN_PARTS[@]}"; do
            if apt-cache show "$part" >/dev/null 2>&1; then parts+=("$part"); fi
        done
    fi
    install_packages podman "${parts[@]}"
}

docker_answers() { have docker && docker info >/dev/null 2>&1; }

# Runs a container of one static program on the default network: what every application needs at least.
podman_runs() {
    local root rc=0
    root=$(mktemp -d)
    mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp}
    cp "$(command -v busybox)" "$root/bin/busybox"
    timeout 60 podman run --rm --rootfs "$root" /bin/busybox true >"$root/tmp/log" 2>&1 </dev/null || rc=$?
    [ $rc = 0 ] || tail -n 3 "$root/tmp/log" >&2
    rm -rf "$root"
    return $rc
}

# Settings for machines where Podman's defaults fail: crun releases that refuse the kernel's cgroups, and limits that
# cannot be raised because the process lacks CAP_SYS_RESOURCE.
podman_settings() {
    local files processes ids
    files=$(ulimit -Hn) processes=$(ulimit -Hu) ids=$(cat /proc/sys/kernel/pid_max)
    # Podman lowers its own limit to the number of process ids, and then cannot raise it again for a container.
    if [ "$processes" != unlimited ] && [ "$processes" -gt "$ids" ]; then processes=$ids; fi
    printf '# Written by narvana'"'"'s scripts/setup.sh because containers did not start without it.\n'
    printf '[engine]\nruntime = "runc"\n'
    if [ "$files" != unlimited ] && [ "$processes" != unlimited ]; then
        printf '[containers]\ndefault_ulimits = ["nofile=%s:%s", "nproc=%s:%s"]\n' \
            "$files" "$files" "$processes" "$processes"
    fi
}

# Makes Podman start containers where it does not, or says why that failed.
mend_podman() {
    [ ! -e "$PODMAN_SETTINGS" ] || die "Podman starts no containers even with $PODMAN_SETTINGS: see the message above"
    local trial directory
    trial=$(mktemp)
    podman_settings >"$trial"
    if ! CONTAINERS_CONF=$trial podman_runs; then
        rm -f "$trial"
        die "Podman starts no containers: see the messages above; \`podman info\` tells more"
    fi
    say "Podman starts no containers with its present settings; adding $PODMAN_SETTINGS, with which it does"
    directory=$(dirname "$PODMAN_SETTINGS")
    mkdir -p "$directory"
    chmod 0644 "$trial"
    mv "$trial" "$PODMAN_SETTINGS"
    podman_runs || die "Podman starts no containers: another settings file overrides $PODMAN_SETTINGS; it wants$(
        printf '\n'
        podman_settings
    )"
}

# The container engine: what is there is used; Podman is installed when there is none, or when the tests want both.
settle_engine() {
    if ! have podman && ! $tests && docker_answers; then return; fi
    if have podman && podman_runs; then return; fi
    install_podman
    podman_runs || mend_podman
}

# Sorting versions puts the lower one first.
settle_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    if ! have rustc || ! have cargo; then
        die "Rust is missing: install $wanted or newer, as https://rustup.rs says"
    fi
    found=$(rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
        die "Rust $wanted or newer is needed and $found is here: \`rustup update stable\` brings it"
    fi
}

settle_tests() {
    if ! have cargo-nextest; then
        say "installing cargo-nextest with cargo (a few minutes, once)"
        cargo install cargo-nextest --locked
    fi
    have "$(git --exec-path)/git-http-backend" ||
        die "git has no http-backend, which the tests serve repositories with: install the full git package"
}

# Debian has none of these that work beside a Node.js that is not Debian's.
settle_node() {
    local entry missing=()
    have npm || die "Node.js with npm is missing: install version 18 or newer with the npm that it comes with"
    for entry in "${NODE_TOOLS[@]}"; do
        have "${entry%%:*}" || missing+=("${entry#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing with npm: ${missing[*]}"
    as_root npm install --global --no-audit --no-fund --loglevel=error "${missing[@]}" >/dev/null
}

tests=false base_image=false
for argument in "$@"; do
    case $argument in
    --tests) tests=true ;;
    --base-image) base_image=true ;;
    *) die "unknown argument $argument: --tests and --base-image are known" ;;
    esac
done

wanted=("${RUN_TOOLS[@]}")
if [ -z "${NARVANA_BIN:-}" ] || $tests; then wanted+=("${BUILD_TOOLS[@]}"); fi
if $tests; then wanted+=("${TEST_TOOLS[@]}"); fi
if $base_image; then wanted+=("${BASE_IMAGE_TOOLS[@]}"); fi
mapfile -t packages < <(missing_packages "${wanted[@]}")
install_packages "${packages[@]}"
settle_engine
if [ -z "${NARVANA_BIN:-}" ] || $tests; then settle_rust; fi
if $tests; then
    settle_tests
    settle_node
fi
say "everything needed is here"
