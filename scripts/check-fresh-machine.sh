#!/usr/bin/env bash
# Walks the two commands of the README on a fresh machine: a bare Debian without a container engine, build tools or curl.
#
#   sudo scripts/check-fresh-machine.sh [COMMAND…]
#
# It makes a minimal Debian root (mmdebstrap) under /tmp, clones this repository's HEAD into it, and runs COMMAND there in
# mount, process and host name namespaces of its own; the default is `scripts/quickstart.sh --once --clean`, and
# `scripts/test.sh` is the other one worth running. Only Rust is lent to it (scripts/setup.sh checks Rust and does not install
# it), and where this machine's apt finds its packages. The network is this machine's. Everything is ended and removed at
# the end, unless KEEP is set.
#
# CARGO_TARGET_DIR is lent too when it is set, and NARVANA_PROFILE is passed on: both only save time.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/bare-debian.sh
. scripts/bare-debian.sh

# Where the machine's parts are inside the root.
CLONE=/root/narvana
TARGET=/root/target

die() {
    printf 'check-fresh-machine: %s\n' "$*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || die "needs root: it makes namespaces and mounts"
for program in mmdebstrap unshare git cargo; do
    command -v "$program" >/dev/null || die "needs $program"
done

root=$(mktemp -d /tmp/fresh-machine.XXXXXX)
chmod 0755 "$root"
forget() {
    if [ -n "${KEEP:-}" ]; then
        printf 'check-fresh-machine: kept %s\n' "$root" >&2
        return
    fi
    # The mounts ended with their namespace; --one-file-system is the second net below a folder that was lent.
    rm -rf --one-file-system "$root"
}
trap forget EXIT

printf '\n==> Making a bare Debian in %s\n' "$root"
bare_debian "$root/system"

git clone --quiet --no-hardlinks . "$root/system$CLONE"
mkdir -p "$root/system/root/.cargo" "$root/system/root/.rustup" "$root/system$TARGET" "$root/system/usr/local/bin"

# The inner half: its mounts live in the namespace and end with it, and so does every process it leaves behind.
printf '\n==> %s\n' "${*:-scripts/quickstart.sh --once --clean}"
# shellcheck disable=SC2016 # Expanded by the inner shell.
NEW_ROOT=$root/system TARGET=$TARGET CLONE=$CLONE CARGO_FOLDER=${CARGO_HOME:-$HOME/.cargo} \
    RUSTUP_FOLDER=${RUSTUP_HOME:-$HOME/.rustup} NEXTEST=$(command -v cargo-nextest || true) \
    unshare --mount --pid --uts --ipc --fork --kill-child --propagation private bash -euo pipefail -c '
    hostname fresh
    # Container engines want a root that is a mount point.
    mount --bind "$NEW_ROOT" "$NEW_ROOT"
    mount -t proc proc "$NEW_ROOT/proc"
    mount --rbind /sys "$NEW_ROOT/sys"
    mount --rbind /dev "$NEW_ROOT/dev"
    mount -t tmpfs tmpfs "$NEW_ROOT/run"
    mount --bind "$CARGO_FOLDER" "$NEW_ROOT/root/.cargo"
    mount --bind "$RUSTUP_FOLDER" "$NEW_ROOT/root/.rustup"
    [ -z "${CARGO_TARGET_DIR:-}" ] || mount --bind "$CARGO_TARGET_DIR" "$NEW_ROOT$TARGET"
    if [ -n "$NEXTEST" ]; then
        touch "$NEW_ROOT/usr/local/bin/cargo-nextest"
        mount --bind "$NEXTEST" "$NEW_ROOT/usr/local/bin/cargo-nextest"
    fi
    [ $# -gt 0 ] || set -- scripts/quickstart.sh --once --clean
    # Not chroot: whoever joins the mount namespace of a container made there would come out in this machine'"'"'s own root.
    cd "$NEW_ROOT"
    pivot_root . mnt
    exec chroot . /usr/bin/env -i HOME=/root TERM=dumb LANG=C.UTF-8 CARGO_TARGET_DIR="$TARGET" \
        NARVANA_PROFILE="${NARVANA_PROFILE:-release}" \
        PATH=/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        bash -c "umount --lazy /mnt && cd $CLONE && exec \"\$@\"" bash "$@"
' bash "$@" &
inner=$!
# unshare ignores what can be ignored; the namespace, and all that runs in it, ends with it.
trap 'kill -KILL "$inner"; wait "$inner" || true; exit 143' INT TERM
wait "$inner"
printf '\n==> Passed on a fresh machine\n'
