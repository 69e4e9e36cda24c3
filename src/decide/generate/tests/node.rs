//! Yarn and pnpm, sites and Next.js.

use super::*;

fn node(manifest: &Value, more: &[(&str, &str)], config: &BuildConfig) -> Result<Recipe, Unplanned> {
    let manifest = manifest.to_string();
    let files = [&[("package.json", manifest.as_str())], more].concat();
    made_of(BuildStrategy::AutoNode, &files, config)
}

fn said(field: &str, text: &str) -> BuildConfig {
    let details = BTreeMap::from([(field.to_owned(), Detail::Text(text.to_owned()))]);
    BuildConfig { details, ..BuildConfig::default() }
}

fn places(recipe: &Recipe) -> Vec<(&str, &At)> {
    recipe.dependencies.iter().map(|it| (it.place.as_str(), &it.at)).collect()
}

const YARN: &str = r#"# yarn lockfile v1


"@s/a@^1.0.0", "@s/a@^1.2.0":
  version "1.2.0"
  resolved "https://r.example.org/@s/a/-/a-1.2.0.tgz#0a"
  integrity sha512-x
  dependencies:
    b "^2.0.0"

b@^2.0.0, c@npm:b@2:
  version "2.1.0"
  resolved "http://r.example.org/b/-/b-2.1.0.tgz#0b"
  integrity sha512-y sha1-z
"#;

#[test]
fn yarn_is_given_what_its_lock_names() {
    let manifest = json!({"scripts": {"start": "node a.js"}, "dependencies": {"@s/a": "^1.2.0"}, "devDependencies": {"b": "^2.0.0"}});
    let recipe = node(&manifest, &[("yarn.lock", YARN)], &BuildConfig::default()).expect("a recipe");
    let url = |url: &str| At::Url(url.to_owned());
    let (a, b) = ("https://r.example.org/@s/a/-/a-1.2.0.tgz", "http://r.example.org/b/-/b-2.1.0.tgz");
    assert_eq!(places(&recipe), [(b, &url(b)), (a, &url(a))]);
    let names: Vec<&str> = recipe.dependencies.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["b-2.1.0.tgz", "a-1.2.0.tgz"]);
    let plan = plan_of(&recipe);
    assert_eq!(
        (plan["manager"].clone(), plan["managers"].clone(), plan["lock"].clone()),
        (json!("yarn"), json!(["yarn"]), json!("yarn.lock"))
    );

    let refused = |manifest: &Value, lock: &str, words: &str| {
        let message =
            node(manifest, &[("yarn.lock", lock)], &BuildConfig::default()).expect_err("it is refused").message;
        assert!(message.contains(words), "{message}");
    };
    let needs_b = json!({"main": "a.js", "dependencies": {"b": "^3"}});
    refused(&needs_b, YARN, "yarn.lock is not of this package.json: it has no \"b@^3\"");
    let none = json!({"main": "a.js"});
    refused(&none, "__metadata:\n  version: 8\n", "is of Yarn 2 or later");
    refused(&none, "a@1\n", "\"a@1\" is no line of it");
    refused(&none, "  version \"1\"\n", "is no line of it");
    refused(&none, "a@1:\n  version \"1\"\n", "\"a@1\" is a folder");
    refused(&none, "a@1:\n  version \"1\"\n  resolved \"https://r.org/a.tgz#0\"\n", "\"a@1\" has no hash");
    refused(&none, "a@1:\n  resolved \"https://r.org/a.tgz#0\"\n  integrity sha512-x\n", "\"a@1\" has no version");
    refused(
        &none,
        "a@1:\n  version \"1\"\n  resolved \"git+ssh://r.org/a#0\"\n  integrity sha512-x\n",
        "is fetched neither",
    );
    let old =
        "a@1:\n  version \"1\"\n  resolved \"https://r.org/a/-/a-1.tgz#da39a3ee5e6b4b0d3255bfef95601890afd80709\"\n";
    let recipe = node(&none, &[("yarn.lock", old), ("a.js", "")], &BuildConfig::default()).expect("a recipe");
    assert_eq!(recipe.dependencies[0].hash, Hash::Known("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=".to_owned()));
    let missing = node(&none, &[("a.js", "")], &said("package_manager", "yarn")).expect_err("there is none").message;
    assert!(missing.contains("there is no yarn.lock"), "{missing}");
}

#[test]
fn pnpm_is_given_what_its_lock_names() {
    let lock = "lockfileVersion: '9.0'\nimporters:\n  .:\n    dependencies:\n      '@s/a':\n        specifier: ^1\n        version: 1.2.0(b@2.0.0)\n\
        packages:\n  '@s/a@1.2.0':\n    resolution: {integrity: sha512-x}\n  b@2.0.0:\n    resolution: {integrity: sha512-y, tarball: https://t.org/b.tgz}\n  \
        c@3.0.0:\n    resolution: {integrity: sha512-z}\n    os: [darwin]\nsnapshots:\n  '@s/a@1.2.0(b@2.0.0)': {}\n  c@3.0.0:\n    optional: true\n";
    let manifest = json!({"packageManager": "pnpm@9.1.0+sha256.0", "main": "a.js", "dependencies": {"@s/a": "^1"}, "pnpm": {"overrides": {}}});
    let files = [("pnpm-lock.yaml", lock), ("a.js", "")];
    let recipe = node(&manifest, &files, &BuildConfig::default()).expect("a recipe");
    let (registry, url) = (At::Registry("@s/a/-/a-1.2.0.tgz".to_owned()), At::Url("https://t.org/b.tgz".to_owned()));
    assert_eq!(places(&recipe), [("@s/a/-/a-1.2.0.tgz", &registry), ("https://t.org/b.tgz", &url)]);
    let plan = plan_of(&recipe);
    assert_eq!(plan["managers"], json!(["pnpm_9", "pnpm_9", "pnpm_10", "pnpm"]));
    assert_eq!((plan["settings"].clone(), plan["manifest"]["pnpm"].clone()), (Value::Null, json!({"overrides": {}})));
    // Of the form before.
    let older = "lockfileVersion: '6.0'\ndependencies:\n  a:\n    specifier: ^1\n    version: 1.0.0\npackages:\n  /a@1.0.0(b@2):\n    resolution: {integrity: sha512-x}\n";
    let needs_a = json!({"main": "a.js", "dependencies": {"a": "^1"}});
    let recipe = node(&needs_a, &[("pnpm-lock.yaml", older), ("a.js", "")], &BuildConfig::default()).expect("a recipe");
    assert_eq!(places(&recipe)[0].0, "a/-/a-1.0.0.tgz");
    assert_eq!(plan_of(&recipe)["managers"], json!(["pnpm_8", "pnpm"]));

    let refused = |manifest: &Value, lock: &str, words: &str| {
        let files = [("pnpm-lock.yaml", lock), ("a.js", "")];
        let message = node(manifest, &files, &BuildConfig::default()).expect_err("it is refused").message;
        assert!(message.contains(words), "{message}");
    };
    refused(&needs_a, lock, "pnpm-lock.yaml is not of this package.json: they differ in \"@s/a\"");
    let none = json!({"main": "a.js"});
    refused(&none, "lockfileVersion: 5.4\ndependencies:\n  a: 1.0.0\n", "has the form \"5.4\"");
    refused(&none, "{", "pnpm-lock.yaml cannot be read");
    refused(
        &none,
        "lockfileVersion: '9.0'\npackages:\n  a@1:\n    resolution: {directory: ../a, type: directory}\n",
        "\"a@1\" has no hash",
    );
    refused(
        &none,
        "lockfileVersion: '9.0'\npackages:\n  a:\n    resolution: {integrity: sha512-x}\n",
        "\"a\" has no version",
    );
    // What is needed is fetched, whatever it says of machines.
    let needed = lock.replace("    optional: true\n", "    optional: false\n");
    let recipe = node(&manifest, &[("pnpm-lock.yaml", &needed), ("a.js", "")], &BuildConfig::default());
    assert_eq!(recipe.expect("a recipe").dependencies.len(), 3);
    let npmrc = "node-linker=hoisted\n//r.example.org/:_authToken=secret\nregistry=https://r.example.org\nhoist-pattern[]=*a*\n";
    let files = [("pnpm-lock.yaml", lock), ("a.js", ""), (".npmrc", npmrc)];
    let plan = plan_of(&node(&manifest, &files, &BuildConfig::default()).expect("a recipe"));
    assert_eq!(plan["npmrc"], "node-linker=hoisted\nhoist-pattern[]=*a*\n");
    refused(&none, "lockfileVersion: '9.0'\npnpmfileChecksum: x\n", ".pnpmfile.cjs");
    refused(&none, "lockfileVersion: '9.0'\npatchedDependencies:\n  a: {hash: x}\n", "patched");
    let of_many =
        [("pnpm-lock.yaml", "lockfileVersion: '9.0'\n"), ("pnpm-workspace.yaml", "packages: [a]\n"), ("a.js", "")];
    let message = node(&none, &of_many, &BuildConfig::default()).expect_err("not yet").message;
    assert!(message.contains("workspaces"), "{message}");
}

#[test]
fn what_runs_in_browsers_only_is_a_site() {
    let lock = |needs: &Value| {
        let own = json!({"": {"devDependencies": needs}});
        json!({"lockfileVersion": 3, "packages": own}).to_string()
    };
    let served = |scripts: Value, needs: Value, files: &[(&str, &str)], config: &BuildConfig| {
        let lock = lock(&needs);
        let files = [&[("package-lock.json", lock.as_str())], files].concat();
        let recipe = node(&json!({"scripts": scripts, "devDependencies": needs}), &files, config);
        recipe.map(|recipe| {
            let plan = plan_of(&recipe);
            (plan["serves"].as_str().expect("a word").to_owned(), plan["start"].as_str().expect("a command").to_owned())
        })
    };
    let is = |word: &str, start: &str| Ok((word.to_owned(), start.to_owned()));
    let none = BuildConfig::default();
    let vite = || json!({"vite": "5", "react": "18"});
    let built = || json!({"build": "vite build"});
    assert_eq!(served(built(), vite(), &[], &none), is("site", ""));
    assert_eq!(
        served(json!({"build": "vite build", "start": "npm run dev", "dev": "vite"}), vite(), &[], &none),
        is("site", "")
    );
    let cra = json!({"build": "react-scripts build", "start": "react-scripts start"});
    assert_eq!(served(cra, json!({"react-scripts": "5"}), &[("src/index.js", "")], &none), is("site", ""));
    // With a server of its own it is a program.
    let own = json!({"build": "vite build", "start": "node server.js"});
    assert_eq!(served(own, vite(), &[], &none), is("program", "node server.js"));
    assert_eq!(served(built(), vite(), &[("server.js", "")], &none), is("program", "node ./server.js"));
    assert_eq!(
        served(built(), json!({"vite": "5", "express": "4"}), &[("server.js", "")], &none),
        is("program", "node ./server.js")
    );
    // Whatever the service says.
    assert_eq!(served(built(), vite(), &[], &said("start_command", "a")), is("program", "a"));
    assert_eq!(served(json!({"build": "a"}), json!({}), &[], &said("output_directory", "public")), is("site", ""));
    let why = |scripts: Value, needs: Value| served(scripts, needs, &[], &none).expect_err("it is refused").message;
    assert!(why(json!({}), vite()).contains("no script \"build\""));
    assert!(why(json!({"build": "esbuild"}), json!({"react": "18"})).contains("no flake is generated yet for React"));

    let next = || json!({"next": "15", "react": "18"});
    assert_eq!(served(json!({"build": "next build"}), next(), &[], &none), is("nextjs", "next start"));
    assert_eq!(
        served(json!({"build": "next build", "start": "next start -p 80"}), next(), &[], &none),
        is("nextjs", "next start -p 80")
    );
    assert!(why(json!({}), next()).contains("Next.js is built by nothing"));

    // What only its authors should see is neither a site nor a program where something else is there.
    let own = json!({"build": "ng build", "start": "cross-env PORT=1 npx ng serve"});
    assert!(
        why(own, json!({"@angular/cli": "18", "express": "4"})).contains("serves the source to those who write it")
    );
    let own = json!({"start": "serve -l $PORT public"});
    assert_eq!(served(own, json!({"serve": "14"}), &[], &none), is("program", "serve -l $PORT public"));
    let own = json!({"build": "vite build", "start": "npm run build && serve -s dist"});
    assert_eq!(served(own, vite(), &[], &none), is("site", ""));
}
