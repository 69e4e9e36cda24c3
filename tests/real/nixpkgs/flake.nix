{
  description = "Stands in for nixpkgs where that cannot be fetched: the same names, made of this machine's programs.";
  outputs = { self }: let
    system = builtins.readFile ./system;
    part = name: builtins.path { path = ./tools + "/${name}"; inherit name; };
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
    # A program of this machine with its libraries, made to find them beside itself.
    made = name: attributes: script: let
      version = builtins.readFile (./tools + "/${name}/version");
    in (runCommand "${name}-${version}" (attributes // { src = part name; }) script) // { inherit version; };
  in {
    legacyPackages.${system} = {
      inherit runCommand;
      # Changed, its program does not start any more: so it is started by the loader.
      go = made "go" { } ''
        cp -r "$src" "$out"
        chmod -R u+w "$out"
        mkdir "$out/bin"
        printf '#!%s\nexport GOROOT=%s\nexec %s --library-path %s %s "$@"\n' \
          ${shell} "$out/share/go" "$out/lib/ld.so" "$out/lib" "$out/share/go/bin/go" > "$out/bin/go"
        chmod +x "$out/bin/go"
      '';
      nodejs = made "nodejs" { patchelf = part "patchelf"; } ''
        cp -r "$src" "$out"
        chmod -R u+w "$out"
        "$patchelf/lib/ld.so" --library-path "$patchelf/lib" "$patchelf/bin/patchelf" \
          --set-interpreter "$out/lib/ld.so" --set-rpath "$out/lib" "$out/bin/node"
        printf '#!%s\nexec %s %s "$@"\n' ${shell} "$out/bin/node" "$out/lib/node_modules/npm/bin/npm-cli.js" > "$out/bin/npm"
        chmod +x "$out/bin/npm"
      '';
      cacert = part "cacert";
      # Of a real one there is no shell in it.
      coreutils = runCommand "coreutils" { } ''
        cp -r ${base} "$out"
        chmod -R u+w "$out"
        rm "$out"/bin/*sh
      '';
      runtimeShell = shell;
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
    };
  };
}
