//! Rust: a package or a workspace, and the lock file beside it.

use std::collections::{BTreeMap, BTreeSet};

use semver::{Version, VersionReq};
use serde::Deserialize;
use serde_json::json;
use toml::Value;

use super::names::{beginning, is_plain_path};
use super::{Asked, At, Dependency, Hash, Recipe, Unplanned, Wanted, plan};
use crate::decide::detect::files::{Files, inside, is_foreign, join};
use crate::decide::detect::rust::{MANIFEST, TOOLCHAINS};
use crate::model::{BuildCode, quoted};

const LOCK: &str = "Cargo.lock";
const ANEW: &str = "run `cargo update --workspace`, commit Cargo.lock, and deploy again";
/// Settings of cargo that decide how everything is compiled.
const SETTINGS: [&str; 2] = [".cargo/config.toml", ".cargo/config"];
/// The registry that cargo means when nobody names one, as lock files name it.
const USUAL_REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// More than the largest workspaces have.
const MANIFESTS_MAX: usize = 1_000;

pub(super) fn recipe(files: &Files<'_>, asked: &Asked<'_>) -> Result<Recipe, Unplanned> {
    let Some(binary) = asked.text("entry_point") else {
        return Err(Unplanned::new(
            "no binary was found: no src/main.rs, src/bin or [[bin]]",
            "add one, or say which it is: --build entry_point=NAME (build_config.entry_point)",
        ));
    };
    let locked = locked(files)?;
    let dependencies = crates(&locked)?;
    let mut manifests: Vec<&str> = files.below("").filter(|path| is_manifest(path)).collect();
    if manifests.len() > MANIFESTS_MAX {
        let message = format!("it has {} files {MANIFEST}, and {MANIFESTS_MAX} are read", manifests.len());
        return Err(Unplanned::new(message, "build a smaller folder (--root), or add a Dockerfile"));
    }
    let packages = packages(files, &manifests, &locked)?;
    settled(&packages, &locked)?;
    manifests.retain(|path| *path == MANIFEST || packages.iter().any(|package| package.manifest() == *path));
    let targets: BTreeSet<String> = packages.iter().flat_map(|package| package.targets(files)).collect();
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let scope = scope(asked, binary, &packages, &locked);
    let notes = notes(files);
    manifests.extend(SETTINGS.into_iter().filter(|path| files.has(path)));
    let odd = manifests.iter().copied().chain(targets.iter().map(String::as_str)).chain(names.iter().copied());
    if let Some(odd) = odd.into_iter().find(|path| !is_plain_path(path)) {
        let message = format!("{} has letters that builds by Nix do not take", quoted(odd));
        return Err(Unplanned::new(message, "rename it, and deploy again"));
    }
    let wanted = wanted(files, asked);
    let minor = match &wanted {
        Some(Wanted::AtLeast(version) | Wanted::Like(version)) => beginning(version, 2),
        _ => None,
    };
    let minor = minor.map(|parts| format!("rustPackages_{}", parts.join("_")));
    let mut plan = plan(asked, minor.into_iter().chain(["rustPackages".to_owned()]).collect());
    let details = [
        ("binary", json!(binary)),
        ("scope", json!(scope)),
        ("apart", json!(!needs_own(&locked) && is_whole(&locked, &names))),
        ("packages", json!(names)),
        ("manifests", json!(manifests)),
        ("targets", json!(targets)),
    ];
    plan.details.extend(details.map(|(name, value)| (name.to_owned(), value)));
    Ok(Recipe {
        flake: include_str!("rust.nix"),
        plan,
        dependencies,
        lookup: None,
        notes,
        wanted,
        language: "Rust",
        port: asked.detection.port,
    })
}

fn is_manifest(path: &str) -> bool {
    (path == MANIFEST || path.ends_with("/Cargo.toml")) && !is_foreign(path)
}

/// A file of its own says exactly which, a manifest the oldest that will do.
fn wanted(files: &Files<'_>, asked: &Asked<'_>) -> Option<Wanted> {
    let version = asked.detection.toolchain.clone().filter(|channel| channel != "stable")?;
    let is_exact = TOOLCHAINS.iter().any(|path| files.has(path));
    Some(if is_exact { Wanted::Like(version) } else { Wanted::AtLeast(version) })
}

/// Of which package the binary is, since others may need what it must not have; of all when nobody knows.
fn scope(asked: &Asked<'_>, binary: &str, packages: &[Package], locked: &[Locked]) -> String {
    let folder = asked.detection.entry_points.iter().find(|it| it.name == binary).map(|it| it.path.as_str());
    let folder = folder.map(|folder| if folder == "." { "" } else { folder });
    let package = packages.iter().find(|package| Some(package.folder.as_str()) == folder);
    let own = |package: &Package| locked.iter().find(|it| it.source.is_none() && it.name == package.name);
    // A crate of the registry may have the same name.
    let own = package.and_then(own).filter(|it| is_plain_path(&it.version));
    own.map_or_else(|| "--workspace".to_owned(), |it| format!("--package={}@{}", it.name, it.version))
}

/// Whether a crate of the registry needs one of the source, which takes the place of another (`[patch]`).
fn needs_own(locked: &[Locked]) -> bool {
    let own: BTreeSet<&str> = locked.iter().filter(|it| it.source.is_none()).map(|it| it.name.as_str()).collect();
    let fetched = locked.iter().filter(|it| it.source.is_some()).flat_map(|it| &it.dependencies);
    // With its version where there are several.
    fetched.filter_map(|it| it.split(' ').next()).any(|name| own.contains(name))
}

/// Whether the manifests of all packages of the source are known. Those in folders that hold what others wrote are not looked for.
fn is_whole(locked: &[Locked], names: &BTreeSet<&str>) -> bool {
    locked.iter().filter(|it| it.source.is_none()).all(|it| names.contains(it.name.as_str()))
}

/// What settings may ask for that is not there.
fn notes(files: &Files<'_>) -> Vec<String> {
    let says = |path: &&str| files.text(path).is_some_and(|text| text.contains("link-arg"));
    let note = |path: &str| {
        format!(
            "{path} has link-arg: a linker that it names is not here, and RUSTFLAGS in build_config.environment_vars takes its place"
        )
    };
    SETTINGS.into_iter().filter(says).map(note).collect()
}

/// A package of the source.
struct Package {
    folder: String,
    name: String,
    /// Files that its manifest makes programs or libraries of, relative to its folder.
    named: Vec<String>,
    /// What it needs of a registry: name and range of versions.
    needs: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Manifest {
    package: Option<Named>,
    lib: Option<Target>,
    #[serde(default)]
    bin: Vec<Target>,
    #[serde(default)]
    example: Vec<Target>,
    #[serde(default)]
    test: Vec<Target>,
    #[serde(default)]
    bench: Vec<Target>,
    workspace: Option<Needs>,
    #[serde(flatten)]
    needs: Needs,
    #[serde(default)]
    target: BTreeMap<String, Needs>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Needs {
    dependencies: BTreeMap<String, Value>,
    dev_dependencies: BTreeMap<String, Value>,
    build_dependencies: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    /// A path, or whether there is one.
    build: Option<Value>,
}

#[derive(Deserialize)]
struct Target {
    path: Option<String>,
}

/// The packages of the source that are in its lock file: others have one of their own, or are there to be looked at.
fn packages(files: &Files<'_>, manifests: &[&str], locked: &[Locked]) -> Result<Vec<Package>, Unplanned> {
    // All are asked for before any is read, so that the caller reads them in one go.
    let texts: Vec<_> = manifests.iter().map(|path| (*path, files.manifest(path))).collect();
    let mut found = Vec::new();
    let mut shared = BTreeMap::new();
    for (path, text) in texts {
        let broken = |message| Unplanned::new(message, format!("correct {}", quoted(path)));
        let text = match text {
            Ok(Some(text)) => text,
            Err(why) if path == MANIFEST => return Err(broken(why.message)),
            Ok(None) | Err(_) => continue,
        };
        let manifest: Manifest = match toml::from_str(text) {
            Ok(manifest) => manifest,
            Err(error) if path == MANIFEST => {
                return Err(broken(format!("{} cannot be read: {}", quoted(path), quoted(error.message()))));
            }
            Err(_) => continue,
        };
        // That of the root comes first.
        if path == MANIFEST {
            shared = manifest.workspace.map(|workspace| workspace.dependencies).unwrap_or_default();
        }
        let Some(package) = manifest.package else { continue };
        if !locked.iter().any(|it| it.name == package.name && it.source.is_none()) {
            continue;
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let needs = [manifest.needs].into_iter().chain(manifest.target.into_values());
        // Of a package that is no member of a workspace, cargo locks no more than what is compiled.
        let is_root = path == MANIFEST;
        let is_locked = |need: &Value| is_root || need.get("optional").and_then(Value::as_bool) != Some(true);
        let needs = needs.flat_map(|it| {
            let of_tests = if is_root { it.dev_dependencies } else { BTreeMap::new() };
            [it.dependencies, it.build_dependencies, of_tests]
        });
        let needs: Vec<(String, Value)> = needs.flatten().filter(|(_, need)| is_locked(need)).collect();
        let outside = needs.iter().find(|(_, need)| {
            let path = need.get("path").and_then(Value::as_str);
            path.is_some_and(|path| inside(&join(&folder, path)).is_none())
        });
        if let Some((name, _)) = outside {
            let message =
                format!("{} needs {}, which is outside of the folder that is built", quoted(path), quoted(name));
            let next_step = "build the folder that holds both (--root), and name the binary with entry_point";
            return Err(Unplanned::new(message, next_step));
        }
        let needs = needs.iter().filter_map(|(name, need)| of_registry(name, need, &shared)).collect();
        let build = package.build.and_then(|build| build.as_str().map(str::to_owned));
        let targets = [manifest.bin, manifest.example, manifest.test, manifest.bench].into_iter().flatten();
        let targets = targets.chain(manifest.lib).filter_map(|target| target.path);
        found.push(Package { folder, name: package.name, named: targets.chain(build).collect(), needs });
    }
    Ok(found)
}

/// The name and the versions of something that is needed of a registry.
fn of_registry(name: &str, need: &Value, shared: &BTreeMap<String, Value>) -> Option<(String, String)> {
    let need = if need.get("workspace").is_some() { shared.get(name)? } else { need };
    if need.get("path").is_some() || need.get("git").is_some() {
        return None;
    }
    let name = need.get("package").and_then(Value::as_str).unwrap_or(name);
    let version = need.as_str().or_else(|| need.get("version")?.as_str())?;
    Some((name.to_owned(), version.to_owned()))
}

/// Refuses a lock file that is not of the manifests, before cargo does in words that are about something else.
fn settled(packages: &[Package], locked: &[Locked]) -> Result<(), Unplanned> {
    for (name, range) in packages.iter().flat_map(|package| &package.needs) {
        // What cannot be read here may be read by cargo.
        let Ok(wanted) = VersionReq::parse(range) else { continue };
        let fits = |it: &Locked| it.name == *name && Version::parse(&it.version).is_ok_and(|it| wanted.matches(&it));
        if !locked.iter().any(fits) {
            let message =
                format!("{LOCK} is not of this {MANIFEST}: it has no {} of version {}", quoted(name), quoted(range));
            return Err(Unplanned::new(message, ANEW));
        }
    }
    Ok(())
}

impl Package {
    fn manifest(&self) -> String {
        join(&self.folder, MANIFEST)
    }

    /// The files that cargo compiles first: without them it does not know what the package is.
    fn targets(&self, files: &Files<'_>) -> Vec<String> {
        let usual = ["src/main.rs", "src/lib.rs", "build.rs"].map(|path| join(&self.folder, path));
        let mut found: Vec<String> = usual.into_iter().filter(|path| files.has(path)).collect();
        for folder in ["src/bin", "examples", "tests", "benches"] {
            let folder = join(&self.folder, folder);
            let is_first = |path: &&str| match path[folder.len() + 1..].split_once('/') {
                None => path.ends_with(".rs"),
                Some((_, rest)) => rest == "main.rs",
            };
            found.extend(files.below(&folder).filter(is_first).map(str::to_owned));
        }
        found.extend(self.named.iter().filter_map(|path| inside(&join(&self.folder, path))));
        found
    }
}

/// A package in the lock file. Those of the source itself have no source.
#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

fn locked(files: &Files<'_>) -> Result<Vec<Locked>, Unplanned> {
    #[derive(Deserialize)]
    struct Lock {
        #[serde(default)]
        package: Vec<Locked>,
        /// Where checksums were in the first version.
        #[serde(default)]
        metadata: BTreeMap<String, Value>,
    }
    if !files.has(LOCK) {
        let message = "there is no Cargo.lock, and nothing is built with that is not locked";
        let next_step = "run `cargo generate-lockfile` and commit Cargo.lock; of a workspace, build the folder that has it (--root)";
        return Err(Unplanned::of(BuildCode::DependencyMissing, message, next_step));
    }
    let text = files.lock(LOCK).map_err(|why| Unplanned::new(why.message, ANEW))?.unwrap_or_default();
    let Lock { mut package, metadata } = toml::from_str(text)
        .map_err(|error| Unplanned::new(format!("{LOCK} cannot be read: {}", quoted(error.message())), ANEW))?;
    for Locked { name, version, source, checksum, .. } in &mut package {
        if let (None, Some(source)) = (&checksum, source) {
            let key = format!("checksum {name} {version} ({source})");
            *checksum = metadata.get(&key).and_then(Value::as_str).map(str::to_owned);
        }
    }
    if let Some(openssl) = package.iter().find(|it| it.name == "openssl-sys") {
        let message = format!(
            "it needs OpenSSL ({} {}), which a generated flake does not have yet",
            openssl.name, openssl.version
        );
        let next_step = "use rustls instead (most libraries have a feature for it), or add a Dockerfile or a flake.nix";
        return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
    }
    Ok(package)
}

/// Everything that the lock file names of the registry, each with its hash.
fn crates(locked: &[Locked]) -> Result<Vec<Dependency>, Unplanned> {
    let mut found = Vec::new();
    for Locked { name, version, source, checksum, .. } in locked {
        let Some(source) = source else { continue };
        let place = format!("{name} {version}");
        if source != USUAL_REGISTRY {
            let message = format!("{LOCK} has {} from {}", quoted(&place), quoted(source));
            let next_step = "a generated flake takes crates of the usual registry only so far: use one of those, or add a Dockerfile or a flake.nix";
            return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
        }
        let is_sum = |sum: &&String| sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_plain = |text: &str| is_plain_path(text) && !text.contains('/');
        match checksum.as_ref().filter(is_sum) {
            Some(checksum) if is_plain(name) && is_plain(version) => found.push(Dependency {
                // As nixpkgs calls what it fetches.
                name: format!("crate-{name}-{version}.tar.gz"),
                at: At::Nixpkgs,
                hash: Hash::Known(checksum.clone()),
                place,
            }),
            _ => return Err(Unplanned::new(format!("{LOCK} has no checksum of {}", quoted(&place)), ANEW)),
        }
    }
    Ok(found)
}
