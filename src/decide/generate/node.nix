# Builds an application of Node.js from ./source, as ./plan.json says.
{
  description = "Written by narvana for a source of Node.js";
  inputs.nixpkgs.url = NIXPKGS;
  outputs = { self, nixpkgs }: let
    plan = builtins.fromJSON (builtins.readFile ./plan.json);
    pkgs = nixpkgs.legacyPackages.${plan.system};
    # The first of those that are wanted which this nixpkgs has and lets be used.
    there = name: builtins.tryEval (let it = pkgs.${name} or null; in builtins.seq (it.drvPath or null) it);
    nodejs = (builtins.head (builtins.filter (it: it.success && it.value != null) (map there plan.toolchains))).value;
    shell = builtins.dirOf pkgs.runtimeShell;
    fetch = it: pkgs.fetchurl { inherit (it) name url hash; };
    folder = if plan.root == "" then ./source else ./source + "/${plan.root}";
    # Everything that the lock file names. These two see nothing of the source but it and what the manifest says of packages.
    modules = omitted: pkgs.runCommand "node-modules" (plan.environment // {
      inherit omitted;
      inherit (plan) flags;
      nativeBuildInputs = [ nodejs ];
      manifest = builtins.toFile "package.json" (builtins.toJSON plan.manifest);
      lock = builtins.toFile "package-lock.json" (builtins.readFile (folder + "/${plan.lock}"));
      packages = builtins.toJSON (builtins.listToAttrs
        (map (it: { name = it.place; value = "file:${fetch it}"; }) plan.dependencies));
      # Says where the packages are, and of those that are asked for by a tag or an address which version that is.
      locate = ''
        const fs = require("fs");
        const read = (path) => JSON.parse(fs.readFileSync(path, "utf8").replace(/^\uFEFF/, ""));
        const manifest = read(process.env.manifest), lock = read(process.env.lock), packages = read(process.env.packagesPath);
        for (const place of Object.keys(packages)) lock.packages[place].resolved = packages[place];
        const isRange = (spec) => /^(npm:|[\s\^~<>=*xXv\d|]|$)/.test(spec);
        const found = (place, name) => {
          for (;;) {
            const it = lock.packages[(place ? place + "/" : "") + "node_modules/" + name];
            if (it || !place) return it;
            place = place.slice(0, Math.max(0, place.lastIndexOf("/node_modules/")));
          }
        };
        for (const [place, it] of [...Object.entries(lock.packages), ["", manifest]]) {
          for (const kind of ["dependencies", "devDependencies", "optionalDependencies"]) {
            for (const [name, spec] of Object.entries(it[kind] ?? {})) {
              const version = isRange(spec) ? undefined : found(place, name)?.version;
              if (version) it[kind][name] = version;
            }
          }
        }
        fs.writeFileSync("package.json", JSON.stringify(manifest));
        fs.writeFileSync("package-lock.json", JSON.stringify(lock));
      '';
      # Programs of packages begin with where theirs are on most machines.
      settle = ''
        const fs = require("fs"), path = require("path");
        const where = (name) => process.env.PATH.split(":").map((it) => path.join(it, name)).find((it) => fs.existsSync(it));
        const walk = (folder) => {
          for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
            const at = path.join(folder, entry.name);
            if (entry.isDirectory()) walk(at);
            else if (path.basename(folder) === ".bin") settle(fs.realpathSync(at));
          }
        };
        const settle = (file) => {
          const text = fs.readFileSync(file, "latin1");
          const [first, name] = /^#! *(?:\/usr\/bin\/env +(?:-S +)?|\/(?:usr\/)?bin\/)([^\s\/]+)/.exec(text) ?? [];
          const program = first && where(name);
          if (!program) return;
          fs.chmodSync(file, 0o755);
          fs.writeFileSync(file, "#!" + program + text.slice(first.length), "latin1");
        };
        walk("node_modules");
      '';
      passAsFile = [ "packages" "locate" "settle" ];
    }) ''
      export HOME="$TMPDIR"
      mkdir -p "$TMPDIR/app/node_modules"
      cd "$TMPDIR/app"
      node "$locatePath"
      npm ci --offline --no-audit --no-fund --no-update-notifier --ignore-scripts $flags $omitted
      mkdir -p node_modules
      node "$settlePath"
      if grep -q '"hasInstallScript": *true' "$lock"; then
        npm rebuild --offline --no-audit --no-fund --no-update-notifier --foreground-scripts
      fi
      # Names where the packages were fetched to, which nothing needs any more.
      rm -f node_modules/.package-lock.json
      mkdir "$out"
      cp -r node_modules "$out/"
    '';
  in {
    packages.${plan.system} = {
      default = pkgs.runCommand plan.name (plan.environment // {
        inherit shell nodejs;
        inherit (plan) root build start;
        inherit (pkgs) cacert coreutils;
        src = builtins.path { path = ./source; name = "source"; };
        nativeBuildInputs = [ nodejs ];
        needed = modules "--omit=dev";
        needed_to_build = if plan.build == "" then null else modules "--include=dev";
        passAsFile = [ "start" ];
      }) ''
        export HOME="$TMPDIR"
        cp -r "$src" "$TMPDIR/source"
        chmod -R u+w "$TMPDIR/source"
        cd "$TMPDIR/source/$root"
        rm -rf node_modules
        if [ -n "$build" ]; then
          cp -r "$needed_to_build/node_modules" node_modules
          chmod -R u+w node_modules
          PATH="$PWD/node_modules/.bin:$PATH" sh -c "$build"
          rm -rf node_modules
        fi
        mkdir -p "$out/app" "$out/bin" "$out/etc"
        cp -r "$TMPDIR/source/." "$out/app"
        ln -s "$needed/node_modules" "$out/app/$root/node_modules"
        cp "$startPath" "$out/etc/start"
        ln -s "$cacert/etc/ssl" "$out/etc/ssl"
        cat > "$out/bin/start" <<END
        #!$shell/sh
        cd "$out/app/$root"
        export NODE_ENV="\''${NODE_ENV:-production}"
        export PATH="$out/app/$root/node_modules/.bin:$nodejs/bin:$coreutils/bin:$shell:\$PATH"
        exec sh -c "\$(cat "$out/etc/start")"
        END
        chmod +x "$out/bin/start"
      '';
      # What is asked before anything is fetched.
      toolchain = pkgs.runCommand "toolchain" { inherit (nodejs) version; nativeBuildInputs = [ nodejs ]; } ''
        export HOME="$TMPDIR"
        printf '%s\n' "$version" > "$out"
        npm config get registry >> "$out"
      '';
    };
  };
}
