use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::names::NAME_BYTES_MAX;
use super::*;
use crate::decide::detect::{self, detect_as};
use crate::model::Detail;

/// What is made of these files, for a strategy.
fn made_of(strategy: BuildStrategy, files: &[(&str, &str)], config: &BuildConfig) -> Result<Recipe, Unplanned> {
    let listing = Listing::new(files.iter().map(|(path, _)| (*path).to_owned()).collect());
    let contents: Contents = files.iter().map(|(path, text)| ((*path).to_owned(), Ok((*text).to_owned()))).collect();
    let detect::Answer::Found(detection) = detect_as(strategy, &listing, &contents) else {
        panic!("it is not found in {files:?}");
    };
    let asked = Asked { detection: &detection, root: "", name: "web", system: "x86_64-linux", config };
    generate(&listing, &contents, &asked).expect("everything is there")
}

fn made(strategy: BuildStrategy, files: &[(&str, &str)]) -> Result<Recipe, Unplanned> {
    made_of(strategy, files, &BuildConfig::default())
}

fn toolchain(version: &str) -> Toolchain {
    Toolchain { version: version.to_owned(), registry: Some("https://example.org/".to_owned()) }
}

fn plan_of(recipe: &Recipe) -> Value {
    let hashes = recipe.dependencies.iter().map(|it| (it.place.clone(), format!("sha256-{}", it.name))).collect();
    let files = recipe.files("github:a/b", &toolchain("1"), &hashes);
    serde_json::from_str(&files.plan).expect("JSON")
}

const MAIN: (&str, &str) =
    ("main.go", "package main\n\nimport (\n\t\"fmt\"\n\t\"example.org/B/c\"\n\t\"m/own\"\n\t\"a b\"\n)\n");

#[test]
fn go_is_built_with_what_its_sums_name() {
    let sums = "example.org/B v1.0.0 h1:x=\nexample.org/B v1.0.0/go.mod h1:y=\n\n";
    let files = [("go.mod", "module m\ngo 1.22\n"), ("go.sum", sums), MAIN];
    let recipe = made(BuildStrategy::AutoGo, &files).expect("a recipe");
    let places: Vec<&str> = recipe.dependencies.iter().map(|it| it.place.as_str()).collect();
    assert_eq!(places, ["example.org/!b/@v/v1.0.0.mod", "example.org/!b/@v/v1.0.0.zip"]);
    let plan = plan_of(&recipe);
    assert_eq!(plan["toolchains"], json!(["go_1_22", "go"]));
    assert_eq!((plan["package"].clone(), plan["imports"].clone()), (json!("."), json!(["example.org/B/c", "fmt"])));
    assert_eq!(
        plan["dependencies"][1],
        json!({"name": "example.org--b--v-v1.0.0.zip", "url": "https://example.org/example.org/!b/@v/v1.0.0.zip",
               "hash": "sha256-example.org--b--v-v1.0.0.zip", "place": "example.org/!b/@v/v1.0.0.zip"})
    );
    // What lies in the source is not fetched.
    let vendored = [files.as_slice(), &[("vendor/modules.txt", "")]].concat();
    let recipe = made(BuildStrategy::AutoGo, &vendored).expect("a recipe");
    assert_eq!((recipe.dependencies.len(), plan_of(&recipe)["imports"].clone()), (0, json!(["fmt"])));
    let workspace = [
        files.as_slice(),
        &[("go.work", "go 1.22\nuse ./b\n"), ("b/go.mod", "module b\n"), ("b/go.sum", "c.org/d v1.0.0 h1:z=\n")],
    ]
    .concat();
    assert_eq!(made(BuildStrategy::AutoGo, &workspace).expect("a recipe").dependencies.len(), 3);
    let cgo = made(BuildStrategy::AutoGo, &[files[0], ("main.go", "package main\nimport \"C\"\n")]);
    assert!(cgo.expect_err("not yet").message.contains("cgo"));
    assert!(made(BuildStrategy::AutoGo, &files[..2]).expect_err("no program").message.contains("no package main"));
}

fn lock(packages: &Value) -> String {
    json!({"lockfileVersion": 3, "packages": packages}).to_string()
}

#[test]
fn node_is_built_with_what_its_lock_names() {
    let manifest = json!({"scripts": {"start": "node server.js"}, "dependencies": {"a": "^1"}}).to_string();
    let packages = json!({
        "": {"dependencies": {"a": "^1"}},
        "node_modules/a": {"version": "1.2.0", "integrity": "sha1-x sha512-y?z"},
        "node_modules/a/node_modules/@s/b": {"version": "2.0.0", "integrity": "sha512-w", "resolved": "https://r.org/b.tgz"},
        "node_modules/bundled": {"version": "1.0.0", "inBundle": true},
        "node_modules/of-another-system": {"version": "1.0.0", "optional": true, "os": ["darwin"]},
    });
    let text = lock(&packages);
    let files = [("package.json", manifest.as_str()), ("package-lock.json", text.as_str()), ("server.js", "")];
    let recipe = made(BuildStrategy::AutoNode, &files).expect("a recipe");
    let plan = plan_of(&recipe);
    let of = |index: usize| plan["dependencies"][index].clone();
    assert_eq!(
        of(0),
        json!({"name": "a-1.2.0.tgz", "url": "https://example.org/a/-/a-1.2.0.tgz", "hash": "sha512-y",
               "place": "node_modules/a"})
    );
    assert_eq!((of(1)["url"].clone(), of(1)["hash"].clone()), (json!("https://r.org/b.tgz"), json!("sha512-w")));
    assert_eq!(plan["dependencies"].as_array().map(Vec::len), Some(2));
    assert_eq!((plan["start"].clone(), plan["build"].clone()), (json!("node server.js"), json!("")));
    assert_eq!(plan["toolchains"], json!(["nodejs"]), "any will do");
    assert_eq!(plan["manifest"], json!({"dependencies": {"a": "^1"}}), "scripts are none of its affairs");
}

#[test]
fn what_a_lock_must_not_be_is_said_by_name() {
    let refused = |packages: Value, words: &str| {
        let text = lock(&packages);
        let files = [("package.json", r#"{"main": "a.js"}"#), ("package-lock.json", &text), ("a.js", "")];
        let said = made(BuildStrategy::AutoNode, &files).expect_err("it is refused").message;
        assert!(said.contains(words), "{said}");
    };
    let package = |about: Value| json!({"": {}, "node_modules/a": about});
    refused(json!({"": {"dependencies": {"a": "1"}}}), "they differ in \"a\"");
    refused(json!({"": {}, "packages/a": {"version": "1"}}), "\"packages/a\" is no place of a package");
    refused(package(json!({"link": true})), "is a link to a folder");
    refused(package(json!({"version": "1.0.0"})), "has no hash");
    refused(package(json!({"version": "1.0.0", "integrity": "md5-x"})), "has no hash");
    refused(package(json!({"integrity": "sha512-x"})), "has no version");
    let from = |resolved: &str| package(json!({"version": "1.0.0", "integrity": "sha512-x", "resolved": resolved}));
    refused(from("git+ssh://git@example.org/a.git#0"), "is fetched neither over HTTPS");
    refused(from("file:../../etc/passwd"), "is fetched neither over HTTPS");
    refused(from("http://example.org/a"), "is fetched neither over HTTPS");
    refused(from("https://example.org/a b"), "has an address with letters");
    refused(from("https://user:secret@example.org/a"), "has a user or a password");
    refused(from("https://example.org/{a,b}"), "has an address with letters");
    for (text, words) in [
        ("{", "cannot be read"),
        (r#"{"lockfileVersion": 1}"#, "has version 1"),
        (r#"{"lockfileVersion": 3, "packages": {"": {"dependencies": 7}}}"#, "cannot be read"),
    ] {
        let files = [("package.json", r#"{"main": "a.js"}"#), ("package-lock.json", text), ("a.js", "")];
        let said = made(BuildStrategy::AutoNode, &files).expect_err("it is refused").message;
        assert!(said.contains(words), "{said}");
    }
}

const CRATES: &str = "https://github.com/rust-lang/crates.io-index";

fn cargo_lock(package: &str) -> String {
    format!("version = 4\n[[package]]\nname = \"web\"\nversion = \"0.1.0\"\n{package}")
}

fn locked_crate(about: &str) -> String {
    cargo_lock(&format!("[[package]]\nname = \"a\"\nversion = \"1.0.0+b\"\n{about}"))
}

#[test]
fn rust_is_built_with_what_its_lock_names() {
    let lock = locked_crate(&format!("source = \"registry+{CRATES}\"\nchecksum = \"{}\"\n", "0a".repeat(32)));
    let lock = format!("{lock}[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n");
    let files = [
        (
            "Cargo.toml",
            "[package]\nname = \"web\"\nedition = \"2024\"\nrust-version = \"1.85\"\nbuild = \"make/build.rs\"\n[workspace]\nmembers = [\"crates/*\"]\n",
        ),
        ("Cargo.lock", lock.as_str()),
        (".cargo/config.toml", ""),
        ("src/main.rs", ""),
        ("src/web.rs", ""),
        ("src/bin/other/main.rs", ""),
        ("src/bin/other/part.rs", ""),
        ("crates/b/Cargo.toml", "[package]\nname = \"b\"\nedition = \"2024\"\n[lib]\npath = \"../lib/b.rs\"\n"),
        ("target/package/b/Cargo.toml", "broken"),
        // Those have lock files of their own, or are there to be looked at.
        ("fuzz/Cargo.toml", "[package]\nname = \"fuzz\"\n"),
        ("tests/fixtures/Cargo.toml", "[package"),
    ];
    let recipe = made(BuildStrategy::AutoRust, &files).expect("a recipe");
    let plan = plan_of(&recipe);
    assert_eq!(plan["binary"], json!("web"));
    assert_eq!(plan["toolchains"], json!(["rustPackages_1_85", "rustPackages"]));
    assert_eq!(plan["packages"], json!(["b", "web"]));
    assert_eq!((plan["scope"].clone(), plan["apart"].clone()), (json!("--package=web@0.1.0"), json!(true)));
    assert_eq!(plan["manifests"], json!(["Cargo.toml", "crates/b/Cargo.toml", ".cargo/config.toml"]));
    // Of the files, what a change of the program does not change.
    assert_eq!(plan["targets"], json!(["crates/lib/b.rs", "make/build.rs", "src/bin/other/main.rs", "src/main.rs"]));
    assert_eq!(recipe.dependencies[0].name, "crate-a-1.0.0+b.tar.gz", "as nixpkgs calls it");
    assert_eq!(plan["dependencies"][0]["url"], Value::Null, "nixpkgs knows");
    assert_eq!(recipe.warning(&toolchain("1.90.0")), None);
    assert!(recipe.warning(&toolchain("1.84.1")).is_some());

    let exactly = |channel: &str| {
        let file = ("rust-toolchain.toml", format!("[toolchain]\nchannel = \"{channel}\"\n"));
        let files = [&files[..], &[(file.0, file.1.as_str())]].concat();
        let recipe = made(BuildStrategy::AutoRust, &files).expect("a recipe");
        (plan_of(&recipe)["toolchains"][0].clone(), recipe.warning(&toolchain("1.90.0")).is_some())
    };
    assert_eq!(exactly("1.90"), (json!("rustPackages_1_90"), false));
    assert_eq!(exactly("1.89.0"), (json!("rustPackages_1_89"), true));
    assert_eq!(exactly("stable"), (json!("rustPackages"), false));
    assert_eq!(exactly("nightly-2026-01-01"), (json!("rustPackages"), true));
}

#[test]
fn what_a_lock_of_cargo_must_not_be_is_said_by_name() {
    let said = |lock: &str| {
        let files = [("Cargo.toml", "[package]\nname = \"web\"\n"), ("Cargo.lock", lock), ("src/main.rs", "")];
        let why = made(BuildStrategy::AutoRust, &files).expect_err("it is refused");
        (why.code, why.message)
    };
    let sum = "0a".repeat(32);
    for (lock, code, words) in [
        ("[[package", BuildCode::InvalidConfig, "Cargo.lock cannot be read"),
        ("package = 7", BuildCode::InvalidConfig, "Cargo.lock cannot be read"),
        (
            &locked_crate("source = \"git+https://example.org/a?rev=1#1\"\n"),
            BuildCode::UnsupportedLanguage,
            "\"a 1.0.0+b\" from \"git+",
        ),
        (
            &locked_crate("source = \"registry+https://example.org/index\"\n"),
            BuildCode::UnsupportedLanguage,
            "from \"registry+https://example.org",
        ),
        (
            &locked_crate(&format!("source = \"registry+{CRATES}\"\n")),
            BuildCode::InvalidConfig,
            "no checksum of \"a 1.0.0+b\"",
        ),
        (
            &locked_crate(&format!("source = \"registry+{CRATES}\"\nchecksum = \"x{sum}\"\n")),
            BuildCode::InvalidConfig,
            "no checksum of",
        ),
    ] {
        let (found, message) = said(lock);
        assert!(found == code && message.contains(words), "{lock}: {found:?} {message}");
    }
    let none = [("Cargo.toml", "[package]\nname = \"web\"\n"), ("src/main.rs", "")];
    let why = made(BuildStrategy::AutoRust, &none).expect_err("it is refused");
    assert!(why.code == BuildCode::DependencyMissing && why.message.contains("there is no Cargo.lock"), "{why:?}");
    let empty = cargo_lock("");
    let broken = [
        ("Cargo.toml", "[package]\nname = \"web\"\n"),
        ("Cargo.lock", empty.as_str()),
        ("src/main.rs", ""),
        ("b/Cargo.toml", "[package"),
    ];
    made(BuildStrategy::AutoRust, &broken).expect("what is not in the lock file is nothing to it");
    // Of a package that is no member, cargo locks neither what its tests need nor what nobody asked for.
    let forked = cargo_lock("[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n");
    let fork = "[package]\nname = \"b\"\n[dependencies]\nx = { version = \"1\", optional = true }\n[dev-dependencies]\ny = \"1\"\n";
    let files = [
        ("Cargo.toml", "[package]\nname = \"web\"\n"),
        ("Cargo.lock", forked.as_str()),
        ("src/main.rs", ""),
        ("patches/b/Cargo.toml", fork),
    ];
    let apart =
        |files: &[(&str, &str)]| plan_of(&made(BuildStrategy::AutoRust, files).expect("a recipe"))["apart"].clone();
    assert_eq!(apart(&files), json!(true));
    // Where its manifest is not looked for, nothing is compiled without it.
    let vendored = [files[0], files[1], files[2], ("vendor/b/Cargo.toml", fork)];
    assert_eq!(apart(&vendored), json!(false));
    // A crate that needs one of the source is not compiled without the source.
    let patched = format!("source = \"registry+{CRATES}\"\nchecksum = \"{sum}\"\ndependencies = [\n \"web\",\n]\n");
    let patched = locked_crate(&patched);
    let files = [("Cargo.toml", "[package]\nname = \"web\"\n"), ("Cargo.lock", patched.as_str()), ("src/main.rs", "")];
    assert_eq!(plan_of(&made(BuildStrategy::AutoRust, &files).expect("a recipe"))["apart"], json!(false));
    // The first version had checksums elsewhere.
    let first = format!(
        "[[package]]\nname = \"web\"\nversion = \"0.1.0\"\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+{CRATES}\"\n\
         [metadata]\n\"checksum a 1.0.0 (registry+{CRATES})\" = \"{sum}\"\n"
    );
    let files = [("Cargo.toml", "[package]\nname = \"web\"\n"), ("Cargo.lock", first.as_str()), ("src/main.rs", "")];
    assert_eq!(made(BuildStrategy::AutoRust, &files).expect("a recipe").dependencies.len(), 1);
    let openssl = cargo_lock("[[package]]\nname = \"openssl-sys\"\nversion = \"0.9.1\"\n");
    let outside = "[package]\nname = \"web\"\n[dependencies]\nshared = { path = \"../shared\" }\n";
    for (manifest, lock, words) in [
        ("[package]\nname = \"web\"\n", openssl.as_str(), "it needs OpenSSL"),
        (outside, &empty, "\"shared\", which is outside"),
    ] {
        let files = [("Cargo.toml", manifest), ("Cargo.lock", lock), ("src/main.rs", "")];
        let why = made(BuildStrategy::AutoRust, &files).expect_err("it is refused").message;
        assert!(why.contains(words), "{why}");
    }
    let stale = |needs: &str| {
        let manifest = format!("[package]\nname = \"web\"\n[workspace.dependencies]\na = \"1\"\nb = \"1\"\n{needs}\n");
        let lock = locked_crate(&format!("source = \"registry+{CRATES}\"\nchecksum = \"{sum}\"\n"));
        // One with a lock file of its own.
        let other = ("fuzz/Cargo.toml", "[package]\nname = \"other\"\n[dependencies]\nc = \"7\"\n");
        let files = [("Cargo.toml", manifest.as_str()), ("Cargo.lock", &lock), ("src/main.rs", ""), other];
        made(BuildStrategy::AutoRust, &files).map_err(|why| why.message).err()
    };
    for fine in [
        "[dependencies]\na = \"1\"",
        "[dev-dependencies]\nx = { package = \"a\", version = \"1.0\" }",
        "[dependencies]\na.workspace = true\nown = { path = \"own\" }",
    ] {
        assert_eq!(stale(fine), None, "{fine}");
    }
    for bad in [
        "[dependencies]\na = \"2\"",
        "[target.'cfg(unix)'.build-dependencies]\nb = \"1\"",
        "[dependencies]\nb.workspace = true",
    ] {
        let why = stale(bad).expect("it is stale");
        assert!(why.contains("Cargo.lock is not of this Cargo.toml"), "{why}");
    }
    let library = [("Cargo.toml", "[package]\nname = \"web\"\n"), ("Cargo.lock", &empty), ("src/lib.rs", "")];
    assert!(made(BuildStrategy::AutoRust, &library).expect_err("no program").message.contains("no binary was found"));
}

/// What pip says of these wheels.
fn report(wheels: &[(&str, &str, &str)]) -> String {
    let install = wheels.iter().map(|(name, version, url)| {
        let sum = "0a".repeat(32);
        json!({"download_info": {"url": url, "archive_info": {"hashes": {"sha256": sum}}}, "metadata": {"name": name, "version": version}})
    });
    json!({"version": "1", "install": install.collect::<Vec<_>>()}).to_string()
}

#[test]
fn python_is_built_with_what_pip_finds_for_its_requirements() {
    let requirements = "# ours\nFlask>=3  # the framework\n-r more/other.txt\n--only-binary :all:\n-c limits.txt\n";
    let files = [
        ("requirements.txt", requirements),
        ("more/other.txt", "gunicorn==23.0.0 \\\n    --hash=sha256:00\n-r ../requirements.txt\n"),
        ("limits.txt", "click<9\n"),
        ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
    ];
    let recipe = made(BuildStrategy::AutoPython, &files).expect("a recipe");
    let lookup = recipe.lookup.clone().expect("pip is asked");
    assert_eq!(lookup.requirements, ["Flask>=3", "gunicorn==23.0.0 --hash=sha256:00"]);
    assert_eq!((lookup.constraints.as_slice(), recipe.is_locked()), (&["click<9".to_owned()][..], false));

    let flask = ("Flask", "3.1.0", "https://example.org/p/flask-3.1.0-py3-none-any.whl");
    let gunicorn = ("gunicorn", "23.0.0", "https://example.org/p/gunicorn-23.0.0-py3-none-any.whl");
    let native = ("m", "1.0+x", "https://example.org/p/m-1.0%2Bx-cp311-cp311-manylinux_2_17_x86_64.whl");
    let settled = recipe.clone().settle(&report(&[flask, gunicorn])).expect("settles");
    let plan = plan_of(&settled);
    assert_eq!((plan["start"].clone(), plan["native"].clone()), (json!("gunicorn app:app"), json!(false)));
    let hash = "sha256-CgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo=";
    assert_eq!(
        plan["dependencies"][0],
        json!({"name": "flask-3.1.0-py3-none-any.whl", "place": "flask-3.1.0-py3-none-any.whl", "url": flask.2, "hash": hash})
    );
    assert_eq!(settled.notes, Vec::<String>::new());
    // What is not there cannot run it.
    let settled = recipe.clone().settle(&report(&[flask, native])).expect("settles");
    let plan = plan_of(&settled);
    assert!(plan["start"].as_str().expect("a command").starts_with("flask --app app:app run --host 0.0.0.0"));
    assert!(settled.notes[0].contains("made for development"), "{:?}", settled.notes);
    assert_eq!(
        (plan["native"].clone(), settled.dependencies[1].place.as_str()),
        (json!(true), "m-1.0+x-cp311-cp311-manylinux_2_17_x86_64.whl")
    );
    let why = recipe.clone().settle(&report(&[])).expect_err("nothing runs it");
    assert!(why.code == BuildCode::DependencyMissing && why.message.contains("gunicorn or flask"), "{why:?}");
    for odd in [
        "https://example.org/flask-3.1.0.tar.gz",
        "file:///etc/flask-3.1.0-py3-none-any.whl",
        "https://example.org/a b-1-py3-none-any.whl",
    ] {
        let why = recipe.clone().settle(&report(&[("flask", "3.1.0", odd)])).expect_err("it is refused").message;
        assert!(why.contains("is no wheel with a hash"), "{why}");
    }
    assert!(recipe.settle("{}").expect_err("no answer").message.contains("cannot be read"));
}

#[test]
fn python_is_built_with_what_its_lock_names() {
    let project = "[project]\nname = \"web\"\nrequires-python = \">=3.11,<3.13\"\ndependencies = [\"a_b[x]>=1\"]\n";
    let sum = "0a".repeat(32);
    let lock = format!(
        "version = 1\n[[package]]\nname = \"web\"\nversion = \"0\"\nsource = {{ virtual = \".\" }}\n\
         [[package]]\nname = \"a-b\"\nversion = \"1.0\"\nsource = {{ registry = \"https://example.org/simple\" }}\n\
         wheels = [{{ url = \"https://example.org/w\", hash = \"sha256:{sum}\" }}]\n\
         [[package]]\nname = \"c\"\nversion = \"1\"\nresolution-markers = [\"python_full_version < '3.12'\", \"os_name == 'nt'\"]\n\
         [[package]]\nname = \"c\"\nversion = \"2\"\n"
    );
    let files = [("pyproject.toml", project), ("uv.lock", lock.as_str()), ("main.py", "")];
    let recipe = made(BuildStrategy::AutoPython, &files).expect("a recipe");
    let lookup = recipe.lookup.clone().expect("pip is asked");
    assert_eq!(lookup.requirements, ["a_b[x]>=1"]);
    assert_eq!(lookup.constraints, ["a-b==1.0", "c==1 ; (python_full_version < '3.12') or (os_name == 'nt')"]);
    assert!(recipe.is_locked());
    let first = plan_of(&recipe);
    assert_eq!(first["toolchains"], json!(["python312", "python311", "python3"]));
    let wheel = ("A.B", "1.0", "https://example.org/a_b-1.0-py3-none-any.whl");
    let plan = plan_of(&recipe.clone().settle(&report(&[wheel])).expect("settles"));
    assert_eq!(plan["start"], json!("python ./main.py"));
    for other in [("a-b", "1.1", wheel.2), ("d", "1.0", wheel.2), ("c", "1", wheel.2)] {
        let why = recipe.clone().settle(&report(&[other])).expect_err("it is not locked").message;
        assert!(why.contains("uv.lock is not of this pyproject.toml") && why.contains(other.1), "{why}");
    }
    // Poetry's says the same in other words.
    let project = "[tool.poetry.dependencies]\npython = \"^3.11\"\na = {version = \"^1\", extras = [\"x\"], markers = \"os_name == 'posix'\", python = \"<3.12\"}\nb = {version = \"1\", optional = true}\n";
    let lock = format!(
        "[[package]]\nname = \"A\"\nversion = \"1.0\"\nfiles = [{{ file = \"a.whl\", hash = \"sha256:{sum}\" }}]\n"
    );
    let files = [("pyproject.toml", project), ("poetry.lock", lock.as_str()), ("main.py", "")];
    let lookup = made(BuildStrategy::AutoPython, &files).expect("a recipe").lookup.expect("pip is asked");
    assert_eq!(
        (lookup.requirements, lookup.constraints),
        (vec!["a[x] ; (os_name == 'posix') and python_full_version < '3.12'".to_owned()], vec!["a==1.0".to_owned()])
    );
}

#[test]
fn what_is_not_of_the_index_is_said_by_name() {
    let said = |files: &[(&str, &str)]| {
        let why = made(BuildStrategy::AutoPython, &[files, &[("main.py", "")]].concat()).expect_err("it is refused");
        (why.code, why.message)
    };
    let requirements = |line: &str| said(&[("requirements.txt", line)]);
    for (line, words) in [
        ("a @ https://example.org/a.whl", "fetched from elsewhere"),
        ("git+https://example.org/a", "fetched from elsewhere"),
        ("./own", "names no package"),
        ("evil --no-binary evil", "with an option"),
        ("-e ./own", "does not do"),
        ("--index-url https://example.org/simple", "does not do"),
        ("--extra-index-url=https://example.org/simple", "does not do"),
    ] {
        let (code, message) = requirements(line);
        assert!(code == BuildCode::UnsupportedLanguage && message.contains(words), "{line}: {message}");
    }
    assert!(requirements("-r ../../etc/passwd").1.contains("outside of the source"));
    assert!(requirements("-r other.txt").1.contains("there is no \"other.txt\""));
    let project = ("pyproject.toml", "[project]\nname = \"web\"\n");
    let locked = |lock: &str| said(&[project, ("uv.lock", lock)]);
    assert!(locked("[[package").1.contains("uv.lock cannot be read"));
    let git = "[[package]]\nname = \"a\"\nversion = \"1\"\nsource = { git = \"https://example.org/a#1\" }\n";
    let (code, message) = locked(git);
    assert!(
        code == BuildCode::UnsupportedLanguage
            && message.contains("\"a\", which is not from the usual index (\"git\")"),
        "{message}"
    );
    let poetry = ("pyproject.toml", "[tool.poetry]\nname = \"web\"\n");
    let (code, message) = said(&[poetry]);
    assert!(code == BuildCode::DependencyMissing && message.contains("there is no poetry.lock"), "{message}");
    let (code, message) = said(&[("setup.py", "")]);
    assert!(code == BuildCode::UnsupportedLanguage && message.contains("setup.py"), "{message}");
    let nothing = made(BuildStrategy::AutoPython, &[("requirements.txt", "")]).expect_err("nothing runs").message;
    assert!(nothing.contains("nothing says what to run"), "{nothing}");
}

#[test]
fn what_runs_of_python_is_what_serves() {
    let start = |files: &[(&str, &str)], wheels: &[&str]| {
        let recipe = made(BuildStrategy::AutoPython, files).map_err(|why| why.message)?;
        let urls: Vec<String> =
            wheels.iter().map(|it| format!("https://example.org/{it}-1-py3-none-any.whl")).collect();
        let wheels: Vec<_> = wheels.iter().zip(&urls).map(|(name, url)| (*name, "1", url.as_str())).collect();
        let settled = recipe.settle(&report(&wheels)).map_err(|why| why.message)?;
        Ok::<_, String>(plan_of(&settled)["start"].as_str().expect("a command").to_owned())
    };
    let django = [
        ("requirements.txt", "--requirement=./requirements/base.txt\n"),
        ("requirements/base.txt", "Django\n"),
        ("manage.py", "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'config.settings.production')\n"),
        ("config/settings/production.py", ""),
        ("config/wsgi.py", ""),
    ];
    assert_eq!(start(&django, &["django", "gunicorn"]).as_deref(), Ok("gunicorn config.wsgi"));
    assert!(start(&django, &["django"]).expect("its own").starts_with("python ./manage.py runserver"));
    let fastapi = [("requirements.txt", "\u{feff}fastapi\n"), ("app/main.py", "app = FastAPI()\n")];
    assert!(start(&fastapi, &["fastapi", "uvicorn"]).expect("uvicorn").starts_with("uvicorn app.main:app "));
    let why = start(&fastapi, &["fastapi"]).expect_err("nothing serves");
    assert!(why.contains("it is run by uvicorn"), "{why}");
    // Run as a program, it would end at once.
    let why = start(&[("requirements.txt", "flask\n"), ("wsgi.py", "app = create_app()\n")], &["flask"]);
    assert!(why.as_ref().is_err_and(|why| why.contains("nothing says what to run")), "{why:?}");
    let script = [("pyproject.toml", "[project]\nname = \"w\"\n[project.scripts]\nserve = \"w.main:run\"\n")];
    assert_eq!(start(&script, &[]).as_deref(), Ok("python -c 'import sys; from w.main import run; sys.exit(run())'"));
}

#[test]
fn what_the_source_itself_needs_is_not_forgotten() {
    let needs = |project: &str, requirements: &[(&str, &str)]| {
        let files = [&[("pyproject.toml", project), ("main.py", "")], requirements].concat();
        made(BuildStrategy::AutoPython, &files)
            .map(|recipe| recipe.lookup.expect("pip is asked").requirements)
            .map_err(|why| why.message)
    };
    let project = "[project]\nname = \"w\"\ndependencies = [\"a\"]\n";
    let editable = [("requirements.txt", "-e .\nb\n")];
    assert_eq!(needs(project, &editable), Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(needs(project, &[]), Ok(vec!["a".to_owned()]));
    for (project, words) in [
        ("[project]\nname = \"w\"\ndynamic = [\"dependencies\"]\n", "is said by a program"),
        ("[build-system]\nrequires = [\"setuptools\"]\n", "is said by a program"),
        // Somebody else's of that name would be taken.
        (
            "[project]\nname = \"w\"\ndependencies = [\"a\"]\n[tool.uv.sources]\na = { workspace = true }\n",
            "there is no uv.lock",
        ),
    ] {
        let why = needs(project, &editable).expect_err("it is refused");
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_python_is_looked_for_that_fits() {
    let names = |said: &str| {
        let project = format!("[project]\nname = \"web\"\nrequires-python = \"{said}\"\n");
        let recipe =
            made(BuildStrategy::AutoPython, &[("pyproject.toml", &project), ("main.py", "")]).expect("a recipe");
        let names = plan_of(&recipe)["toolchains"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>();
        (names.join(" "), recipe.warning(&toolchain("3.11.7")).is_some())
    };
    let is = |names: &str, warns: bool| (names.to_owned(), warns);
    assert_eq!(names(">=3.9"), is("python3", false));
    assert_eq!(names(">=3.12"), is("python3", true));
    assert_eq!(names("^3.10"), is("python3", false));
    assert_eq!(names("==3.11.*"), is("python311 python3", false));
    assert_eq!(names("3.12"), is("python312 python3", true));
    assert_eq!(names(">=3.10,<3.12"), is("python311 python310 python3", false));
    assert_eq!(names("<3.10"), is("python39 python38 python3", true));
    assert_eq!(names("!=3.9.0"), is("python3", false));
    assert_eq!(names("~3.11"), is("python311 python3", false));
    assert_eq!(names("~=3.10.2"), is("python310 python3", true));
    assert_eq!(names("~=3.10"), is("python3", false));
    assert_eq!(names("what"), is("python3", false));
}

#[test]
fn what_no_flake_is_generated_for_is_said() {
    let node = |manifest: Value, more: &[(&str, &str)]| {
        let manifest = manifest.to_string();
        let files = [&[("package.json", manifest.as_str())], more].concat();
        made(BuildStrategy::AutoNode, &files).expect_err("not yet").message
    };
    assert!(node(json!({"dependencies": {"next": "15"}}), &[]).contains("nextjs"));
    assert!(node(json!({"workspaces": ["a"], "main": "a.js"}), &[]).contains("workspaces"));
    assert!(node(json!({"main": "a.js"}), &[("pnpm-lock.yaml", "")]).contains("pnpm"));
    assert!(node(json!({"main": "a.js"}), &[("a.js", "")]).contains("there is no package-lock.json"));
    let empty = lock(&json!({"": {}}));
    assert!(node(json!({}), &[("package-lock.json", &empty)]).contains("nothing says what to run"));
    let environment_vars = EnvVars::from([("outputHash".to_owned(), "x".to_owned())]);
    let config = BuildConfig { environment_vars, ..BuildConfig::default() };
    let files = [("go.mod", "module m\n"), MAIN];
    let said = made_of(BuildStrategy::AutoGo, &files, &config).expect_err("it means something to Nix").message;
    assert!(said.contains("\"outputHash\""), "{said}");
}

#[test]
fn what_a_service_says_goes_before_what_is_found() {
    let details = |details: &[(&str, Detail)]| {
        let details = details.iter().map(|(field, detail)| ((*field).to_owned(), detail.clone())).collect();
        BuildConfig { details, ..BuildConfig::default() }
    };
    let text = |text: &str| Detail::Text(text.to_owned());
    let tags = Detail::List(vec!["a".to_owned(), "b".to_owned()]);
    let config = details(&[("entry_point", text("cmd/b")), ("go_version", text("1.21")), ("build_tags", tags)]);
    let files = [("go.mod", "module m\ngo 1.22\n"), ("cmd/a/main.go", MAIN.1), ("cmd/b/main.go", MAIN.1)];
    let plan = plan_of(&made_of(BuildStrategy::AutoGo, &files, &config).expect("a recipe"));
    assert_eq!((plan["package"].clone(), plan["tags"].clone()), (json!("cmd/b"), json!("a,b")));
    assert_eq!(plan["toolchains"], json!(["go_1_21", "go"]));

    let manifest = json!({"scripts": {"start": "node a.js", "build": "tsc"}}).to_string();
    let empty = lock(&json!({"": {}}));
    let files = [("package.json", manifest.as_str()), ("package-lock.json", empty.as_str()), ("a.js", "")];
    let made = |said: &[(&str, Detail)]| {
        let plan = plan_of(&made_of(BuildStrategy::AutoNode, &files, &details(said)).expect("a recipe"));
        (plan["build"].clone(), plan["start"].clone(), plan["toolchains"][0].clone())
    };
    assert_eq!(made(&[]), (json!("npm run build"), json!("node a.js"), json!("nodejs")));
    let said = [("build_command", text("")), ("start_command", text("a && b")), ("node_version", text("22"))];
    assert_eq!(made(&said), (json!(""), json!("a && b"), json!("nodejs_22")));
    assert_eq!(made(&[("entry_point", text("b.js"))]).1, json!("node ./b.js"));
}

#[test]
fn another_version_than_was_asked_for_is_said() {
    let files = [("go.mod", "module m\ngo 1.22\n"), MAIN];
    let recipe = made(BuildStrategy::AutoGo, &files).expect("a recipe");
    for fine in ["1.22", "1.22.5", "1.220.1"] {
        assert_eq!(recipe.warning(&toolchain(fine)), None);
    }
    let warning = recipe.warning(&toolchain("1.21.9")).expect("it is too old");
    assert!(warning.contains("Go \"1.22\"") && warning.contains("1.21.9 is used"), "{warning}");

    let node = |engines: Value, more: &[(&str, &str)]| {
        let manifest = json!({"main": "a.js", "engines": {"node": engines}}).to_string();
        let empty = lock(&json!({"": {}}));
        let files =
            [&[("package.json", manifest.as_str()), ("package-lock.json", &empty), ("a.js", "")], more].concat();
        let recipe = made(BuildStrategy::AutoNode, &files).expect("a recipe");
        let first = plan_of(&recipe)["toolchains"][0].as_str().expect("a name").to_owned();
        (first, recipe.warning(&toolchain("20.1.0")).is_some())
    };
    let is = |name: &str, warns: bool| (name.to_owned(), warns);
    assert_eq!(node(Value::Null, &[]), is("nodejs", false));
    assert_eq!(node(json!(">=18"), &[]), is("nodejs", false));
    assert_eq!(node(json!("20.x"), &[]), is("nodejs_20", false));
    assert_eq!(node(json!("^20.9.0"), &[]), is("nodejs_20", false));
    assert_eq!(node(json!("^18.2"), &[]), is("nodejs_18", true));
    assert_eq!(node(Value::Null, &[(".nvmrc", "v22.3.0\n")]), is("nodejs_22", true));
    assert_eq!(node(json!(">=18"), &[(".nvmrc", "20\n")]), is("nodejs_20", false));
}

#[test]
fn a_toolchain_says_its_version_and_where_it_fetches_from() {
    let read = |text: &str| Toolchain::read(text).map(|it| (it.version, it.registry));
    let known = Some(("1.22.5".to_owned(), Some("https://proxy.example.org".to_owned())));
    assert_eq!(read("1.22.5\nhttps://proxy.example.org,direct\n"), known);
    assert_eq!(read("1.22.5\noff\n"), None);
    assert_eq!(read("1.22.5\n"), Some(("1.22.5".to_owned(), None)));
    assert_eq!(read(""), None);
}

proptest! {
    /// Whatever a stranger writes is data: the program is the same.
    #[test]
    fn nothing_of_a_source_is_in_the_program(
        name in "[ -~]{1,20}", start in "\\PC{1,40}", value in "\\PC{0,40}", package in "[a-z@/.\"$]{1,20}",
    ) {
        let manifest = json!({"name": name, "scripts": {"start": start}}).to_string();
        let place = format!("node_modules/{package}");
        let packages = BTreeMap::from([
            (String::new(), json!({})),
            (place.clone(), json!({"version": "1", "integrity": "sha512-x"})),
        ]);
        let text = lock(&json!(packages));
        let files = [("package.json", manifest.as_str()), ("package-lock.json", text.as_str())];
        let environment_vars = EnvVars::from([("VALUE".to_owned(), value.clone())]);
        let config = BuildConfig { environment_vars, ..BuildConfig::default() };
        if let Ok(recipe) = made_of(BuildStrategy::AutoNode, &files, &config) {
            let files = recipe.files("github:a/b", &toolchain("20"), &BTreeMap::new());
            prop_assert_eq!(files.flake, include_str!("node.nix").replace("NIXPKGS", "\"github:a/b\""));
            let plan: Value = serde_json::from_str(&files.plan).expect("JSON");
            prop_assert_eq!(&plan["environment"]["VALUE"], &json!(value));
            prop_assert_eq!(&plan["dependencies"][0]["place"], &json!(place));
        }
    }

    #[test]
    fn names_in_the_store_are_names_there(path in "\\PC{0,300}") {
        let name = store_name(&path);
        prop_assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.'), "{}", name);
        prop_assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-._?=".contains(letter)));
    }

    #[test]
    fn a_reference_is_one_string(text in "[ -~\n\r]{0,60}") {
        let literal = literal(&text);
        let inner = &literal[1..literal.len() - 1];
        let mut escaped = false;
        for letter in inner.chars() {
            prop_assert!(escaped || !matches!(letter, '"' | '$' | '\n'), "{}", literal);
            escaped = letter == '\\' && !escaped;
        }
        prop_assert!(!escaped);
    }
}
