#!/usr/bin/env bash
# Makes the stand-in for nixpkgs of flake.nix, puts it into the Nix store, and prints its path.
#
#   make.sh FOLDER    a folder that is kept between runs, for what was made
#
# What goes into it is this machine's: busybox, patchelf, GCC with libc, Rust, Python with pip, Go, Node.js with npm, Yarn and pnpm,
# Caddy, the authorities of TLS.
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

# The program, what comes with it, where its packages are, and the versions of both.
mapfile -t python < <(python3 -c '
import os, platform, sys, pip
print(os.path.realpath(sys.executable), os.path.dirname(os.__file__), os.path.dirname(pip.__path__[0]), sep="\n")
print(platform.python_version(), pip.__version__, sep="\n")')
[ ${#python[@]} = 5 ] || {
    printf 'the Python of %s has no pip: install it for that one (the package python3-pip of Debian)\n' "$(command -v python3)" >&2
    exit 1
}

# What it was made of, so that it is made anew when that changes.
wanted=$(
    cat "$here/flake.nix" "$here/make.sh"
    node --version && npm --version && yarn --version && pnpm --version && caddy version && go version && rustc --version --verbose && gcc --version
    printf '%s\n' "${python[@]}"
)
if [ -e made ] && [ "$(cat wanted)" = "$wanted" ] && cat "$(cat made)"/parts/*/path | xargs ls -d >/dev/null; then
    cat made
    exit
fi
rm -rf made wanted nixpkgs tools
mkdir -p nixpkgs/parts tools

# part NAME [PROGRAM…]: a folder of the stand-in, with the libraries of programs.
part() {
    local folder=tools/$1
    shift
    mkdir -p "$folder"
    [ $# -eq 0 ] || install -D -m 755 "$(ldd "$1" | awk '/ld-linux/ { print $1 }')" "$folder/lib/ld.so"
    [ $# -eq 0 ] || ldd "$@" | awk '$3 ~ /^\// { print $3 }' | sort -u | xargs install -D -m 644 -t "$folder/lib"
}

add() { nix --extra-experimental-features nix-command store add-path --name "$1" "$2"; }
# keep NAME…: puts what is complete into the store, while others are made.
jobs=()
keep() {
    local name folder
    for name in "$@"; do
        folder=nixpkgs/parts/$name
        mkdir "$folder"
        [ ! -e "tools/$name/version" ] || mv "tools/$name/version" "$folder/"
        add "$name" "tools/$name" >"$folder/path"
        nix-store --query --hash "$(cat "$folder/path")" | tr -d '\n' >"$folder/hash"
        rm -rf "tools/${name:?}"
    done &
    jobs+=($!)
}

sysroot=$(rustc --print sysroot)
target=$(rustc --version --verbose | sed -n 's/^host: //p')
part rust "$sysroot/bin/rustc" "$sysroot/bin/cargo"
install -D -t tools/rust/bin "$sysroot/bin/rustc" "$sysroot/bin/cargo"
mkdir -p "tools/rust/lib/rustlib/$target"
cp -r "$sysroot/lib/rustlib/$target/lib" "tools/rust/lib/rustlib/$target/"
rm -f "tools/rust/lib/rustlib/$target/lib"/librustc-*_rt.*.a
rustc --version | cut -d ' ' -f 2 | tr -d '\n' >tools/rust/version
keep rust

part busybox
# Without ar: its shell prefers its own programs to those of the PATH, and that one makes no archives.
sed -z 's/^ar$/ap/' "$(command -v busybox)" >tools/busybox/busybox
chmod +x tools/busybox/busybox
part cacert
install -D -m 644 /etc/ssl/certs/ca-certificates.crt tools/cacert/etc/ssl/certs/ca-bundle.crt
part patchelf "$(command -v patchelf)"
install -D "$(command -v patchelf)" tools/patchelf/bin/patchelf
keep busybox cacert patchelf

node=$(readlink -f "$(command -v node)")
part nodejs "$node"
install -D "$node" tools/nodejs/bin/node
mkdir -p tools/nodejs/lib/node_modules
cp -rL "$npm" tools/nodejs/lib/node_modules/npm
node --version | tr -d 'v\n' >tools/nodejs/version
for manager in yarn pnpm; do
    part $manager
    folder=$(readlink -f "$(command -v $manager)")
    cp -r "${folder%/bin/*}"/. tools/$manager/
    $manager --version | tr -d '\n' >tools/$manager/version
done
caddy=$(command -v caddy)
part caddy "$caddy"
install -D -t tools/caddy/share "$caddy"
printf %s "$(caddy version)" >tools/caddy/version
keep nodejs yarn pnpm caddy

root=$(go env GOROOT)
part go "$root/bin/go"
go=tools/go/share/go
mkdir -p $go/bin $go/pkg $go/src
cp -L "$root/bin/go" $go/bin/
cp -L "$root/VERSION" $go/
cp -rL "$root/pkg/include" "$root/pkg/tool" $go/pkg/
# Neither tests nor the tools' own source are built.
tar -C "$root/src" -ch --exclude={./cmd,testdata,'*_test.go'} . | tar -C $go/src -x
go env GOVERSION | tr -d 'go\n' >tools/go/version
keep go

# machine FOLDER FILE…: those that the compiler knows by these names, under the names that programs know.
machine() {
    local folder=$1 file
    shift
    for file in "$@"; do
        file=$(gcc -print-file-name="$file")
        [ ! -e "$file" ] || install -D -t "$folder" "$file"
    done
}

compiler=$(dirname "$(gcc -print-prog-name=cc1)")
release=$(gcc -dumpversion)
triple=$(gcc -print-multiarch)
programs=(gcc g++ as ld ar ranlib strip nm objcopy)
mapfile -t found < <(command -v "${programs[@]}")
part gcc "${found[@]}" "$compiler/cc1" "$compiler/cc1plus" "$compiler/collect2"
gcc=tools/gcc
for program in "${found[@]}"; do
    install -D "$(readlink -f "$program")" "$gcc/bin/${program##*/}"
done
mkdir -p "$gcc${compiler#/usr}" $gcc/include/c++ "$gcc/include/$triple/c++"
(cd "$compiler" && cp -r cc1 cc1plus collect2 crt*.o include libgcc*.* libstdc++.* libsupc++.a "$OLDPWD/$gcc${compiler#/usr}/")
cp -r "/usr/include/c++/$release" $gcc/include/c++/
cp -r "/usr/include/$triple/c++/$release" "$gcc/include/$triple/c++/"
# The headers of libc and of the kernel, and what programs begin with.
dpkg -L libc6-dev linux-libc-dev | sed -nE 's,^/usr/(include|lib)/,\1/,p' |
    tar -C /usr -c --no-recursion -T - | tar -x -C $gcc
printf %s "$release" >$gcc/version
keep gcc
part libc
# With what ends its threads, which it looks for when it needs it.
machine tools/libc/lib libgcc_s.so.1 "$(basename "$(ldd "$(command -v gcc)" | awk '/ld-linux/ { print $1 }')")" \
    libc.so.6 libm.so.6 libmvec.so.1 libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1 libresolv.so.2
patchelf --set-rpath "\$ORIGIN" tools/libc/lib/libc.so.6
part libgcc
machine tools/libgcc/lib libgcc_s.so.1 libstdc++.so.6
part zlib
machine tools/zlib/lib libz.so.1
keep libc libgcc zlib

library=tools/python3/lib/${python[1]##*/}
mkdir -p "$library" "tools/pip/lib/${python[1]##*/}/site-packages"
tar -C "${python[1]}" -c --exclude={test,tests,idlelib,lib2to3,tkinter,turtledemo,ensurepip,'config-*',{site,dist}-packages} \
    --exclude={'_tkinter.*','_test*.so','xxlimited*','*.opt-?.pyc'} . | tar -C "$library" -x
part python3 "${python[0]}" "$library"/lib-dynload/*.so
install -D -t tools/python3/bin "${python[0]}"
find tools/python3/lib \( -name 'libpython*' -o -path '*/lib-dynload/*.so' \) -exec strip --strip-unneeded {} +
printf %s "${python[3]}" >tools/python3/version
cp -r "${python[2]}"/pip{,-*-info} "tools/pip/lib/${python[1]##*/}/site-packages/"
printf %s "${python[4]}" >tools/pip/version
# What is compiled is good for a source of one date, and Nix gives all files the same.
python3 - tools/python3 tools/pip <<'END'
import pathlib, sys

for file in [file for folder in sys.argv[1:] for file in pathlib.Path(folder).rglob("*.pyc")]:
    data = file.read_bytes()
    if not any(data[4:8]):
        file.write_bytes(data[:8] + (1).to_bytes(4, "little") + data[12:])
END
keep python3 pip

cp "$here/flake.nix" nixpkgs/
uname -m | tr -d '\n' >nixpkgs/system
printf -- '-linux' >>nixpkgs/system
for job in "${jobs[@]}"; do wait "$job"; done
add nixpkgs nixpkgs >made
printf '%s\n' "$wanted" >wanted
rm -rf nixpkgs tools
cat made
