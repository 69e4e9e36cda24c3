#!/usr/bin/env bash
# Makes the stand-in for nixpkgs of flake.nix, puts it into the Nix store, and prints its path.
#
#   make.sh FOLDER    a folder that is kept between runs, for what was made
#
# What goes into it is this machine's: busybox, patchelf, Go, Node.js with npm, the authorities of TLS.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
exec 9>lock
flock 9

npm=$(readlink -f "$(command -v npm)")
npm=${npm%/bin/npm-cli.js}
# Debian's own has its packages elsewhere, and would not find them in a sandbox.
[ -d "$npm/node_modules" ] || {
    printf 'the npm in %s is not whole: install Node.js with the npm that it comes with (not the package npm of Debian)\n' "$npm" >&2
    exit 1
}

# What it was made of, so that it is made anew when that changes.
wanted=$(cat "$here/flake.nix" "$here/make.sh" && node --version && npm --version && go version)
if [ -e made ] && [ "$(cat wanted)" = "$wanted" ] && [ -e "$(cat made)" ]; then
    cat made
    exit
fi
rm -rf made wanted nixpkgs

# part NAME [PROGRAM…]: a folder of the stand-in, with the libraries of programs.
part() {
    local folder=nixpkgs/tools/$1 program library
    shift
    mkdir -p "$folder"
    [ $# -eq 0 ] || install -D -m 755 "$(ldd "$1" | awk '/ld-linux/ { print $1 }')" "$folder/lib/ld.so"
    for program in "$@"; do
        for library in $(ldd "$program" | awk '$3 ~ /^\// { print $3 }'); do
            install -D -m 644 "$library" "$folder/lib/${library##*/}"
        done
    done
}

part busybox
cp "$(command -v busybox)" nixpkgs/tools/busybox/busybox
part cacert
install -D -m 644 /etc/ssl/certs/ca-certificates.crt nixpkgs/tools/cacert/etc/ssl/certs/ca-bundle.crt
part patchelf "$(command -v patchelf)"
install -D "$(command -v patchelf)" nixpkgs/tools/patchelf/bin/patchelf

node=$(readlink -f "$(command -v node)")
part nodejs "$node"
install -D "$node" nixpkgs/tools/nodejs/bin/node
mkdir -p nixpkgs/tools/nodejs/lib/node_modules
cp -rL "$npm" nixpkgs/tools/nodejs/lib/node_modules/npm
node --version | tr -d 'v\n' >nixpkgs/tools/nodejs/version

root=$(go env GOROOT)
part go "$root/bin/go"
go=nixpkgs/tools/go/share/go
mkdir -p $go/bin $go/pkg
cp -L "$root/bin/go" $go/bin/
cp -L "$root/VERSION" $go/
cp -rL "$root/src" $go/src
cp -rL "$root/pkg/include" "$root/pkg/tool" $go/pkg/
# Neither tests nor the tools' own source are built.
rm -rf $go/src/cmd
find $go/src \( -name testdata -o -name '*_test.go' \) -prune -exec rm -rf {} +
go env GOVERSION | tr -d 'go\n' >nixpkgs/tools/go/version

cp "$here/flake.nix" nixpkgs/
uname -m | tr -d '\n' >nixpkgs/system
printf -- '-linux' >>nixpkgs/system
nix --extra-experimental-features nix-command store add-path --name nixpkgs nixpkgs >made
printf '%s\n' "$wanted" >wanted
rm -rf nixpkgs
cat made
