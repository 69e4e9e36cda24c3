//! Go: a module with its own dependencies, or with none.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::names::{beginning, store_name};
use super::{Asked, At, Dependency, Hash, Recipe, Unplanned, Wanted, plan};
use crate::decide::detect::files::{Files, is_foreign, join};
use crate::decide::detect::go::{HEAD_BYTES, MANIFEST, Manifest, SOURCES_MAX, WORKSPACE, inside, is_source};
use crate::model::quoted;

/// What says that the modules lie in the source.
const VENDORED: &str = "vendor/modules.txt";
const SUMS: &str = "go.sum";
const WORKSPACE_SUMS: &str = "go.work.sum";

pub(super) fn recipe(files: &Files<'_>, asked: &Asked<'_>) -> Result<Recipe, Unplanned> {
    let detection = asked.detection;
    let needs_c = detection.suggested.get("cgo_enabled") == Some(&json!(true));
    let with_c = asked.config.text("cgo_enabled").map_or(needs_c, |said| said == "true");
    let Some(package) = asked.text("entry_point") else {
        return Err(Unplanned::new(
            "no package main was found in the root, cmd/*, apps/* and services/*",
            "say where it is: --build entry_point=FOLDER (build_config.entry_point)",
        ));
    };
    let dependencies = if files.has(VENDORED) { Vec::new() } else { sums(files)? };
    let found = detection.toolchain.as_deref().or(detection.version.as_deref());
    let said = asked.config.text("go_version");
    let minor = said.or(found).and_then(|version| beginning(version, 2)).map(|parts| format!("go_{}", parts.join("_")));
    let mut plan = plan(asked, minor.into_iter().chain(["go".to_owned()]).collect());
    let workspace = if files.has(WORKSPACE) { "" } else { "off" };
    let details = [
        ("package", json!(package)),
        ("imports", json!(imports(files)?)),
        ("tags", json!(asked.config.list("build_tags").join(","))),
        ("ldflags", json!(asked.config.text("ldflags").unwrap_or_default())),
        ("cgo", json!(with_c)),
        ("module", json!(asked.config.text("workspace_module").unwrap_or("."))),
        ("workspace", json!(workspace)),
    ];
    plan.details.extend(details.map(|(name, value)| (name.to_owned(), value)));
    // What a module names is the oldest that will do.
    let wanted = said.map(|it| Wanted::Like(it.to_owned())).or_else(|| Some(Wanted::AtLeast(found?.to_owned())));
    Ok(Recipe {
        flake: include_str!("go.nix"),
        plan,
        dependencies,
        lookup: None,
        notes: Vec::new(),
        wanted,
        language: "Go",
        port: detection.port,
    })
}

fn read<'a>(files: &Files<'a>, path: &str) -> Result<&'a str, Unplanned> {
    let read = files.lock(path).map_err(|broken| Unplanned::new(broken.message, format!("correct {path}")))?;
    Ok(read.unwrap_or_default())
}

/// What the files of the module import of others, as far as it is fetched.
fn imports(files: &Files<'_>) -> Result<Vec<String>, Unplanned> {
    let own = Manifest::read(read(files, MANIFEST)?).module.unwrap_or_default();
    let is_fetched = !files.has(VENDORED) && !files.has(WORKSPACE);
    let is_own = |path: &str| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_wanted = |path: &&str| {
        let is_standard = !path.split('/').next().unwrap_or_default().contains('.');
        *path != "C" && is_plain(path) && !is_own(path) && (is_standard || is_fetched)
    };
    let sources = files.below("").filter(|path| is_source(path) && !is_foreign(path)).take(SOURCES_MAX);
    // All are asked for before any is read, so that the caller reads them in one go.
    let heads: Vec<&str> = sources.filter_map(|path| files.head(path, HEAD_BYTES)).collect();
    let found: BTreeSet<&str> = heads.into_iter().flat_map(imported).filter(is_wanted).collect();
    Ok(found.into_iter().map(str::to_owned).collect())
}

/// What a file imports: in lines of their own, or in one bracket.
fn imported(head: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_open = false;
    for line in head.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("import") {
            is_open = rest.trim_start().starts_with('(');
        } else if !is_open {
            continue;
        }
        if let Some(path) = line.split('"').nth(1) {
            found.push(path);
        }
        if line.starts_with(')') {
            is_open = false;
        }
    }
    found
}

/// Everything that the module needs, and each module of its workspace: with what its archive, or its `go.mod`, must hash to.
fn sums(files: &Files<'_>) -> Result<Vec<Dependency>, Unplanned> {
    let workspace = Manifest::read(read(files, WORKSPACE)?);
    let members = workspace.uses.iter().filter_map(|path| inside(path)).map(|folder| join(&folder, SUMS));
    let mut found = BTreeMap::new();
    for name in [SUMS, WORKSPACE_SUMS].map(str::to_owned).into_iter().chain(members) {
        for line in read(files, &name)?.lines().filter(|line| !line.trim().is_empty()) {
            let dependency = sum(line).ok_or_else(|| {
                let message = format!("{name} has a line that is none: {}", quoted(line));
                Unplanned::new(message, "run `go mod tidy` and commit it")
            })?;
            found.insert(dependency.place.clone(), dependency);
        }
    }
    Ok(found.into_values().collect())
}

/// `module version[/go.mod] h1:…`, as where a module proxy has it.
fn sum(line: &str) -> Option<Dependency> {
    let mut words = line.split_whitespace();
    let (module, version, sum, None) = (words.next()?, words.next()?, words.next()?, words.next()) else { return None };
    let (version, file) = match version.strip_suffix("/go.mod") {
        Some(version) => (version, "mod"),
        None => (version, "zip"),
    };
    let is_version = version.starts_with('v') && !version.contains('/');
    let place = format!("{}/@v/{}.{file}", escaped(module), escaped(version));
    (is_plain(module) && is_plain(version) && is_version && sum.starts_with("h1:")).then(|| Dependency {
        name: store_name(&place),
        at: At::Registry(place.clone()),
        hash: Hash::Sum(sum.to_owned()),
        place,
    })
}

/// A path or a version whose letters mean nothing to anybody else.
fn is_plain(text: &str) -> bool {
    text.split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '-']))
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/+".contains(&byte))
}

/// Capitals as module proxies have them, since some disks know none.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_uppercase() {
            out.push('!');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_read_in_every_way_to_write_them() {
        let head = "package main\n\nimport \"os\"\nimport (\n\t\"fmt\"\n\tx \"a.org/b\" // why\n\t_ \"a.org/c\"\n)\n\nvar s = \"no\"\n";
        assert_eq!(imported(head), ["os", "fmt", "a.org/b", "a.org/c"]);
        assert_eq!(imported("package a\nfunc f() { g(\"x\") }\n"), Vec::<&str>::new());
    }

    #[test]
    fn a_line_says_where_a_proxy_has_it() {
        let place = |line: &str| sum(line).map(|it| it.place);
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(
            place("github.com/BurntSushi/toml v1.2.0 h1:Rt8g="),
            at("github.com/!burnt!sushi/toml/@v/v1.2.0.zip")
        );
        assert_eq!(
            place("golang.org/x/net v0.0.0-2020-abc/go.mod h1:x="),
            at("golang.org/x/net/@v/v0.0.0-2020-abc.mod")
        );
        assert_eq!(
            place("gopkg.in/yaml.v3 v3.0.1+incompatible h1:x="),
            at("gopkg.in/yaml.v3/@v/v3.0.1+incompatible.zip")
        );
        for bad in [
            "github.com/a/b v1.0.0",
            "github.com/a/b v1.0.0 sha256:x",
            "../x v1.0.0 h1:x",
            "github.com//b v1.0.0 h1:x",
            "github.com/a/.. v1.0.0 h1:x",
            "github.com/a/b v1/../2 h1:x",
            "github.com/a/b 1.0.0 h1:x",
            "github.com/a?b v1.0.0 h1:x",
            "github.com/a/b v1.0.0 h1:x more",
        ] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
