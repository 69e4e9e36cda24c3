# Builds a program of Go from ./source, as ./plan.json says.
{
  description = "Written by narvana for a source of Go";
  inputs.nixpkgs.url = NIXPKGS;
  outputs = { self, nixpkgs }: let
    plan = builtins.fromJSON (builtins.readFile ./plan.json);
    pkgs = nixpkgs.legacyPackages.${plan.system};
    # The first of those that are wanted which this nixpkgs has and lets be used.
    there = name: builtins.tryEval (let it = pkgs.${name} or null; in builtins.seq (it.drvPath or null) it);
    go = (builtins.head (builtins.filter (it: it.success && it.value != null) (map there plan.toolchains))).value;
    fetch = it: pkgs.fetchurl { inherit (it) name url hash; };
    # Packages that the service wants besides, by their names in nixpkgs.
    extra = map (path: builtins.foldl' (set: name: set.${name} or (throw "this nixpkgs has no ${builtins.concatStringsSep "." path}"))
      pkgs path) plan.extra;
    # What it wants to run before and after: lines of shell, each of which has to work.
    hooks = { before = plan.before; after = plan.after; passAsFile = [ "before" "after" ]; };
    hook = ''hook() { if [ -s "$1" ]; then sh -e "$1"; fi; }'';
    folder = if plan.root == "" then ./source else ./source + "/${plan.root}";
    copy = name: let path = folder + "/${name}"; in
      if builtins.pathExists path then builtins.toFile name (builtins.readFile path) else null;
    # Laid out as a module proxy is. Go checks each against go.sum.
    modules = pkgs.runCommand "go-modules" {
      files = map fetch plan.dependencies;
      places = map (it: it.place) plan.dependencies;
      passAsFile = [ "files" "places" ];
    } ''
      mkdir "$out"
      set -- $(cat "$placesPath")
      for file in $(cat "$filesPath"); do
        mkdir -p "$out/$(dirname "$1")"
        ln -s "$file" "$out/$1"
        shift
      done
    '';
    # With a C compiler where it needs one.
    run = if plan.cgo then pkgs.runCommandCC else pkgs.runCommand;
    settings = plan.environment // {
      inherit (plan) tags ldflags;
      nativeBuildInputs = [ go ] ++ extra;
      CGO_ENABLED = if plan.cgo then "1" else "0";
      GOPROXY = "file://${modules}";
      # Whatever the environment of the build says: nothing else can be fetched.
      GONOPROXY = "none";
      GOSUMDB = "off";
      GOTOOLCHAIN = "local";
      GOWORK = plan.workspace;
    };
    # What the program imports, compiled. It is made again when that changes, and not when the program does.
    compiled = run "go-packages" (settings // {
      inherit (plan) imports;
      manifest = copy "go.mod";
      sums = copy "go.sum";
      passAsFile = [ "imports" ];
    }) ''
      export HOME="$TMPDIR" GOPATH="$TMPDIR/go" GOCACHE="$out" GOWORK=off
      mkdir "$out" "$TMPDIR/module"
      cd "$TMPDIR/module"
      cp "$manifest" go.mod
      [ -z "$sums" ] || cp "$sums" go.sum
      # What cannot be compiled by itself is compiled with the program, which says why when it cannot be either.
      imports=$(cat "$importsPath")
      go build -trimpath -tags "$tags" $imports 2> /dev/null || for import in $imports; do
        go build -trimpath -tags "$tags" "$import" 2> /dev/null || true
      done
    '';
  in {
    packages.${plan.system} = {
      default = run plan.name (settings // hooks // {
        inherit compiled;
        inherit (plan) root package module;
        inherit (pkgs) cacert;
        src = builtins.path { path = ./source; name = "source"; };
        disallowedReferences = [ go ];
      }) ''
        ${hook}
        export HOME="$TMPDIR" GOPATH="$TMPDIR/go" GOCACHE="$TMPDIR/cache"
        cp -r "$src" "$TMPDIR/source"
        cp -r "$compiled" "$TMPDIR/cache"
        chmod -R u+w "$TMPDIR/source" "$TMPDIR/cache"
        cd "$TMPDIR/source/$root"
        mkdir -p "$out/bin" "$out/etc"
        hook "$beforePath"
        (cd "$module" && go build -trimpath -tags "$tags" -ldflags "-s -w $ldflags" -o "$out/bin/" "./$package")
        hook "$afterPath"
        ln -s "$cacert/etc/ssl" "$out/etc/ssl"
      '';
      # What is asked before anything is fetched.
      toolchain = pkgs.runCommand "toolchain" { inherit (go) version; nativeBuildInputs = [ go ]; } ''
        export HOME="$TMPDIR"
        printf '%s\n' "$version" > "$out"
        go env GOPROXY >> "$out"
      '';
    };
  };
}
