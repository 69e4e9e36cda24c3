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
    # Packages that the service wants besides, by their names in nixpkgs.
    extra = map (path: builtins.foldl' (set: name: set.${name} or (throw "this nixpkgs has no ${builtins.concatStringsSep "." path}"))
      pkgs path) plan.extra;
    # What it wants to run before and after: lines of shell, each of which has to work.
    hooks = { before = plan.before; after = plan.after; passAsFile = [ "before" "after" ]; };
    hook = ''hook() { if [ -s "$1" ]; then sh -e "$1"; fi; }'';
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
    # Pip that takes nothing but wheels: of whatever else is named, by a wheel too, the programs would run. When a pip has none of what is
    # changed here, that is an error.
    pip = let
      script = builtins.toFile "pip.py" ''
        import glob, os, sys
        sys.path[:0] = glob.glob(os.environ["PIP_PACKAGE"] + "/lib/python*/site-packages")
        from pip._internal.cli.main import main
        from pip._internal.distributions.sdist import SourceDistribution
        from pip._internal.exceptions import InstallationError
        from pip._internal.network.session import LocalFSAdapter
        from pip._internal.operations.prepare import RequirementPreparer

        def refuse(self, requirement, *rest, **named):
            raise InstallationError(f"{requirement} is no wheel, and nothing else is taken")

        def replace(owner, name, by):
            getattr(owner, name)
            setattr(owner, name, by)

        prepare = RequirementPreparer.prepare_linked_requirement

        def of_wheel(self, requirement, *rest, **named):
            link = requirement.link
            if not (link and link.is_wheel and link.scheme in ("http", "https")):
                refuse(self, requirement)
            return prepare(self, requirement, *rest, **named)

        replace(LocalFSAdapter, "send", refuse)
        replace(SourceDistribution, "prepare_distribution_metadata", refuse)
        replace(RequirementPreparer, "prepare_editable_requirement", refuse)
        replace(RequirementPreparer, "prepare_linked_requirement", of_wheel)
        sys.exit(main())
      '';
    in pkgs.runCommand "pip" { inherit shell python script; inherit (python.pkgs) pip; } ''
      printf '#!%s/sh\nexport PIP_PACKAGE=%s\nexec %s/bin/python3 -I %s "$@"\n' "$shell" "$pip" "$python" "$script" > "$out"
      chmod +x "$out"
    '';
    # What programs in wheels take for granted on any machine.
    libraries = if plan.native then "${pkgs.stdenv.cc.cc.lib}/lib:${pkgs.zlib}/lib" else "";
  in {
    packages.${plan.system} = {
      default = pkgs.runCommand plan.name (plan.environment // {
        inherit shell python packages libraries;
        inherit (plan) root build start sources;
        inherit (pkgs) cacert coreutils;
        src = builtins.path { path = ./source; name = "source"; };
        nativeBuildInputs = [ python ] ++ extra;
        before = plan.before;
        after = plan.after;
        extra_programs = builtins.concatStringsSep "" (map (it: ":${it}/bin") extra);
        passAsFile = [ "start" "before" "after" ];
      }) ''
        ${hook}
        export HOME="$TMPDIR"
        mkdir -p "$out/bin" "$out/etc"
        cp -r "$src" "$out/app"
        chmod -R u+w "$out/app"
        cd "$out/app/$root"
        if [ -n "$sources" ]; then sources=$PWD/$sources:; fi
        export PYTHONPATH="$PWD:$sources$packages" LD_LIBRARY_PATH="$libraries"
        (
          export PATH="$packages/bin:$PATH"
          hook "$beforePath"
          if [ -n "$build" ]; then sh -c "$build"; fi
          hook "$afterPath"
        )
        python3 -m compileall -q --invalidation-mode unchecked-hash "$out/app" || true
        cp "$startPath" "$out/etc/start"
        ln -s "$cacert/etc/ssl" "$out/etc/ssl"
        cat > "$out/bin/start" <<END
        #!$shell/sh
        cd "$out/app/$root"
        export PYTHONUNBUFFERED=1 PYTHONPATH="$PYTHONPATH"
        export PATH="$packages/bin:$python/bin$extra_programs:$coreutils/bin:$shell:\$PATH"
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
    apps.${plan.system}.pip = { type = "app"; program = "${pip}"; };
  };
}
