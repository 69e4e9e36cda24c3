//! Sources without a Dockerfile and without a flake: given source, it runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::fence::{Server, last_log};
use super::flake::failure;
use crate::harness::node::Node;
use crate::harness::{Harness, nixpkgs, until};

/// A source for each language, with the word that its log has for what it depends on.
const SAMPLES: [(&str, &str, &str); 6] = [
    ("go", "auto-go", "go-packages"),
    ("node", "auto-node", "node-modules"),
    ("site", "auto-node", "node-modules"),
    ("next", "auto-node", "node-modules"),
    ("python", "auto-python", "python-packages"),
    ("rust", "auto-rust", "rust-crates"),
];
/// What of the samples is different in each run: Nix builds nothing twice.
const PROGRAMS: [&str; 6] = ["cmd/web/main.go", "server.js", "index.html", "pages/index.js", "main.py", "src/main.rs"];

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/samples")
}

/// Where the samples are fetched from. Their requests are for a machine's own address, which the operator names.
fn registry() -> (Server, String) {
    let server = Server::of(samples().join("registry"));
    let url = format!("http://127.0.0.1:{}", server.port);
    (server, url)
}

/// A node whose cluster, and not itself, has a nixpkgs.
fn node_fetching_from(url: &str, engine: &str) -> Node {
    let settings = [
        ("NARVANA_NIX_SUBSTITUTERS", url),
        ("NARVANA_NIXPKGS", "path:/nix/store/there-is-none"),
        ("NARVANA_ALLOW_LOOPBACK_SOURCES", "1"),
    ];
    let node = Node::registered_as(engine, &settings);
    node.send("PATCH", "/v1/settings", &json!({"nixpkgs": nixpkgs::fetching_from(url)})).expect(200);
    node
}

/// A sample, with this page, whose lock file names the registry with this URL if it names one.
fn copy(sample: &str, page: &str, url: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let from = samples().join(sample);
    let copied = Command::new("cp").arg("-r").arg(from.join(".")).arg(folder.path()).status();
    assert!(copied.expect("cp runs").success());
    for file in PROGRAMS.into_iter().chain(["uv.lock", "yarn.lock"]) {
        let file = folder.path().join(file);
        if let Ok(text) = std::fs::read_to_string(&file) {
            std::fs::write(&file, text.replace("PAGE", page).replace("REGISTRY", url)).expect("writes");
        }
    }
    folder
}

/// The text of a lock file, with another hash after the first of these words: one that begins like it.
fn with_another_hash(lock: &str, words: &str) -> String {
    let (head, tail) = lock.split_at(lock.find(words).expect("a hash") + words.len() + 20);
    let other = if tail.starts_with('0') { "1" } else { "0" };
    format!("{head}{other}{}", &tail[1..])
}

fn service(name: &str, strategy: &str) -> Value {
    let check = json!({"type": "tcp", "interval_seconds": 1, "retries": 20});
    // All of them, and two of one while it is updated, have room on one machine.
    let resources = json!({"cpu": "0.1", "memory": "128Mi"});
    json!({"name": name, "source_type": "upload", "build_strategy": strategy, "health_check": check, "resources": resources})
}

/// How the last build was done is shown by any node.
fn check_recipe(node: &Node, strategy: &str) {
    let builds = node.get("/v1/builds?limit=1").expect(200);
    let id = builds[0]["id"].as_str().expect("an id");
    let recipe = node.get(&format!("/v1/builds/{id}/recipe")).expect(200);
    assert_eq!(recipe["detection"]["strategy"], strategy);
    let file = |name: &str| recipe["files"][name].as_str().unwrap_or_default();
    assert!(file("flake.nix").contains("Written by narvana for a source of"), "{recipe}");
    for json in ["plan.json", "flake.lock"] {
        assert!(serde_json::from_str::<Value>(file(json)).is_ok_and(|json| json.is_object()), "{recipe}");
    }
    let shown = node.cli(&["build", "recipe", id, "--file", "plan.json"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("greet"), "{shown:?}");
    let shown = node.cli(&["build", "recipe", id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(strategy), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_each_language_is_built_here_and_runs_there() {
    let (podman, docker) = tokio::join!(Harness::podman(), Harness::docker());
    let (_server, url) = registry();
    let first = node_fetching_from(&url, podman.address());
    let second = first.joined_on("second", docker.address());
    first.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    assert!(first.cli(&["node", "cordon", "second"]).status.success());
    for (sample, strategy, dependencies) in SAMPLES {
        let page = podman.name(sample);
        // What no other run has in its environment is built by this one.
        let mut service = service(sample, strategy);
        service["build_config"] = json!({"environment_vars": {"RUN": page}});
        first.post("/v1/apps/shop/services", &service).expect(201);
        let folder = copy(sample, &page, &url);
        let host = format!("{sample}-shop.localhost");
        first.upload("shop", sample, folder.path());
        first.deploy("shop", sample);
        let log = last_log(&first);
        assert!(log.contains("Toolchain: ") && log.contains("Stored an image of"), "{log}");
        assert!(log.contains(&format!("{dependencies}.drv")), "{log}");
        check_recipe(&second, strategy);
        until("its page", || async { first.fetch(&host, "/").body.contains(&page).then_some(()) }).await;

        // What it depends on is not built again.
        let newer = format!("{page}-newer");
        let folder = copy(sample, &newer, &url);
        if sample == "python" {
            // The same wheels, as pip finds them for what no lock file settles.
            std::fs::remove_file(folder.path().join("uv.lock")).expect("it is there");
            std::fs::write(folder.path().join("requirements.txt"), "greet >= 1  # any\n").expect("writes");
        }
        if sample == "next" {
            std::fs::write(folder.path().join("next.config.js"), "module.exports = { output: \"standalone\" };\n")
                .expect("writes");
        }
        first.upload("shop", sample, folder.path());
        // Any node says how it would be built, and how long that took before.
        let preview = second.post(&format!("/v1/apps/shop/services/{sample}/preview"), &json!({})).expect(200);
        assert!(preview["strategy"] == strategy && preview["estimated_build_time"].is_u64(), "{preview}");
        let shown = second.cli(&["build", "preview", "--app", "shop", "--service", sample]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains(strategy), "{shown:?}");
        first.deploy("shop", sample);
        let log = last_log(&first);
        assert!(!log.contains(&format!("{dependencies}.drv")) && log.contains("Stored an image of"), "{log}");
        assert!(!log.contains("Compiling greet"), "{log}");
        until("its page", || async { first.fetch(&host, "/").body.contains(&newer).then_some(()) }).await;

        // What did not change is not even looked at by Nix.
        first.deploy("shop", sample);
        let log = last_log(&first);
        assert!(log.contains("made the same: its image is taken") && !log.contains("Toolchain: "), "{log}");
    }
    assert!(first.cli(&["node", "uncordon", "second"]).status.success());
    let drained = first.cli(&["node", "drain", first.name()]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    for (sample, ..) in SAMPLES {
        let host = format!("{sample}-shop.localhost");
        let is_there = async || second.fetch(&host, "/").body.contains("hello from").then_some(());
        until("it answers there", is_there).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_a_build_has_its_effect() {
    let harness = Harness::podman().await;
    let (_server, url) = registry();
    let node = node_fetching_from(&url, harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let folder = tempfile::tempdir().expect("a folder");
    let program = r#"package main

// static int twice(int n) { return 2 * n; }
import "C"

import (
	_ "embed"
	"fmt"
	"net/http"
	"os"
)

//go:embed made.txt
var made string

var word = "none"

func main() {
	http.ListenAndServe(":"+os.Getenv("PORT"), http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, word, made, C.twice(21))
	}))
}
"#;
    std::fs::create_dir(folder.path().join("inner")).expect("made");
    for (name, text) in [
        ("go.mod", "module example.org/web\n\ngo 1.19\n"),
        ("inner/go.mod", "module example.org/inner\n\ngo 1.19\n"),
        ("inner/main.go", program),
    ] {
        std::fs::write(folder.path().join(name), text).expect("writes");
    }
    let mut service = service("web", "auto-go");
    service["build_config"] = json!({
        "environment_vars": {"RUN": harness.name("run")},
        "cgo_enabled": true,
        "ldflags": "-X main.word=linked",
        "workspace_module": "inner",
        "entry_point": ".",
        "extra_nix_packages": ["nodejs"],
        "pre_build_commands": ["text=$(node -p '6 * 7')", "printf %s \"$text\" > inner/made.txt"],
        "post_build_commands": ["ls \"$out/bin\"; echo checked"],
    });
    node.post("/v1/apps/shop/services", &service).expect(201);
    node.upload("shop", "web", folder.path());
    node.deploy("shop", "web");
    assert!(last_log(&node).contains("checked"), "{}", last_log(&node));
    until("its page", || async { node.fetch("web-shop.localhost", "/").body.contains("linked 42 42").then_some(()) })
        .await;
    let shown = node.cli(&["service", "show", "web", "--app", "shop"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("ldflags=-X main.word=linked"), "{shown:?}");

    // Each line has to work, and what is not there is said by its name.
    let failed = |config: Value, words: &str| {
        let config = json!({"build_strategy": "auto", "build_config": config});
        node.send("PATCH", "/v1/apps/shop/services/web", &config).expect(200);
        let (code, error) = failure(&node, copy("next", &harness.name("page"), &url).path());
        assert!(code == "BUILD_FAILED" && (last_log(&node).contains(words) || error.contains(words)), "{error}");
    };
    failed(json!({"pre_build_commands": ["echo before", "false", "echo never"]}), "before");
    failed(json!({"extra_nix_packages": ["no-such.thing"]}), "this nixpkgs has no no-such.thing");
    failed(json!({"nextjs_options": {"output_mode": "export"}}), "did not make what nextjs_options.output_mode says");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_source_from_being_built_is_said() {
    let harness = Harness::podman().await;
    let (_server, url) = registry();
    let node = node_fetching_from(&url, harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    node.post("/v1/apps/shop/services", &service("web", "auto")).expect(201);
    // A nixpkgs of a service's own is a flake of a stranger.
    let own = json!({"build_config": {"nixpkgs": "github:example/nixpkgs"}});
    node.send("PATCH", "/v1/apps/shop/services/web", &own).expect(200);
    let (code, error) = failure(&node, copy("go", "page", &url).path());
    assert!(code == "INFRASTRUCTURE" && error.contains("evaluates no flakes of others"), "{error}");
    node.send("PATCH", "/v1/apps/shop/services/web", &json!({"build_config": {}})).expect(200);
    let said = |sample: &str, file: &str, text: Option<&str>| {
        let folder = copy(sample, "page", &url);
        match text {
            Some(text) => std::fs::write(folder.path().join(file), text).expect("writes"),
            None => std::fs::remove_file(folder.path().join(file)).expect("it is there"),
        }
        failure(&node, folder.path())
    };
    let (code, error) = said("go", "go.sum", Some("example.org/greet v1.0.0\n"));
    assert!(code == "INVALID_CONFIG" && error.contains("go.sum has a line that is none"), "{error}");
    let sums = "example.org/gone v1.0.0 h1:3GQvqUUxRVIYD9cvlbSekhj/YhZAjctqB3im+1keyBo=\n";
    let (code, error) = said("go", "go.sum", Some(sums));
    assert!(
        code == "DEPENDENCY_MISSING" && error.contains("example.org/gone/@v/v1.0.0.zip cannot be fetched"),
        "{error}"
    );
    // What is served is not what the lock file names.
    let sums = std::fs::read_to_string(samples().join("go/go.sum")).expect("reads").replace("h1:3G", "h1:4G");
    let (code, error) = said("go", "go.sum", Some(&sums));
    assert!(code == "BUILD_FAILED" && last_log(&node).contains("checksum mismatch"), "{error}");
    let (code, error) = said("go", "cmd/web/main.go", Some("package main\n\nfunc main() { nothing() }\n"));
    assert!(code == "BUILD_FAILED" && last_log(&node).contains("undefined: nothing"), "{error}");

    let (code, error) = said("node", "package-lock.json", None);
    assert!(code == "DEPENDENCY_MISSING" && error.contains("there is no package-lock.json"), "{error}");
    let (code, error) = said("node", "package-lock.json", Some("{"));
    assert!(code == "INVALID_CONFIG" && error.contains("package-lock.json cannot be read"), "{error}");
    let (code, error) = said("site", "yarn.lock", None);
    assert!(code == "DEPENDENCY_MISSING" && error.contains("there is no package-lock.json"), "{error}");
    let lock = std::fs::read_to_string(samples().join("site/yarn.lock")).expect("reads").replace("REGISTRY", &url);
    let (code, error) = said("site", "yarn.lock", Some(&with_another_hash(&lock, "sha512-")));
    assert!(code == "DEPENDENCY_MISSING" && last_log(&node).contains("hash mismatch"), "{error}");
    let (code, error) = said("site", "yarn.lock", Some(&lock.replace("vite@^1.0.0", "vite@^2.0.0")));
    assert!(code == "INVALID_CONFIG" && error.contains("it has no \\\"vite@^1.0.0\\\""), "{error}");
    let manifest = std::fs::read_to_string(samples().join("site/package.json")).expect("reads");
    let (code, error) = said("site", "package.json", Some(&manifest.replace("vite build", "true")));
    assert!(code == "BUILD_FAILED" && last_log(&node).contains("There is no index.html in any of dist"), "{error}");
    let lock = std::fs::read_to_string(samples().join("next/pnpm-lock.yaml")).expect("reads");
    // pnpm itself has the last word.
    let (code, error) = said("next", "pnpm-lock.yaml", Some(&lock.replace("specifier: ^1.0.0", "specifier: ^1.1.0")));
    assert!(code == "BUILD_FAILED" && last_log(&node).contains("ERR_PNPM_OUTDATED_LOCKFILE"), "{error}");
    let lock = std::fs::read_to_string(samples().join("node/package-lock.json")).expect("reads");
    let (code, error) = said("node", "package-lock.json", Some(&with_another_hash(&lock, "sha512-")));
    assert!(code == "DEPENDENCY_MISSING" && error.contains("node_modules/greet cannot be fetched as"), "{error}");
    assert!(last_log(&node).contains("hash mismatch"), "{error}");
    let manifest = std::fs::read_to_string(samples().join("node/package.json")).expect("reads");
    let (code, error) = said("node", "package.json", Some(&manifest.replace("latest", "^2.0.0")));
    assert!(code == "INVALID_CONFIG" && error.contains("they differ in \\\"greet\\\""), "{error}");
    let (code, error) = said("node", "package.json", Some(&manifest.replace("greet built.txt", "no-such-command")));
    assert!(code == "BUILD_FAILED" && last_log(&node).contains("no-such-command"), "{error}");

    let (code, error) = said("rust", "Cargo.lock", None);
    assert!(code == "DEPENDENCY_MISSING" && error.contains("there is no Cargo.lock"), "{error}");
    let lock = std::fs::read_to_string(samples().join("rust/Cargo.lock")).expect("reads");
    let (code, error) = said("rust", "Cargo.lock", Some(&lock.replace("1.0.0", "1.0.1")));
    assert!(code == "DEPENDENCY_MISSING" && error.contains(" 1.0.1 cannot be fetched"), "{error}");
    let (code, error) = said("rust", "Cargo.lock", Some(&with_another_hash(&lock, "checksum = \"")));
    assert!(code == "DEPENDENCY_MISSING" && last_log(&node).contains("hash mismatch"), "{error}");
    let manifest = std::fs::read_to_string(samples().join("rust/Cargo.toml")).expect("reads");
    let (code, error) = said("rust", "Cargo.toml", Some(&manifest.replace("greet = \"1\"", "greet = \"2\"")));
    assert!(code == "INVALID_CONFIG" && error.contains("Cargo.lock is not of this Cargo.toml"), "{error}");
    let (code, error) = said("rust", "src/main.rs", Some("fn main() { nothing() }\n"));
    assert!(code == "BUILD_FAILED" && last_log(&node).contains("cannot find function `nothing`"), "{error}");

    let (code, error) = said("python", "uv.lock", Some("[[package"));
    assert!(code == "INVALID_CONFIG" && error.contains("uv.lock cannot be read"), "{error}");
    let lock = std::fs::read_to_string(samples().join("python/uv.lock")).expect("reads");
    let (code, error) = said("python", "uv.lock", Some(&lock.replace("1.0.0", "1.0.1")));
    assert!(code == "DEPENDENCY_MISSING" && error.contains("greet"), "{error}");
    let (code, error) = said("python", "uv.lock", Some(&with_another_hash(&lock, "sha256:")));
    assert!(code == "INVALID_CONFIG" && error.contains("uv.lock is not of this pyproject.toml"), "{error}");
    let project = std::fs::read_to_string(samples().join("python/pyproject.toml")).expect("reads");
    let (code, error) = said("python", "pyproject.toml", Some(&project.replace("greet>=1", "absent")));
    assert!(code == "DEPENDENCY_MISSING" && error.contains("absent"), "{error}");
    let folder = copy("python", "page", &url);
    std::fs::remove_file(folder.path().join("uv.lock")).expect("it is there");
    // Its metadata names an address: what is there would be built, which is to run it.
    std::fs::write(folder.path().join("requirements.txt"), "lead\n").expect("writes");
    let (code, error) = failure(&node, folder.path());
    assert!(code == "DEPENDENCY_MISSING" && error.contains("is no wheel, and nothing else is taken"), "{error}");
}
