mod node;
mod python;
mod rust;

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
    assert_eq!(plan_of(&cgo.expect("a recipe"))["cgo"], json!(true));
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
    refused(
        package(json!({"version": "1.0.0", "integrity": "sha1-x", "resolved": "http://r.org/a"})),
        "neither over HTTPS",
    );
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

#[test]
fn what_no_flake_is_generated_for_is_said() {
    let node = |manifest: Value, more: &[(&str, &str)]| {
        let manifest = manifest.to_string();
        let files = [&[("package.json", manifest.as_str())], more].concat();
        made(BuildStrategy::AutoNode, &files).expect_err("not yet").message
    };
    assert!(node(json!({"workspaces": ["a"], "main": "a.js"}), &[]).contains("workspaces"));
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
