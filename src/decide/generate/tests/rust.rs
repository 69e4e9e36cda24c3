//! Rust: packages, workspaces, and their lock file.

use serde_json::{Value, json};

use super::super::*;
use super::{made, plan_of, toolchain};

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
