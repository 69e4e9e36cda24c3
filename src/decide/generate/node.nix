# Builds an application of Node.js from ./source, as ./plan.json says.
{
  description = "Written by narvana for a source of Node.js";
  inputs.nixpkgs.url = NIXPKGS;
  outputs = { self, nixpkgs }: let
    plan = builtins.fromJSON (builtins.readFile ./plan.json);
    pkgs = nixpkgs.legacyPackages.${plan.system};
    # The first of those that are wanted which this nixpkgs has and lets be used.
    there = name: builtins.tryEval (let it = pkgs.${name} or null; in builtins.seq (it.drvPath or null) it);
    first = names: let found = builtins.filter (it: it.success && it.value != null) (map there names);
      in if found == [ ] then throw "this nixpkgs has none of ${toString names}" else (builtins.head found).value;
    nodejs = first plan.toolchains;
    # npm comes with Node.js.
    managers = if plan.managers == [ ] then [ ] else [ (first plan.managers) ];
    shell = builtins.dirOf pkgs.runtimeShell;
    fetch = it: pkgs.fetchurl { inherit (it) name url hash; };
    # Packages that the service wants besides, by their names in nixpkgs.
    extra = map (path: builtins.foldl' (set: name: set.${name} or (throw "this nixpkgs has no ${builtins.concatStringsSep "." path}"))
      pkgs path) plan.extra;
    # What it wants to run before and after: lines of shell, each of which has to work.
    hooks = { before = plan.before; after = plan.after; passAsFile = [ "before" "after" ]; };
    hook = ''hook() { if [ -s "$1" ]; then sh -e "$1"; fi; }'';
    folder = if plan.root == "" then ./source else ./source + "/${plan.root}";
    file = name: if name == null then null else builtins.toFile name (builtins.readFile (folder + "/${name}"));
    # Everything that the lock file names. These two see nothing of the source but it and what the manifest says of packages.
    modules = production: pkgs.runCommand "node-modules" (plan.environment // {
      inherit (plan) flags manager npmrc;
      production = if production then "1" else "";
      nativeBuildInputs = [ nodejs ] ++ managers;
      manifest = builtins.toFile "package.json" (builtins.toJSON plan.manifest);
      lock = file plan.lock;
      settings = file plan.settings;
      packages = builtins.toJSON (builtins.listToAttrs
        (map (it: { name = it.place; value = "${fetch it}"; }) plan.dependencies));
      # npm: says where the packages are, and of those that are asked for by a tag or an address which version that is.
      locate = ''
        const fs = require("fs");
        const read = (path) => JSON.parse(fs.readFileSync(path, "utf8").replace(/^\uFEFF/, ""));
        const manifest = read(process.env.manifest), lock = read(process.env.lock), packages = read(process.env.packagesPath);
        for (const place of Object.keys(packages)) lock.packages[place].resolved = "file:" + packages[place];
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
      # The others: a registry of what was fetched, for the command that follows.
      serve = ''
        const fs = require("fs"), http = require("http"), { spawn } = require("child_process");
        const packages = JSON.parse(fs.readFileSync(process.env.packagesPath, "utf8"));
        const server = http.createServer((request, answer) => {
          const place = decodeURIComponent(request.url.slice(1));
          if (Object.hasOwn(packages, place)) return fs.createReadStream(packages[place]).pipe(answer);
          console.error("not among what was fetched: " + place);
          answer.writeHead(404).end();
        });
        server.listen(0, "127.0.0.1", () => {
          const url = "http://127.0.0.1:" + server.address().port + "/";
          const here = (all, before, place) => Object.hasOwn(packages, place) ? before + url + encodeURIComponent(place) : all;
          const [lock, ...command] = process.argv.slice(2);
          const text = fs.readFileSync(process.env.lock, "utf8").replace(/^\uFEFF/, "")
            .replace(/^(  resolved "?)([^"#\s]+)/gm, here)
            .replace(/(\btarball: ['"]?)([^'",}\s]+)/g, here);
          fs.writeFileSync(lock, text);
          const env = { ...process.env, npm_config_registry: url, YARN_REGISTRY: url };
          spawn(command[0], command.slice(1), { env, stdio: "inherit" })
            .on("error", (error) => { console.error(error.message); process.exit(1); })
            .on("exit", (code) => process.exit(code ?? 1));
        });
      '';
      # Programs of packages begin with where theirs are on most machines.
      settle = ''
        const fs = require("fs"), path = require("path");
        const where = (name) => process.env.PATH.split(":").map((it) => path.join(it, name)).find((it) => fs.existsSync(it));
        const walk = (folder) => {
          for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
            const at = path.join(folder, entry.name);
            if (entry.isDirectory()) walk(at);
            else if (path.basename(folder) === ".bin" && fs.existsSync(at)) settle(fs.realpathSync(at));
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
      passAsFile = [ "packages" "locate" "serve" "settle" ];
    }) ''
      export HOME="$TMPDIR"
      if [ "$manager" = pnpm ]; then
        export npm_config_prefer_symlinked_executables=true npm_config_package_import_method=copy npm_config_update_notifier=false
      fi
      mkdir -p "$TMPDIR/app/node_modules"
      cd "$TMPDIR/app"
      cat "$manifest" > package.json
      printf %s "$npmrc" > .npmrc
      [ -z "$settings" ] || cat "$settings" > "''${settings#*-}"
      case $manager in
        npm)
          [ -n "$production" ] && omitted=--omit=dev || omitted=--include=dev
          node "$locatePath"
          npm ci --offline --no-audit --no-fund --no-update-notifier --ignore-scripts $flags $omitted
          ;;
        yarn)
          [ -n "$production" ] && omitted=--production=true || omitted=--production=false
          node "$servePath" yarn.lock yarn install --frozen-lockfile --ignore-scripts --ignore-engines \
            --non-interactive --no-progress --cache-folder "$TMPDIR/cache" $omitted
          ;;
        pnpm)
          [ -n "$production" ] && omitted=--prod || omitted=--prod=false
          node "$servePath" pnpm-lock.yaml pnpm install --frozen-lockfile --ignore-scripts --reporter=append-only \
            --store-dir "$TMPDIR/store" $omitted
          ;;
      esac
      mkdir -p node_modules
      node "$settlePath"
      case $manager in
        npm) ! grep -q '"hasInstallScript": *true' "$lock" || again="npm rebuild --no-audit --no-fund --no-update-notifier --foreground-scripts" ;;
        yarn) again="npm rebuild --no-audit --no-fund --no-update-notifier --foreground-scripts" ;;
        pnpm) again="pnpm rebuild --store-dir $TMPDIR/store" ;;
      esac
      [ -z "''${again:-}" ] || npm_config_offline=true $again
      # Names where the packages were fetched to, and when, which nothing needs any more.
      rm -f node_modules/.package-lock.json node_modules/.yarn-integrity node_modules/.modules.yaml \
        node_modules/.pnpm/lock.yaml node_modules/.pnpm-workspace-state*.json
      mkdir "$out"
      cp -r node_modules "$out/"
    '';
    # Files and nothing else, by the port in the environment. They have no dates here, by which others tell what is new: so only what
    # bundlers name by its contents is kept by browsers.
    kept = "^(/_next/static/.*|/static/(js|css|media)/.*[.][0-9a-f]{8,}[.].*|/assets/.*-(" + builtins.concatStringsSep "|"
      (map (n: "[0-9A-Za-z_-]{${toString n}}[0-9_][0-9A-Za-z_-]{${toString (7 - n)}}") [ 0 1 2 3 4 5 6 7 ]) + ")[.](js|css|wasm|woff2))$";
    header = match: value: { inherit match; handle = [ { handler = "headers"; response = {
      deferred = true;
      delete = [ "Etag" "Last-Modified" ];
      set."Cache-Control" = [ value ];
    }; } ]; };
    rewrite = match: uri: { group = "rewrite"; inherit match; handle = [ { handler = "rewrite"; inherit uri; } ]; };
    has = paths: { file.try_files = paths; };
    path = "{http.request.uri.path}";
    site = {
      admin = { disabled = true; config.persist = false; };
      logging.logs.default.level = "WARN";
      apps.http.servers.site = {
        listen = [ ":{env.PORT}" ];
        automatic_https.disable = true;
        routes = [
          { handle = [ { handler = "vars"; root = "{env.SITE}"; } { handler = "encode"; encodings.gzip = { }; } ]; }
          (header [ { path_regexp.pattern = kept; } ] "public, max-age=31536000, immutable")
          (header [ { not = [ { path_regexp.pattern = kept; } ]; } ] "no-cache")
          (rewrite [ (has [ path "${path}.html" "${path}/index.html" ]) ] "{http.matchers.file.relative}")
          # Pages that exist in the browser only, unless the site has a page for what does not exist.
          (rewrite [ { not = [ { path = [ "*.*" ]; } (has [ "/404.html" ]) ]; } ] "/index.html")
          { handle = [ { handler = "file_server"; } ]; }
        ];
        errors.routes = [
          (header [ { } ] "no-cache")
          (rewrite [ (has [ "/404.html" ]) ] "/404.html")
          { match = [ (has [ "/404.html" ]) ]; handle = [ { handler = "file_server"; status_code = "{http.error.status_code}"; } ]; }
        ];
      };
    };
  in {
    packages.${plan.system} = {
      default = pkgs.runCommand plan.name (plan.environment // {
        inherit shell nodejs;
        inherit (plan) root build start serves manager output_mode;
        port = toString plan.port;
        made_in = if plan.output != null then plan.output else toString plan.outputs;
        # What was made there before, elsewhere, is not what is served.
        stale = if plan.serves == "program" || plan.output != null then "" else toString plan.outputs;
        inherit (pkgs) cacert coreutils;
        src = builtins.path { path = ./source; name = "source"; };
        nativeBuildInputs = [ nodejs ] ++ managers ++ extra;
        before = plan.before;
        after = plan.after;
        extra_programs = builtins.concatStringsSep "" (map (it: ":${it}/bin") extra);
        needed = if plan.serves == "site" then null else modules true;
        needed_to_build = if plan.build == "" then null else modules false;
        manager_at_run = if plan.needs_manager then builtins.head managers else null;
        caddy = if plan.serves == "program" then null else pkgs.caddy;
        site = builtins.toJSON site;
        passAsFile = [ "start" "site" "before" "after" ];
        NEXT_TELEMETRY_DISABLED = "1";
      }) ''
        ${hook}
        export HOME="$TMPDIR"
        cp -r "$src" "$TMPDIR/source"
        chmod -R u+w "$TMPDIR/source"
        cd "$TMPDIR/source/$root"
        rm -rf node_modules
        [ "$serves" != nextjs ] || rm -rf .next
        for before in $stale; do
          [ ! -e "$before/index.html" ] || rm -rf "$before"
        done
        if [ -n "$build" ]; then
          # To pnpm, the version that a manifest names is a reason to fetch another one.
          [ "$manager" != pnpm ] ||
            export npm_config_manage_package_manager_versions=false npm_config_package_manager_strict=false \
              pnpm_config_manage_package_manager_versions=false pnpm_config_package_manager_strict=false
          cp -r "$needed_to_build/node_modules" node_modules
          chmod -R u+w node_modules
        fi
        (
          export PATH="$PWD/node_modules/.bin:$PATH"
          hook "$beforePath"
          if [ -n "$build" ]; then sh -c "$build"; fi
          hook "$afterPath"
        )
        rm -rf node_modules
        mkdir -p "$out/bin" "$out/etc"
        # finish LINE…: the program that runs in the end.
        finish() {
          printf '#!%s/sh\n' "$shell" > "$out/bin/start"
          printf '%s\n' "export PORT=\"\''${PORT:-$port}\"" "$@" >> "$out/bin/start"
          chmod +x "$out/bin/start"
        }
        program() {
          ln -s "$cacert/etc/ssl" "$out/etc/ssl"
          finish "cd \"$1\"" \
            "export NODE_ENV=\"\''${NODE_ENV:-production}\" NEXT_TELEMETRY_DISABLED=1" \
            "export PATH=\"$1/node_modules/.bin:$nodejs/bin''${manager_at_run:+:$manager_at_run/bin}$extra_programs:$coreutils/bin:$shell:\$PATH\"" \
            "$2"
        }
        # site FOLDER: what is in it is what is served.
        site() {
          cp -r "$1" "$out/site"
          cp "$sitePath" "$out/etc/caddy.json"
          finish "export SITE=\"$out/site\" HOME=/tmp" "exec \"$caddy/bin/caddy\" run --config \"$out/etc/caddy.json\""
        }
        # The first folder with a page, of those that are looked at.
        made() {
          for made in $1; do [ ! -f "$made/index.html" ] || return 0; done
          return 1
        }
        # It has to be what was asked for, if anything was.
        case $output_mode in
          standalone) [ -d .next/standalone ] || found=no ;;
          export) made "$made_in" || found=no ;;
        esac
        if [ "''${found:-}" = no ]; then
          echo "Next.js did not make what nextjs_options.output_mode says: set output: \"$output_mode\" in next.config." >&2
          exit 1
        fi
        if [ "$serves" = site ]; then
          made "$made_in" || {
            echo "There is no index.html in any of $made_in: say where it is (build_config.output_directory)." >&2
            exit 1
          }
          site "$made"
        elif [ "$serves" = nextjs ] && [ "$output_mode" != default ] && [ -d .next/standalone ]; then
          # Where there is a lock file above it, it is in a folder of its own there.
          at="$out/app"
          [ -f .next/standalone/server.js ] || at="$out/app/$root"
          # With all that it needs, but for these two, which others are meant to serve.
          cp -r .next/standalone "$out/app"
          chmod -R u+w "$out/app"
          mkdir -p "$at/.next"
          cp -r .next/static "$at/.next/"
          [ ! -d public ] || cp -r public "$at/"
          rm -rf "$at/.next/cache"
          ln -s /tmp "$at/.next/cache"
          program "$at" "export HOSTNAME=0.0.0.0; exec node server.js"
        elif [ "$serves" = nextjs ] && made "$made_in"; then
          site "$made"
        else
          if [ -d .next ]; then
            rm -rf .next/cache
            ln -s /tmp .next/cache
          fi
          mkdir "$out/app"
          cp -r "$TMPDIR/source/." "$out/app"
          ln -s "$needed/node_modules" "$out/app/$root/node_modules"
          cp "$startPath" "$out/etc/start"
          program "$out/app/$root" "exec sh -c \"\$(cat \"$out/etc/start\")\""
        fi
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
