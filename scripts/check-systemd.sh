#!/usr/bin/env bash
# Walks the life of a node that `--service` handed to systemd, on a machine where systemd runs: a minimal Debian root in
# namespaces of its own (mounts, processes, network, control groups), with systemd as its first process.
#
#   sudo scripts/check-systemd.sh [PROGRAM]
#
# `init`, a node that is killed, `run` with other flags, a stop, a damaged folder; an application runs on through all of it.
# PROGRAM is the narvana to check; without it, the development profile is built. Everything is ended and removed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/bare-debian.sh
. scripts/bare-debian.sh

# Systemd and the node start in seconds; this is for a machine that is far worse.
SECONDS_MAX=90

say() { printf '\n==> %s\n' "$*"; }
die() {
    printf 'check-systemd: %s\n' "$*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || die "needs root: it makes namespaces and mounts"
for program in mmdebstrap unshare nsenter busybox; do
    command -v "$program" >/dev/null || die "needs $program"
done
program=${1:-}
if [ -z "$program" ]; then
    cargo build --locked
    program=${CARGO_TARGET_DIR:-target}/debug/narvana
fi
[ -x "$program" ] || die "$program is no program"

root=$(mktemp -d /tmp/check-systemd.XXXXXX)
chmod 0755 "$root"
system=$root/system groups=narvana-check-$$ init=''

# Every control group below one that this check made, in every hierarchy.
control_groups() { find /sys/fs/cgroup -depth -type d -path "*/$groups*" 2>/dev/null || true; }

forget() {
    # Whatever runs there ends with the first process of its namespace.
    [ -z "$init" ] || { kill -KILL "$init" 2>/dev/null && wait "$init" 2>/dev/null; } || true
    # A group can be removed when the last of its processes is gone, which their end does not wait for.
    local group tries
    for tries in {1..50}; do
        for group in $(control_groups); do rmdir "$group" 2>/dev/null || true; done
        [ -n "$(control_groups)" ] || break
        [ "$tries" -lt 50 ] && sleep 0.1
    done
    rm -rf --one-file-system "$root"
}
trap forget EXIT

say "Making a Debian with systemd and Podman in $root"
bare_debian "$system" systemd systemd-sysv dbus podman catatonit netavark aardvark-dns iptables
install -m 0755 "$program" "$system/usr/local/bin/narvana"
# An application that needs no network to be built.
mkdir "$system/root/hello"
cp "$(command -v busybox)" "$system/root/hello/busybox"
cat >"$system/root/hello/Dockerfile" <<'DOCKERFILE'
FROM scratch
COPY busybox /busybox
EXPOSE 8000
CMD ["/busybox", "httpd", "-f", "-p", "8000"]
DOCKERFILE

say "Starting systemd"
# Below control groups of its own, so that it finds and leaves nothing in this machine's.
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*/; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    mkdir -p "$hierarchy/$groups"
    # cpuset takes no process before it is told where they may run.
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$hierarchy/$groups/$file" ] || cat "$hierarchy/$file" >"$hierarchy/$groups/$file"
    done
done
# shellcheck disable=SC2016 # Expanded by the inner shells.
GROUPS_NAME=$groups NEW_ROOT=$system bash -euo pipefail -c '
    for procs in /sys/fs/cgroup/"$GROUPS_NAME"/cgroup.procs /sys/fs/cgroup/*/"$GROUPS_NAME"/cgroup.procs; do
        [ ! -e "$procs" ] || echo $$ >"$procs"
    done
    exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child --propagation private bash -euo pipefail -c '\''
        ip link set lo up
        hierarchies=$(cut -d: -f2 /proc/self/cgroup)
        mount --bind "$NEW_ROOT" "$NEW_ROOT"
        mount -t proc proc "$NEW_ROOT/proc"
        mount -t sysfs sysfs "$NEW_ROOT/sys"
        mount --rbind /dev "$NEW_ROOT/dev"
        mount -t tmpfs tmpfs "$NEW_ROOT/run"
        mount -t tmpfs tmpfs "$NEW_ROOT/tmp"
        groups=$NEW_ROOT/sys/fs/cgroup
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
            mount -t cgroup2 cgroup2 "$groups"
        else
            mount -t tmpfs tmpfs "$groups"
            for hierarchy in $hierarchies; do
                mkdir "$groups/${hierarchy#name=}"
                mount -t cgroup -o "$hierarchy" cgroup "$groups/${hierarchy#name=}"
            done
            mkdir "$groups/unified"
            mount -t cgroup2 cgroup2 "$groups/unified"
        fi
        cd "$NEW_ROOT"
        pivot_root . mnt
        exec chroot . /usr/bin/env -i container=narvana-check \
            sh -c "umount --lazy /mnt && exec /lib/systemd/systemd --unit=multi-user.target"
    '\'' 
' </dev/null >"$root/console" 2>&1 &
init=$!

# `within COMMAND…`: until it succeeds, or the time is over.
within() {
    local deadline=$((SECONDS + SECONDS_MAX))
    until "$@" >"$root/last" 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || {
            cat "$root/last" "$root/console" >&2
            die "not within $SECONDS_MAX s: $*"
        }
        sleep 0.2
    done
}

first_process() {
    first=$(pgrep --parent "$init")
    [ "$(cat "/proc/$first/comm")" = systemd ]
}
inside() {
    nsenter --target "$first" --mount --pid --net --uts --ipc --cgroup --root --wd \
        env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}
property() { inside systemctl show --property "$1" --value narvana.service; }
expect() {
    [ "$2" = "$3" ] || {
        inside journalctl --no-pager --unit narvana.service | tail -40 >&2
        die "$1: expected $3, found $2"
    }
}
serves() { inside curl --silent --fail --output /dev/null http://127.0.0.1:8080/readyz; }
another_process() { [ "$(property MainPID)" != "$1" ] && [ "$(property ActiveState)" = active ]; }

within first_process
within inside systemctl is-active multi-user.target

say "narvana init --service: returns when the node serves, and is started with the machine"
inside narvana init --service
expect state "$(property ActiveState)" active
expect "at boot" "$(inside systemctl is-enabled narvana.service)" enabled

say "An application"
head -c 24 /dev/urandom | base64 | inside narvana --api http://127.0.0.1:8080 register --password-stdin admin@example.com
inside narvana deploy /root/hello
container=$(inside podman ps --quiet)
[ -n "$container" ] || die "no container runs"

say "The node is killed: systemd starts it again, and its container goes on"
before=$(property MainPID)
inside systemctl kill --kill-who main --signal KILL narvana.service
within another_process "$before"
within inside narvana status
expect "the container" "$(inside podman ps --quiet)" "$container"

say "narvana run --service with other flags: the unit is replaced and the node restarted"
inside narvana run --service --log debug
expect state "$(property ActiveState)" active
inside systemctl cat narvana.service | grep --quiet debug || die "the unit does not have the flag"
expect "the container" "$(inside podman ps --quiet)" "$container"

say "A stop is clean, and leaves the container running"
inside systemctl stop narvana.service
expect result "$(property Result)" success
expect state "$(property ActiveState)" inactive
expect "the container" "$(inside podman ps --quiet)" "$container"

say "A damaged folder: exit code 78, and systemd does not start it again"
identity=$system/var/lib/narvana/identity.json
cp "$identity" "$root/identity.json"
echo '{' >"$identity"
if inside systemctl start narvana.service; then die "a node started on a damaged folder"; fi
expect state "$(property ActiveState)" failed
expect "exit code" "$(property ExecMainStatus)" 78
expect restarts "$(property NRestarts)" 0
cp "$root/identity.json" "$identity"
inside systemctl start narvana.service
expect state "$(property ActiveState)" active

say "Passed with $(inside systemctl --version | head -n 1)"
