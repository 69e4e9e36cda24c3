{
  description = "Stands in for nixpkgs where that cannot be fetched: the same names, made of this machine's programs.";
  outputs = { self }: let
    system = builtins.readFile ./system;
    about = name: what: builtins.readFile (./parts + "/${name}/${what}");
    # It is in the store already: Nix, told the hash, does not read it again.
    part = name: builtins.path {
      inherit name;
      path = ./parts + "/${name}";
      sha256 = about name "hash";
    };
    seed = part "busybox";
    sh = "${seed}/busybox";
    shell = "${base}/bin/sh";
    base = derivation {
      name = "coreutils";
      inherit system;
      builder = sh;
      args = [ "sh" "-c" "${sh} mkdir -p $out/bin; ${sh} cp ${sh} $out/bin/busybox; for name in $($out/bin/busybox --list); do [ $name = busybox ] || $out/bin/busybox ln -s busybox $out/bin/$name; done" ];
    };
    runCommand = name: attributes: buildCommand: derivation (attributes // {
      inherit name system buildCommand;
      builder = "${base}/bin/busybox";
      args = [ "sh" "-c" ''
        set -eu
        PATH=${base}/bin
        for input in ''${nativeBuildInputs:-}; do PATH=$input/bin:$PATH; done
        export PATH
        eval "$buildCommand"
      '' ];
    });
    fetchurl = { url, hash ? "", sha256 ? "", name ? baseNameOf url }: derivation {
      inherit name url;
      system = "builtin";
      builder = "builtin:fetchurl";
      outputHashMode = "flat";
      outputHashAlgo = if hash == "" then "sha256" else null;
      outputHash = if hash == "" then sha256 else hash;
      executable = false;
      unpack = false;
      preferLocalBuild = true;
      impureEnvVars = [ "http_proxy" "https_proxy" "ftp_proxy" "all_proxy" "no_proxy" ];
    };
    patchelf = let it = part "patchelf"; in "${it}/lib/ld.so --library-path ${it}/lib ${it}/bin/patchelf";
    # A program of this machine with its libraries, made to find them beside itself.
    made = name: script: let
      version = about name "version";
    in (runCommand "${name}-${version}" { src = part name; } script) // { inherit version; };
    copied = ''
      cp -r "$src" "$out"
      chmod -R u+w "$out"
    '';
    # What programs need that are built here, and nothing else of who builds them.
    libc = part "libc";
    libraries = name: runCommand name { src = part name; } ''
      ${copied}
      ${patchelf} --set-rpath "${libc}/lib:$out/lib" "$out"/lib/*
    '';
    libgcc = libraries "libgcc";
    # A tree like this machine's own, so that the compiler finds everything there once it is told of it.
    gcc = made "gcc" ''
      ${copied}
      ${patchelf} --set-interpreter "$out/lib/ld.so" --force-rpath --set-rpath "$out/lib" \
        "$out"/bin/* "$out"/lib/gcc/*/*/cc1 "$out"/lib/gcc/*/*/cc1plus "$out"/lib/gcc/*/*/collect2
      ln -s . "$out/usr"
      ln -s lib "$out/lib64"
      ln -s ${libc}/lib/ld-* "$out/lib/"
      ln -sf ${libc}/lib/* ${libgcc}/lib/* "$out"/lib/*-linux-gnu*/
      cd "$out"/lib/gcc/*/*/
      ln -s "$out/bin/as" "$out/bin/ld" .
      # What is linked finds its loader and libraries, as by the wrapper of a real one.
      loader=$(basename ${libc}/lib/ld-*)
      "$out/bin/gcc" -dumpspecs | sed \
        -e "/^\*link:/{n;s|^|%{!r:%{!static:%{!static-pie:-rpath ${libc}/lib -rpath ${libgcc}/lib}}} |}" \
        -e "s|/lib[0-9a-z]*/$loader|${libc}/lib/$loader|g" > specs
      for program in gcc g++; do
        mv "$out/bin/$program" "$out/bin/.$program"
        printf '#!%s\nexec %s --sysroot=%s -fno-use-linker-plugin "$@"\n' \
          ${shell} "$out/bin/.$program" "$out" > "$out/bin/$program"
        chmod +x "$out/bin/$program"
      done
      ln -s gcc "$out/bin/cc"
      ln -s g++ "$out/bin/c++"
    '';
    # A real one links by its compiler's own linker too.
    linking = if system == "x86_64-linux" then "-Clinker-features=-lld" else "";
    rustPackagesOf = registry: {
      rustc = made "rust" ''
        mkdir -p "$out/bin"
        printf '#!%s\nexec %s --library-path %s %s %s "$@"\n' \
          ${shell} "$src/lib/ld.so" "$src/lib" "$src/bin/rustc" "${linking}" > "$out/bin/rustc"
        chmod +x "$out/bin/rustc"
      '';
      cargo = made "rust" ''
        mkdir -p "$out/bin"
        cp "$src/bin/cargo" "$out/bin/"
        chmod u+w "$out/bin/cargo"
        ${patchelf} --set-interpreter "$src/lib/ld.so" --set-rpath "$src/lib" "$out/bin/cargo"
      '';
      rustPlatform.importCargoLock = { lockFile, ... }: let
        crate = { name, version, checksum ? throw "${name} ${version} is not of a registry", ... }:
          runCommand "${name}-${version}" {
            inherit checksum;
            src = fetchurl {
              name = "crate-${name}-${version}.tar.gz";
              url = "${registry}/${name}/${version}/download";
              sha256 = checksum;
            };
          } ''
            mkdir "$out"
            tar xzf "$src" -C "$out" --strip-components=1
            printf '{"files":{},"package":"%s"}' "$checksum" > "$out/.cargo-checksum.json"
          '';
        packages = (builtins.fromTOML (builtins.readFile lockFile)).package or [ ];
      in runCommand "cargo-vendor-dir" {
        inherit lockFile;
        crates = map crate (builtins.filter (it: it ? source) packages);
        passAsFile = [ "crates" ];
      } ''
        mkdir -p "$out/.cargo"
        cat > "$out/.cargo/config.toml" <<END
        [source.crates-io]
        replace-with = "vendored-sources"
        [source.vendored-sources]
        directory = "cargo-vendor-dir"
        END
        ln -s "$lockFile" "$out/Cargo.lock"
        for crate in $(cat "$cratesPath"); do
          name=''${crate##*/}
          ln -s "$crate" "$out/''${name#*-}"
        done
      '';
    };
    python3 = made "python3" ''
      ${copied}
      rm "$out/lib/ld.so"
      for library in ${libc}/lib/*; do rm -f "$out/lib/''${library##*/}"; done
      ${patchelf} --set-interpreter ${libc}/lib/ld-* "$out"/bin/*
      ${patchelf} --set-rpath "${libc}/lib:$out/lib" "$out"/bin/* "$out"/lib/*.so* "$out"/lib/python*/lib-dynload/*
      cd "$out/bin"
      for name in python3 python; do [ -e $name ] || ln -s python3.* $name; done
    '';
    # What is written for Node.js, whichever runs it.
    manager = name: program: made name ''
      ${copied}
      printf '#!%s\nexec node %s "$@"\n' ${shell} "$out/bin/${program}" > "$out/bin/${name}"
      chmod +x "$out/bin/${name}"
    '';
    pip = made "pip" ''
      ${copied}
      mkdir "$out/bin"
      cat > "$out/bin/pip" <<END
      #!${python3}/bin/python3
      import sys
      sys.path.insert(0, "$(echo "$out"/lib/*/site-packages)")
      from pip._internal.cli.main import main
      sys.exit(main())
      END
      chmod +x "$out/bin/pip"
    '';
  in {
    legacyPackages.${system} = {
      inherit runCommand fetchurl rustPackagesOf;
      runCommandCC = name: attributes:
        runCommand name (attributes // { nativeBuildInputs = [ gcc ] ++ attributes.nativeBuildInputs or [ ]; });
      stdenv.cc = gcc // { cc = gcc // { lib = libgcc; }; };
      zlib = libraries "zlib";
      rustPackages = rustPackagesOf (throw "the stand-in for nixpkgs knows no registry of Rust: see rustPackagesOf");
      python3 = python3 // { pkgs = { inherit pip; }; };
      # Changed, its program does not start any more: so it is started by the loader.
      go = made "go" ''
        ${copied}
        mkdir "$out/bin"
        printf '#!%s\nexport GOROOT=%s\nexec %s --library-path %s %s "$@"\n' \
          ${shell} "$out/share/go" "$out/lib/ld.so" "$out/lib" "$out/share/go/bin/go" > "$out/bin/go"
        chmod +x "$out/bin/go"
      '';
      nodejs = made "nodejs" ''
        ${copied}
        rm "$out/lib/ld.so"
        for library in ${libc}/lib/*; do rm -f "$out/lib/''${library##*/}"; done
        # Of what it loads itself too: a real one has its libraries where its loader looks for them.
        ${patchelf} --set-interpreter ${libc}/lib/ld-* --force-rpath --set-rpath "${libc}/lib:$out/lib" "$out/bin/node"
        printf '#!%s\nexec %s %s "$@"\n' ${shell} "$out/bin/node" "$out/lib/node_modules/npm/bin/npm-cli.js" > "$out/bin/npm"
        chmod +x "$out/bin/npm"
      '';
      yarn = manager "yarn" "yarn.js";
      pnpm = manager "pnpm" "pnpm.cjs";
      pnpm_9 = manager "pnpm" "pnpm.cjs";
      # As Go's: it is started by the loader.
      caddy = made "caddy" ''
        ${copied}
        mkdir "$out/bin"
        printf '#!%s\nexec %s --library-path %s %s "$@"\n' \
          ${shell} "$out/lib/ld.so" "$out/lib" "$out/share/caddy" > "$out/bin/caddy"
        chmod +x "$out/bin/caddy"
      '';
      cacert = part "cacert";
      # Of a real one there is no shell in it.
      coreutils = runCommand "coreutils" { } ''
        cp -r ${base} "$out"
        chmod -R u+w "$out"
        rm "$out"/bin/*sh
      '';
      runtimeShell = shell;
    };
  };
}
