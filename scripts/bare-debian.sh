# Sourced by the checks that need a machine of their own: a minimal Debian root whose network is as usable as this machine's.
# shellcheck shell=bash

# bare_debian ROOT [PACKAGE…]: makes it in ROOT, with these packages added.
bare_debian() {
    local root=$1 packages
    shift
    packages=$(IFS=,; printf '%s' "$*")
    mmdebstrap --quiet --variant=minbase ${packages:+"--include=$packages"} bookworm "$root"
    # What the network needs to be as usable as it is here; update-ca-certificates finds the authorities when it is installed.
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    cp -R /etc/apt/apt.conf.d /etc/apt/sources.list.d "$root/etc/apt/"
    rm -f "$root/etc/apt/sources.list.d/"*.list "$root/etc/apt/sources.list"
    if [ -d /usr/local/share/ca-certificates ]; then
        cp -R /usr/local/share/ca-certificates "$root/usr/local/share/"
    fi
}
