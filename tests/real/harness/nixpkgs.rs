//! A nixpkgs made of this machine's programs (`tests/real/nixpkgs`), whose toolchains fetch from a server of a test.

use std::path::Path;
use std::process::Command;

const NIX: [&str; 3] = ["nix", "--extra-experimental-features", "nix-command"];

/// A reference to one, whose Go, Node.js, Python and Rust know no other registry than this URL.
pub(crate) fn fetching_from(registry: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nixpkgs");
    let base = answer(Command::new(root.join("tests/real/nixpkgs/make.sh")).arg(kept));
    let folder = tempfile::tempdir().expect("a folder");
    let system = format!("{}-linux", std::env::consts::ARCH);
    let text = format!(
        r##"{{
  inputs.base.url = "path:{base}";
  outputs = {{ self, base }}: let
    pkgs = base.legacyPackages.{system};
    told = tool: told: variable: (pkgs.runCommand "told" {{ inherit tool told variable; }} ''
      mkdir -p "$out/bin"
      for program in "$tool"/bin/*; do ln -s "$program" "$out/bin/''${{program##*/}}"; done
      rm "$out/bin/$told"
      printf '#!%s\nexport %s\nexec %s "$@"\n' ${{pkgs.runtimeShell}} "$variable" "$tool/bin/$told" > "$out/bin/$told"
      chmod +x "$out/bin/$told"
    '') // {{ inherit (tool) version; }};
  in {{
    legacyPackages.{system} = pkgs // {{
      go = told pkgs.go "go" "GOPROXY=\"\${{GOPROXY:-{registry},direct}}\"";
      nodejs = told pkgs.nodejs "npm" "npm_config_registry={registry}/";
      python3 = pkgs.python3 // {{
        pkgs = pkgs.python3.pkgs // {{
          pip = pkgs.runCommand "pip" {{ inherit (pkgs.python3.pkgs) pip; }} ''
            cp -r "$pip" "$out"
            chmod -R u+w "$out"
            cd "$out"/lib/*/site-packages/pip/_internal/models
            rm -f __pycache__/index.*
            sed -i 's|PackageIndex("[^"]*"|PackageIndex("{registry}/"|' index.py
          '';
        }};
      }};
      rustPackages = pkgs.rustPackagesOf "{registry}/crates";
    }};
  }};
}}
"##
    );
    std::fs::write(folder.path().join("flake.nix"), text).expect("writes");
    let path =
        answer(Command::new(NIX[0]).args(&NIX[1..]).args(["store", "add-path", "--name", "told"]).arg(folder.path()));
    format!("path:{path}")
}

#[track_caller]
fn answer(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
