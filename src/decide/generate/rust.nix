# Builds a program of Rust from ./source, as ./plan.json says.
{
  description = "Written by narvana for a source of Rust";
  inputs.nixpkgs.url = NIXPKGS;
  outputs = { self, nixpkgs }: let
    plan = builtins.fromJSON (builtins.readFile ./plan.json);
    pkgs = nixpkgs.legacyPackages.${plan.system};
    # The first of those that are wanted which this nixpkgs has and lets be used.
    there = name: builtins.tryEval (let it = pkgs.${name} or null; in builtins.seq (it.rustc.drvPath or null) it);
    rust = (builtins.head (builtins.filter (it: it.success && it.value != null) (map there plan.toolchains))).value;
    folder = if plan.root == "" then ./source else ./source + "/${plan.root}";
    # Packages that the service wants besides, by their names in nixpkgs.
    extra = map (path: builtins.foldl' (set: name: set.${name} or (throw "this nixpkgs has no ${builtins.concatStringsSep "." path}"))
      pkgs path) plan.extra;
    # What it wants to run before and after: lines of shell, each of which has to work.
    hooks = { before = plan.before; after = plan.after; passAsFile = [ "before" "after" ]; };
    hook = ''hook() { if [ -s "$1" ]; then sh -e "$1"; fi; }'';
    copy = path: builtins.toFile "file" (builtins.readFile (folder + "/${path}"));
    # Each is fetched by its checksum.
    crates = rust.rustPlatform.importCargoLock { lockFile = folder + "/Cargo.lock"; };
    settings = plan.environment // {
      inherit crates;
      inherit (plan) binary scope root;
      nativeBuildInputs = [ rust.rustc rust.cargo ] ++ extra;
    };
    # Of a folder in the store, programs would name it in what they say when they panic, and need it for that.
    begin = ''
      export HOME="$TMPDIR" CARGO_HOME="$TMPDIR/cargo" CARGO_TARGET_DIR="$TMPDIR/target"
      # What the settings of a source may name, and is not here.
      export RUSTC_WRAPPER= CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=cc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=cc
      # With their dates, by which cargo tells what has to be compiled again.
      cp -rLp "$crates" "$TMPDIR/crates"
      fetched() {
        cargo "$@" --release --locked --offline \
          --config 'source.crates-io.replace-with="fetched"' --config "source.fetched.directory=\"$TMPDIR/crates\""
      }
      compile() { fetched build -j "$NIX_BUILD_CORES" "$scope" --bin="$binary"; }
    '';
    # What the program needs, compiled. It is made again when the manifests change, and not when the program does. Where crates need some of
    # the source's own there is none of it.
    compiled = if !plan.apart then null else pkgs.runCommandCC "rust-crates" (settings // {
      inherit (plan) packages manifests targets;
      texts = map copy plan.manifests;
      lock = copy "Cargo.lock";
      passAsFile = [ "packages" "manifests" "targets" "texts" ];
    }) ''
      ${begin}
      mkdir -p "$TMPDIR/source/$root"
      cd "$TMPDIR/source/$root"
      cp "$lock" Cargo.lock
      set -- $(cat "$manifestsPath")
      for text in $(cat "$textsPath"); do
        mkdir -p "$(dirname "$1")"
        cp "$text" "$1"
        shift
      done
      for target in $(cat "$targetsPath"); do
        mkdir -p "$(dirname "$target")"
        # Also where a manifest denies what this does.
        printf '//! .\n#![allow(warnings, unused)]\n/// .\npub fn main() {}\n' > "$target"
      done
      compile
      # Nothing of them is the source's.
      for package in $(cat "$packagesPath"); do
        fetched clean --package "$package"
      done
      cp -r "$CARGO_TARGET_DIR" "$out"
    '';
  in {
    packages.${plan.system} = {
      default = pkgs.runCommandCC plan.name (settings // hooks // {
        inherit compiled;
        inherit (pkgs) cacert;
        src = builtins.path { path = ./source; name = "source"; };
        disallowedReferences = [ rust.rustc (rust.rustc.unwrapped or rust.rustc) crates ];
      }) ''
        ${hook}
        ${begin}
        mkdir "$CARGO_TARGET_DIR"
        if [ -n "$compiled" ]; then cp -rp "$compiled/." "$CARGO_TARGET_DIR"; fi
        cp -r "$src" "$TMPDIR/source"
        chmod -R u+w "$CARGO_TARGET_DIR" "$TMPDIR/source"
        cd "$TMPDIR/source/$root"
        hook "$beforePath"
        compile
        hook "$afterPath"
        mkdir -p "$out/bin" "$out/etc"
        # Where the settings say for which machine, it is a folder deeper.
        for folder in "$CARGO_TARGET_DIR" "$CARGO_TARGET_DIR"/*-*-*; do
          if [ -f "$folder/release/$binary" ]; then cp "$folder/release/$binary" "$out/bin/"; fi
        done
        # What it says for debuggers names the compiler, which the image would hold then.
        strip -S "$out/bin/$binary"
        ln -s "$cacert/etc/ssl" "$out/etc/ssl"
      '';
      # What is asked before anything is fetched.
      toolchain = pkgs.runCommand "toolchain" { inherit (rust.rustc) version; } ''
        printf '%s\n' "$version" > "$out"
      '';
    };
  };
}
