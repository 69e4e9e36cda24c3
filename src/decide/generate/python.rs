//! Python with uv, Poetry or pip: what is needed, at which versions, and what runs.
//!
//! Which wheels fit is a matter of the Python that runs them: so pip is asked ([`Lookup`]), which is told of requirements and of what a lock
//! file settles, and takes wheels only. To learn what a source distribution needs its own program would have to run.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use toml::{Table, Value};

use super::names::{inside, is_plain_path};
use super::{Asked, At, Dependency, Hash, Recipe, Unplanned, Wanted, plan};
use crate::decide::detect::Framework;
use crate::decide::detect::files::{Files, join};
use crate::decide::detect::python::{PROJECT, REQUIREMENTS, entry, is_module, normalized, wanted_version};
use crate::model::{BuildCode, quoted};

/// Most of one requirement that is looked at.
const REQUIREMENT_BYTES_MAX: usize = 16 * 1024;
/// Files of requirements that name each other.
const FILES_MAX: usize = 20;
/// No Python 3 before it is in any nixpkgs that is used.
const OLDEST_MINOR: u64 = 8;
/// Names in nixpkgs that are looked for.
const NAMES_MAX: usize = 8;

/// What pip is asked before a source is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// What is needed, a line each.
    pub requirements: Vec<String>,
    /// What versions may be, a line each.
    pub constraints: Vec<String>,
    /// The file that says which wheels are the right ones, and their hashes by name and version.
    locked: Option<(&'static str, Locked)>,
    /// What can run it, the best first.
    starts: Vec<Start>,
}

/// Hashes of all that a lock file names, in hexadecimal, by normalized name and version.
type Locked = BTreeMap<(String, String), BTreeSet<String>>;

/// A way to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    /// The package without which it is none; empty for Python itself.
    needs: &'static str,
    command: String,
    /// What is wrong with it.
    note: Option<&'static str>,
}

pub(super) fn recipe(files: &Files<'_>, asked: &Asked<'_>) -> Result<Recipe, Unplanned> {
    let text = files.manifest(PROJECT).map_err(|why| Unplanned::new(why.message, format!("correct {PROJECT}")))?;
    // Whoever detected it has parsed it.
    let project: Table = text.unwrap_or_default().parse().unwrap_or_default();
    let manager = asked.text("package_manager").unwrap_or("pip");
    let mut lookup = match manager {
        "uv" => of_lock(files, &UV, &project)?,
        "poetry" => of_lock(files, &POETRY, &project)?,
        _ => of_requirements(files, &project)?,
    };
    lookup.starts = starts(files, asked)?;
    let said = asked.config.text("python_version");
    let (toolchains, wanted) =
        toolchains(said.map(str::to_owned).or_else(|| wanted_version(files, &project)).as_deref());
    let mut plan = plan(asked, toolchains);
    let build = asked.config.text("build_command").unwrap_or_default();
    plan.details.insert("build".to_owned(), json!(build));
    Ok(Recipe {
        flake: include_str!("python.nix"),
        plan,
        dependencies: Vec::new(),
        lookup: Some(lookup),
        notes: Vec::new(),
        wanted,
        language: "Python",
        port: asked.detection.port,
    })
}

/// Names of Pythons in nixpkgs for a version, or a range of them, that is asked for.
fn toolchains(version: Option<&str>) -> (Vec<String>, Option<Wanted>) {
    let usual = "python3".to_owned();
    let Some(version) = version else { return (vec![usual], None) };
    let minor = |text: &str| text.trim().strip_prefix("3.")?.split('.').next()?.parse::<u64>().ok();
    let mut lowest = None;
    let mut limit = None;
    for part in version.split(',').map(str::trim) {
        let number = part.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        match part[..part.len() - number.len()].trim() {
            "" | "==" | "===" => {
                let number = number.trim_end_matches(".*");
                let names = minor(number).map(|minor| format!("python3{minor}"));
                return (names.into_iter().chain([usual]).collect(), Some(Wanted::Like(number.to_owned())));
            }
            ">=" | "^" | "~=" | "~" | ">" => lowest = Some(number),
            "<" => limit = minor(number),
            "<=" => limit = minor(number).map(|minor| minor + 1),
            _ => {}
        }
    }
    let oldest = lowest.and_then(minor).unwrap_or(OLDEST_MINOR);
    // The newest that will do; without an upper limit the usual one is that.
    let names = limit.into_iter().flat_map(|limit| (oldest..limit).rev()).take(NAMES_MAX);
    let names = names.map(|minor| format!("python3{minor}")).chain([usual]).collect();
    let wanted = match (lowest, limit) {
        (lowest, Some(limit)) => {
            let oldest = lowest.map_or_else(|| format!("3.{OLDEST_MINOR}"), str::to_owned);
            Some(Wanted::Between(oldest, format!("3.{limit}")))
        }
        (Some(lowest), None) => Some(Wanted::AtLeast(lowest.to_owned())),
        (None, None) => None,
    };
    (names, wanted)
}

/// What runs it: as the service says, else as its framework is usually run.
fn starts(files: &Files<'_>, asked: &Asked<'_>) -> Result<Vec<Start>, Unplanned> {
    let plainly = |command: String| vec![Start { needs: "", command, note: None }];
    if let Some(said) = asked.config.text("start_command") {
        return Ok(plainly(said.to_owned()));
    }
    if let Some(said) = asked.config.text("entry_point") {
        return program(said).map(plainly).ok_or_else(|| {
            let message = format!("build_config.entry_point is {}, which names no program", quoted(said));
            Unplanned::new(message, "name a file (app/main.py) or a function (app.main:run)")
        });
    }
    let option = |group: &str, name: &str| asked.detection.suggested.get(group)?.get(name)?.as_str();
    let usual = "the server of the framework is used, which is made for development: add gunicorn to what it needs";
    let found = match asked.detection.framework {
        Framework::Django => option("django_options", "settings_module").map(|settings| {
            let package = settings.rsplit_once('.').map_or(settings, |(package, _)| package);
            let served = format!("{package}.wsgi");
            let own = "python ./manage.py runserver --noreload \"0.0.0.0:${PORT:-8000}\"".to_owned();
            let of_gunicorn = Start { needs: "gunicorn", command: format!("gunicorn {served}"), note: None };
            let is_there = |path: &str| files.has(path).then_some(());
            let served = is_there(&format!("{}.py", served.replace('.', "/"))).map(|()| of_gunicorn);
            let own = is_there("manage.py").map(|()| Start { needs: "django", command: own, note: Some(usual) });
            served.into_iter().chain(own).collect()
        }),
        Framework::Fastapi => option("fastapi_options", "app_module").map(|module| {
            let command = format!("uvicorn {module} --host 0.0.0.0 --port \"${{PORT:-8000}}\"");
            vec![Start { needs: "uvicorn", command, note: None }]
        }),
        Framework::Flask => asked.detection.suggested.get("start_command").and_then(|it| it.as_str()).map(|command| {
            let module = command.trim_start_matches("gunicorn ");
            let own = format!("flask --app {module} run --host 0.0.0.0 --port \"${{PORT:-5000}}\"");
            vec![
                Start { needs: "gunicorn", command: command.to_owned(), note: None },
                Start { needs: "flask", command: own, note: Some(usual) },
            ]
        }),
        _ => None,
    };
    let program = || asked.text("entry_point").and_then(program).map(plainly);
    found.filter(|found: &Vec<Start>| !found.is_empty()).or_else(program).ok_or_else(|| {
        Unplanned::new(
            "nothing says what to run: there is no main.py, app.py or script",
            "say it: --build start_command=… (build_config.start_command)",
        )
    })
}

/// How a file, or a function of a module, is run.
fn program(entry_point: &str) -> Option<String> {
    if let Some((module, function)) = entry_point.split_once(':') {
        let is_one = is_module(module) && is_module(function) && !function.contains('.');
        return is_one
            .then(|| format!("python -c 'import sys; from {module} import {function}; sys.exit({function}())'"));
    }
    (is_plain_path(entry_point) && entry_point.ends_with(".py")).then(|| format!("python ./{entry_point}"))
}

/// How a package manager names things.
struct Manager {
    lock: &'static str,
    /// Makes the lock file anew.
    command: &'static str,
}

const UV: Manager = Manager { lock: "uv.lock", command: "run `uv lock`, commit uv.lock, and deploy again" };
const POETRY: Manager =
    Manager { lock: "poetry.lock", command: "run `poetry lock`, commit poetry.lock, and deploy again" };

/// What the manifest needs, at the versions that the lock file has.
fn of_lock(files: &Files<'_>, manager: &Manager, project: &Table) -> Result<Lookup, Unplanned> {
    let Manager { lock, command } = manager;
    if !files.has(lock) {
        let message = format!("there is no {lock}, and nothing is installed that is not locked");
        return Err(Unplanned::of(BuildCode::DependencyMissing, message, *command));
    }
    let text = files.lock(lock).map_err(|why| Unplanned::new(why.message, *command))?.unwrap_or_default();
    let locked = locked(lock, text, command)?;
    let versions = locked.keys().fold(BTreeMap::<&str, Vec<&str>>::new(), |mut all, (name, version)| {
        all.entry(name).or_default().push(version);
        all
    });
    // Which of several is the right one depends on where it runs: pip chooses, and what it chooses has to be one of them.
    let constraints = versions.iter().filter_map(|(name, versions)| match versions.as_slice() {
        [only] => Some(format!("{name}=={only}")),
        _ => None,
    });
    let constraints = constraints.collect();
    let mut requirements = Vec::new();
    for line in listed(project) {
        requirements.push(requirement(PROJECT, &line)?);
    }
    for line in of_poetry(project) {
        requirements.push(requirement(PROJECT, &line)?);
    }
    Ok(Lookup { requirements, constraints, locked: Some((lock, locked)), starts: Vec::new() })
}

/// What a lock file names, but for the source itself.
fn locked(lock: &str, text: &str, anew: &str) -> Result<Locked, Unplanned> {
    #[derive(Deserialize)]
    struct Lock {
        #[serde(default)]
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: Option<String>,
        #[serde(default)]
        source: BTreeMap<String, Value>,
        #[serde(default)]
        wheels: Vec<File>,
        #[serde(default)]
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    struct File {
        hash: Option<String>,
    }
    let read: Lock = toml::from_str(text)
        .map_err(|error| Unplanned::new(format!("{lock} cannot be read: {}", quoted(error.message())), anew))?;
    let mut found = Locked::new();
    for Package { name, version, source, wheels, files } in read.package {
        let own = ["virtual", "editable"].iter().any(|kind| source.get(*kind).and_then(Value::as_str) == Some("."));
        if own {
            continue;
        }
        if !source.is_empty() && !source.contains_key("registry") {
            let kinds: Vec<&str> = match source.get("type").and_then(Value::as_str) {
                Some(kind) => vec![kind],
                None => source.keys().map(String::as_str).collect(),
            };
            let message = format!(
                "{lock} has {}, which is not from the usual index ({})",
                quoted(&name),
                quoted(&kinds.join(", "))
            );
            let next_step = "a generated flake takes wheels of that index only so far: use one of those, or add a Dockerfile or a flake.nix";
            return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
        }
        let version = version
            .filter(|version| is_version(version) && is_name(&name))
            .ok_or_else(|| Unplanned::new(format!("{lock} has no version of {}", quoted(&name)), anew))?;
        let hashes = wheels.into_iter().chain(files).filter_map(|file| file.hash);
        let hashes = hashes.filter_map(|hash| hash.strip_prefix("sha256:").map(str::to_ascii_lowercase)).collect();
        found.insert((normalized(&name), version), hashes);
    }
    Ok(found)
}

/// `project.dependencies` of the manifest.
fn listed(project: &Table) -> Vec<String> {
    let listed = entry(project, &["project", "dependencies"]).and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `tool.poetry.dependencies` of the manifest, without versions: the lock file has those.
fn of_poetry(project: &Table) -> Vec<String> {
    let all = entry(project, &["tool", "poetry", "dependencies"]).and_then(Value::as_table).into_iter().flatten();
    let needed =
        all.filter(|(name, about)| *name != "python" && about.get("optional").and_then(Value::as_bool) != Some(true));
    let line = |(name, about): (&String, &Value)| {
        let extras = about.get("extras").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let extras: Vec<&str> = extras.collect();
        let extras = if extras.is_empty() { String::new() } else { format!("[{}]", extras.join(",")) };
        let markers = about.get("markers").and_then(Value::as_str).map(|it| format!(" ; {it}")).unwrap_or_default();
        format!("{name}{extras}{markers}")
    };
    needed.map(line).collect()
}

/// What `requirements.txt` says, with the files that it names, or else the manifest.
fn of_requirements(files: &Files<'_>, project: &Table) -> Result<Lookup, Unplanned> {
    let mut lookup = Lookup::default();
    if !files.has(REQUIREMENTS) {
        if entry(project, &["project"]).is_none() {
            return Err(Unplanned::of(
                BuildCode::UnsupportedLanguage,
                "what it needs is said by a program (setup.py), which no generated flake runs",
                "list it in requirements.txt, or in pyproject.toml (project.dependencies)",
            ));
        }
        for line in listed(project) {
            lookup.requirements.push(requirement(PROJECT, &line)?);
        }
        return Ok(lookup);
    }
    let mut waiting = vec![(REQUIREMENTS.to_owned(), false)];
    let mut seen = BTreeSet::new();
    while let Some((path, only_limits)) = waiting.pop() {
        if !seen.insert((path.clone(), only_limits)) {
            continue;
        }
        let correct = || format!("correct {}", quoted(&path));
        if seen.len() > FILES_MAX {
            let message = format!("more than {FILES_MAX} files of requirements name each other");
            return Err(Unplanned::new(message, "make them one, and deploy again"));
        }
        if !files.has(&path) {
            return Err(Unplanned::new(
                format!("there is no {}, which the requirements name", quoted(&path)),
                correct(),
            ));
        }
        let text = files.lock(&path).map_err(|why| Unplanned::new(why.message, correct()))?.unwrap_or_default();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for line in logical_lines(text) {
            if !line.starts_with('-') {
                let list = if only_limits { &mut lookup.constraints } else { &mut lookup.requirements };
                list.push(requirement(&path, &line)?);
                continue;
            }
            let (option, value) = line.split_once([' ', '=']).unwrap_or((&line, ""));
            let value = value.trim();
            match option {
                "-r" | "--requirement" | "-c" | "--constraint" => {
                    let named = inside(&join(folder, value)).ok_or_else(|| {
                        Unplanned::new(
                            format!("{} names {}, which is outside of the source", quoted(&path), quoted(value)),
                            correct(),
                        )
                    })?;
                    waiting.push((named, only_limits || option.contains('c') && option != "--requirement"));
                }
                // Only wheels are taken as it is, and the source itself is there without being installed.
                "--only-binary" | "--prefer-binary" => {}
                "-e" | "--editable" if value == "." => {}
                _ => {
                    let message =
                        format!("{} has {}, which a generated flake does not do", quoted(&path), quoted(&line));
                    let next_step = "remove it, or add a Dockerfile or a flake.nix";
                    return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
                }
            }
        }
    }
    Ok(lookup)
}

/// Lines without comments, those that go on after a `\` made one.
fn logical_lines(text: &str) -> Vec<String> {
    let joined = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace("\\\n", " ");
    let without_comment = |line: &str| match line.trim_start().starts_with('#') {
        true => String::new(),
        false => line.split(" #").next().unwrap_or_default().trim().to_owned(),
    };
    joined.lines().map(without_comment).filter(|line| !line.is_empty()).collect()
}

/// A line for pip that names a package of the index, and nothing else.
fn requirement(path: &str, line: &str) -> Result<String, Unplanned> {
    let refused = |why: &str| {
        let message = format!("{} has {}, {why}", quoted(path), quoted(line));
        let next_step = "name a package of the index, or add a Dockerfile or a flake.nix";
        Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step)
    };
    let what = line.split(';').next().unwrap_or_default();
    if what.contains('@') || what.contains("://") {
        return Err(refused("which is fetched from elsewhere than the index"));
    }
    let begins = line.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    let end =
        what.find(|letter: char| !(letter.is_ascii_alphanumeric() || "-_.".contains(letter))).unwrap_or(what.len());
    let is_path = what[end..].trim_start().starts_with('/') || what.ends_with(".whl");
    let is_plain = !line.chars().any(char::is_control) && line.len() <= REQUIREMENT_BYTES_MAX && !line.contains("${");
    if begins && is_plain && !is_path { Ok(line.to_owned()) } else { Err(refused("which names no package")) }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+!-_".contains(&byte))
}

/// What pip says that it would install, which is what is fetched then.
#[derive(Deserialize, Serialize)]
struct Report {
    install: Vec<Chosen>,
}

#[derive(Deserialize, Serialize)]
struct Chosen {
    download_info: Download,
    metadata: Metadata,
}

#[derive(Deserialize, Serialize)]
struct Download {
    url: String,
    archive_info: Archive,
}

#[derive(Deserialize, Serialize)]
struct Archive {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

#[derive(Deserialize, Serialize)]
struct Metadata {
    name: String,
    version: String,
}

/// What follows from pip's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) dependencies: Vec<Dependency>,
    pub(super) start: String,
    /// Whether a wheel has programs of a machine, which need its usual libraries.
    pub(super) is_native: bool,
    pub(super) note: Option<&'static str>,
}

impl Lookup {
    /// Whether the same is always answered.
    pub fn is_locked(&self) -> bool {
        self.locked.is_some()
    }

    /// What of pip's answer counts: the rest is long.
    pub fn essence(answer: &[u8]) -> Option<String> {
        let report: Report = serde_json::from_slice(answer).ok()?;
        serde_json::to_string(&report).ok()
    }

    pub(super) fn settle(&self, report: &str) -> Result<Settled, Unplanned> {
        let unreadable = |why: String| {
            let message = format!("pip answers what cannot be read: {why}");
            Unplanned::of(BuildCode::Infrastructure, message, "name a nixpkgs with pip 23 or newer with --nixpkgs")
        };
        let report: Report = serde_json::from_str(report).map_err(|error| unreadable(error.to_string()))?;
        let mut dependencies = Vec::new();
        let mut names = BTreeSet::new();
        for Chosen { download_info: Download { url, archive_info }, metadata } in report.install {
            let name = normalized(&metadata.name);
            let file = url.split(['?', '#']).next().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
            let file = file.replace("%2B", "+").replace("%2b", "+").replace("%21", "!");
            let is_file = file.ends_with(".whl") && is_version(&file);
            let is_url = ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
                && url.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]{}\\".contains(&byte));
            let digest = archive_info.hashes.get("sha256").map(|digest| digest.to_ascii_lowercase());
            let bytes = digest.as_deref().and_then(|digest| hex::decode(digest).ok()).filter(|bytes| bytes.len() == 32);
            let (Some(digest), Some(bytes), true) = (digest, bytes, is_file && is_url) else {
                return Err(unreadable(format!("{} of {} is no wheel with a hash", quoted(&url), quoted(&name))));
            };
            if let Some((lock, locked)) = &self.locked {
                let known = locked.get(&(name.clone(), metadata.version.clone()));
                if !known.is_some_and(|hashes| hashes.contains(&digest)) {
                    let what = format!("{name} {}", metadata.version);
                    let message = format!(
                        "{lock} is not of this {PROJECT}, or of what the index has: {} is needed, and is not in it as it is there",
                        quoted(&what)
                    );
                    return Err(Unplanned::new(message, "make the lock file anew, commit it, and deploy again"));
                }
            }
            let hash = Hash::Known(format!("sha256-{}", STANDARD.encode(bytes)));
            dependencies.push(Dependency { name: super::store_name(&file), place: file, at: At::Url(url), hash });
            names.insert(name);
        }
        let start = self.starts.iter().find(|start| start.needs.is_empty() || names.contains(start.needs));
        let start = start.ok_or_else(|| {
            let needs: Vec<&str> = self.starts.iter().map(|start| start.needs).collect();
            let message = format!("it is run by {}, which is not among what it needs", needs.join(" or "));
            let next_step =
                "add that to what it needs, or say what runs: --build start_command=… (build_config.start_command)";
            Unplanned::of(BuildCode::DependencyMissing, message, next_step)
        })?;
        dependencies.sort_by(|one, other| one.place.cmp(&other.place));
        let is_native = dependencies.iter().any(|it| !it.place.ends_with("-none-any.whl"));
        Ok(Settled { start: start.command.clone(), note: start.note, is_native, dependencies })
    }
}
