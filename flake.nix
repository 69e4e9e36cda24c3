# How narvana is built, developed and checked with Nix (flakes enabled):
#
#   nix build            the program, in result/bin/narvana
#   nix run . -- --help  the same, run at once
#   nix develop          a shell with the compiler and the tools of scripts/
#   nix fmt              formats this file (Rust is formatted by cargo fmt)
#   nix flake check      formatting, clippy, and the tests that need no container engine
#
# The tests in tests/real drive real engines and real processes, which Nix's sandbox has not: scripts/test.sh runs those,
# and everything else. There is no flake.lock in the repository: the first command writes one, and a site that cannot
# reach GitHub points the input at its own copy with `--override-input nixpkgs <flake>`. The compiler in it must be at
# least the `rust-version` of Cargo.toml.
{
  description = "Turns a handful of Linux machines into one place to run applications";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEachSystem = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      manifest = builtins.fromTOML (builtins.readFile ./Cargo.toml);

      # One derivation, of which the checks are variations: same source, same vendored dependencies.
      narvanaFor =
        pkgs:
        pkgs.rustPlatform.buildRustPackage {
          pname = manifest.package.name;
          version = manifest.workspace.package.version;
          src = self;
          # Fetched by the hashes of the lock file: nothing here has to be kept in step with it.
          cargoLock.lockFile = ./Cargo.lock;
          # Overrides .cargo/config.toml, which asks for mold: Nix's own linker wrapper is what finds libraries here. The tests need
          # what else stands there.
          RUSTFLAGS = "--cfg tokio_unstable";
          # Sources are fetched with git, in the tests too.
          nativeBuildInputs = [ pkgs.git ];
          doCheck = false;
          meta = {
            description = manifest.package.description;
            homepage = manifest.workspace.package.repository;
            license = pkgs.lib.licenses.asl20;
            mainProgram = "narvana";
            platforms = systems;
          };
        };

      # A check that runs a command on the source and keeps nothing of it.
      checkFor =
        pkgs: name: tools: command:
        (narvanaFor pkgs).overrideAttrs (old: {
          pname = "narvana-${name}";
          nativeBuildInputs = old.nativeBuildInputs ++ tools;
          buildPhase = ''
            runHook preBuild
            ${command}
            runHook postBuild
          '';
          installPhase = "touch $out";
          # There is no program in the output to strip or patch.
          dontFixup = true;
        });
    in
    {
      packages = forEachSystem (pkgs: {
        default = narvanaFor pkgs;
      });

      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (narvanaFor pkgs) ];
          packages = [
            pkgs.cargo
            pkgs.cargo-deny
            pkgs.cargo-nextest
            pkgs.clippy
            pkgs.rust-analyzer
            pkgs.rustc
            pkgs.rustfmt
            pkgs.shellcheck
          ];
        };
      });

      checks = forEachSystem (pkgs: {
        package = narvanaFor pkgs;
        fmt = checkFor pkgs "fmt" [ pkgs.rustfmt ] "cargo fmt --all --check";
        clippy = checkFor pkgs "clippy" [
          pkgs.clippy
        ] "cargo clippy --offline --workspace --all-targets -- -D warnings";
        tests = checkFor pkgs "tests" [
          pkgs.cargo-nextest
        ] "cargo nextest run --offline --workspace -E 'not binary(real)'";
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-rfc-style);
    };
}
