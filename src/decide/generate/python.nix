# Builds an application of Python from ./source, as ./plan.json says.
{
  description = "Written by narvana for a source of Python";
  inputs.nixpkgs.url = NIXPKGS;
  outputs = { self, nixpkgs }: let
    plan = builtins.fromJSON (builtins.readFile ./plan.json);
    pkgs = nixpkgs.legacyPackages.${plan.system};
    # The first of those that are wanted which this nixpkgs has and lets be used.
    there = name: builtins.tryEval (let it = pkgs.${name} or null; in builtins.seq (it.drvPath or null) it);
    python = (builtins.head (builtins.filter (it: it.success && it.value != null) (map there plan.toolchains))).value;
    shell = builtins.dirOf pkgs.runtimeShell;
    fetch = it: pkgs.fetchurl { inherit (it) name url hash; };
    packages = pkgs.runCommand "python-packages" {
      nativeBuildInputs = [ python python.pkgs.pip ];
      files = map fetch plan.dependencies;
      places = map (it: it.place) plan.dependencies;
      passAsFile = [ "files" "places" ];
    } ''
      export HOME="$TMPDIR"
      mkdir "$out" "$TMPDIR/wheels"
      # What a wheel is, its name says.
      set -- $(cat "$placesPath")
      for file in $(cat "$filesPath"); do
        ln -s "$file" "$TMPDIR/wheels/$1"
        shift
      done
      if [ -s "$filesPath" ]; then
        pip install --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
          --target "$out" "$TMPDIR"/wheels/*.whl
        # Files in the store have no times by which it could be told whether these are of them.
        python3 -m compileall -q --invalidation-mode unchecked-hash "$out" || true
      fi
    '';
    # What programs in wheels take for granted on any machine.
    libraries = if plan.native then "${pkgs.stdenv.cc.cc.lib}/lib:${pkgs.zlib}/lib" else "";
  in {
    packages.${plan.system} = {
      default = pkgs.runCommand plan.name (plan.environment // {
        inherit shell python packages libraries;
        inherit (plan) root build start;
        inherit (pkgs) cacert coreutils;
        src = builtins.path { path = ./source; name = "source"; };
        nativeBuildInputs = [ python ];
        passAsFile = [ "start" ];
      }) ''
        export HOME="$TMPDIR"
        mkdir -p "$out/bin" "$out/etc"
        cp -r "$src" "$out/app"
        chmod -R u+w "$out/app"
        cd "$out/app/$root"
        export PYTHONPATH="$PWD:$PWD/src:$packages" LD_LIBRARY_PATH="$libraries"
        if [ -n "$build" ]; then
          PATH="$packages/bin:$PATH" sh -c "$build"
        fi
        python3 -m compileall -q --invalidation-mode unchecked-hash "$out/app" || true
        cp "$startPath" "$out/etc/start"
        ln -s "$cacert/etc/ssl" "$out/etc/ssl"
        cat > "$out/bin/start" <<END
        #!$shell/sh
        cd "$out/app/$root"
        export PYTHONUNBUFFERED=1 PYTHONPATH="$PYTHONPATH"
        export PATH="$packages/bin:$python/bin:$coreutils/bin:$shell:\$PATH"
        if [ -n "$libraries" ]; then export LD_LIBRARY_PATH="$libraries"; fi
        exec sh -c "\$(cat "$out/etc/start")"
        END
        chmod +x "$out/bin/start"
      '';
      # What is asked before anything is fetched.
      toolchain = pkgs.runCommand "toolchain" { inherit (python) version; nativeBuildInputs = [ python ]; } ''
        printf '%s\n' "$version" > "$out"
      '';
    };
    # Knows which wheels fit this Python.
    apps.${plan.system}.pip = { type = "app"; program = "${python.pkgs.pip}/bin/pip"; };
  };
}
