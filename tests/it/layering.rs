//! Holds the direction of dependencies: one crate has no compiler fence, so this is it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the outside inwards: a module may use only what stands in a later row. Modules in one row do not use each other.
const ROWS: &[&[&str]] = &[
    &["simulation"],
    &["cli"],
    &["node"],
    &["client", "web"],
    &["api"],
    &["rpc"],
    &["control", "agent", "build", "network"],
    &["cluster", "backup"],
    &["consensus"],
    &["auth"],
    &["store"],
    &["engine", "artifact", "logs"],
    &["decide"],
    &["state"],
    &["model"],
];
/// Small leaves that every module but the pure ones may use.
const LEAVES: &[&str] = &["clock", "config", "handover", "host", "planted", "random", "space", "task", "telemetry"];
const PURE: &[&str] = &["model", "state", "decide"];
/// Vendor crate to the modules that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("openraft", &["consensus", "store"]),
    // The simulator stands in for the disk under redb, and for rpc.
    ("redb", &["store", "simulation"]),
    ("bollard", &["engine"]),
    ("tonic", &["rpc"]),
    // Raft's messages are made where openraft lives; everything else of the protocol is rpc's.
    ("narvana_proto", &["consensus", "rpc", "simulation"]),
    ("prost", &["rpc"]),
    ("axum", &["api", "web"]),
    ("clap", &["cli", "config", "main"]),
];
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::now",
    "rand::",
    "async fn",
    "Uuid::now_v7",
    "Uuid::new_v4",
    "HashMap",
    "HashSet",
];

pub(crate) fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module_of(path: &Path, root: &Path) -> String {
    let inner = path.strip_prefix(root).expect("below the root");
    let first = inner.components().next().expect("a component").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The code of a file without comments; test code stays, since the rules hold there too.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn used_modules(line: &str) -> Vec<String> {
    let mut used = Vec::new();
    for prefix in ["crate::", "narvana::"] {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 0;
                let mut name = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => used.push(std::mem::take(&mut name)),
                        c if depth == 0 => name.push(c),
                        _ => {}
                    }
                }
                used.push(name);
            } else {
                used.push(rest.to_owned());
            }
        }
    }
    used.iter()
        .map(|name| name.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn modules_use_only_what_stands_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the walk found the source");
    let mut wrong = BTreeSet::new();
    for file in &files {
        let module = module_of(file, &root);
        let text = fs::read_to_string(file).expect("a source file");
        let shown = file.strip_prefix(&root).expect("below the root").display().to_string();
        for (number, line) in code_lines(&text) {
            let at = format!("src/{shown}:{}", number + 1);
            for used in used_modules(line) {
                check_use(&module, &used, &at, &mut wrong);
            }
            for (vendor, homes) in HOMES {
                let named = line.contains(&format!("{vendor}::")) || line.contains(&format!("use {vendor}"));
                let path_end = line.contains(&format!("::{vendor}::"));
                if named && !path_end && !homes.contains(&module.as_str()) {
                    wrong.insert(format!("{at}: {vendor} is used outside its home ({})", homes.join(", ")));
                }
            }
            if PURE.contains(&module.as_str()) {
                for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                    wrong.insert(format!("{at}: {module} is pure, yet has {word}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

fn check_use(module: &str, used: &str, at: &str, wrong: &mut BTreeSet<String>) {
    if used == module || module == "lib" || module == "main" {
        return;
    }
    if LEAVES.contains(&used) {
        if PURE.contains(&module) {
            wrong.insert(format!("{at}: {module} is pure, yet uses {used}"));
        }
        return;
    }
    // A leaf may use the model, and nothing else.
    let Some(to) = row_of(used) else { return };
    let allowed = if LEAVES.contains(&module) { used == "model" } else { row_of(module).is_some_and(|from| from < to) };
    if !allowed {
        wrong.insert(format!("{at}: {module} may not use {used}"));
    }
}

#[test]
fn tests_wait_for_conditions_not_for_time() {
    // A sleep inside a loop that checks a condition against a deadline is fine and is marked so.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("tests"), &mut files);
    for file in files.iter().filter(|file| !file.ends_with("layering.rs")) {
        let text = fs::read_to_string(file).expect("a test file");
        for (number, line) in code_lines(&text).filter(|(_, line)| line.contains("sleep(")) {
            assert!(
                line.contains("// poll"),
                "{}:{}: wait for a condition with a deadline, not for a time",
                file.display(),
                number + 1
            );
        }
    }
}
