//! Python with uv, Poetry or pip: what is needed, at which versions, and what runs.
//!
//! Which wheels fit is a matter of the Python that runs them: so pip is asked ([`Lookup`]), which is told of requirements and of what a lock
//! file settles, and takes wheels only. To learn what a source distribution needs its own program would have to run.

mod answer;
mod lock;
mod requirement;

use serde_json::json;
use toml::Table;

use self::lock::{Locked, POETRY, UV};
use super::names::is_plain_path;
use super::{Asked, Dependency, Recipe, Unplanned, Wanted, plan};
use crate::decide::detect::Framework;
use crate::decide::detect::files::Files;
use crate::decide::detect::python::{PROJECT, is_module, wanted_version};
use crate::model::{BuildCode, quoted};

/// No Python 3 before it is in any nixpkgs that is used.
const OLDEST_MINOR: u64 = 8;
/// Names in nixpkgs that are looked for.
const NAMES_MAX: usize = 8;
/// Files that give a server what it serves, or take commands: run as programs they end at once.
const NO_PROGRAMS: [&str; 3] = ["wsgi.py", "asgi.py", "manage.py"];

/// What pip is asked before a source is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// What is needed, a line each.
    pub requirements: Vec<String>,
    /// What versions may be, a line each.
    pub constraints: Vec<String>,
    /// What says which wheels are the right ones.
    locked: Option<Locked>,
    /// What can run it, the best first.
    starts: Vec<Start>,
}

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
    let (lines, locked) = match manager {
        "uv" => lock::of_lock(files, &UV, &project).map(|(lines, locked)| (lines, Some(locked)))?,
        "poetry" => lock::of_lock(files, &POETRY, &project).map(|(lines, locked)| (lines, Some(locked)))?,
        _ => (requirement::of_files(files, &project)?, None),
    };
    let starts = starts(files, asked)?;
    let lookup = Lookup { requirements: lines.requirements, constraints: lines.constraints, locked, starts };
    let said = asked.config.text("python_version");
    let (toolchains, wanted) =
        toolchains(said.map(str::to_owned).or_else(|| wanted_version(files, &project)).as_deref());
    let mut plan = plan(asked, toolchains);
    let build = build(asked);
    // A package of that name would hide modules of Python by its own.
    let has_folder = files.below("src").next().is_some() && !files.has("src/__init__.py");
    let details = [("build", json!(build)), ("sources", json!(if has_folder { "src" } else { "" }))];
    plan.details.extend(details.map(|(name, value)| (name.to_owned(), value)));
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

/// Whether a field of the service says so.
fn is_said(asked: &Asked<'_>, field: &str) -> bool {
    asked.config.text(field) == Some("true")
}

/// What comes before the programs of a Django whose settings the service names. They are a module's name.
fn settings(asked: &Asked<'_>) -> String {
    let said = asked.config.text("django_options.settings_module");
    said.map(|module| format!("export DJANGO_SETTINGS_MODULE={module}; ")).unwrap_or_default()
}

/// What runs when it is built.
fn build(asked: &Asked<'_>) -> String {
    let said = asked.config.text("build_command").filter(|command| !command.is_empty()).map(str::to_owned);
    let collect = "python ./manage.py collectstatic --noinput".to_owned();
    let collect = is_said(asked, "django_options.collect_static").then_some(collect);
    let commands: Vec<String> = said.into_iter().chain(collect).collect();
    if commands.is_empty() { String::new() } else { format!("{}{}", settings(asked), commands.join(" && ")) }
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
            ">=" | "^" | ">" => lowest = Some(number),
            sign @ ("~=" | "~") => {
                lowest = Some(number);
                // Of Poetry's sign the second number counts, of the other one the last but one.
                if sign == "~" || number.split('.').count() > 2 {
                    limit = minor(number).map(|minor| minor + 1);
                }
            }
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
    let option = |group: &str, name: &str| {
        let found = || asked.detection.suggested.get(group)?.get(name)?.as_str();
        asked.config.text(&format!("{group}.{name}")).or_else(found)
    };
    let usual = "the server of the framework is used, which is made for development: add gunicorn to what it needs";
    let found = match asked.detection.framework {
        Framework::Django => option("django_options", "settings_module").map(|module| {
            let packages = module.match_indices('.').rev().map(|(end, _)| &module[..end]);
            let is_served = |package: &&str| files.has(&format!("{}/wsgi.py", package.replace('.', "/")));
            let served = packages.into_iter().find(is_served).map(|package| format!("{package}.wsgi"));
            let own = "python ./manage.py runserver --noreload \"0.0.0.0:${PORT:-8000}\"".to_owned();
            let served = served.map(|it| Start { needs: "gunicorn", command: format!("gunicorn {it}"), note: None });
            let own = files.has("manage.py").then_some(Start { needs: "django", command: own, note: Some(usual) });
            let all = served.into_iter().chain(own);
            let before = if is_said(asked, "django_options.migrations") {
                "python ./manage.py migrate --noinput && exec "
            } else {
                ""
            };
            let before = format!("{}{before}", settings(asked));
            all.map(|start| Start { command: format!("{before}{}", start.command), ..start }).collect()
        }),
        Framework::Fastapi => option("fastapi_options", "app_module").map(|module| {
            let workers = asked.config.text("fastapi_options.workers");
            let workers = workers.map(|count| format!(" --workers {count}")).unwrap_or_default();
            let command = format!("uvicorn {module} --host 0.0.0.0 --port \"${{PORT:-8000}}\"{workers}");
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
    let is_program = |path: &&str| !NO_PROGRAMS.contains(&path.rsplit('/').next().unwrap_or(path));
    let program = || asked.text("entry_point").filter(is_program).and_then(program).map(plainly);
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

    /// What of pip's answer counts: the rest is long. None when it cannot be read.
    pub fn essence(answer: &[u8]) -> Option<String> {
        answer::essence(answer)
    }

    pub(super) fn settle(&self, answer: &str) -> Result<Settled, Unplanned> {
        let (dependencies, names) = answer::wheels(answer, self.locked.as_ref())?;
        let start = self.starts.iter().find(|start| start.needs.is_empty() || names.contains(start.needs));
        let start = start.ok_or_else(|| {
            let needs: Vec<&str> = self.starts.iter().map(|start| start.needs).collect();
            let message = format!("it is run by {}, which is not among what it needs", needs.join(" or "));
            let next_step =
                "add that to what it needs, or say what runs: --build start_command=… (build_config.start_command)";
            Unplanned::of(BuildCode::DependencyMissing, message, next_step)
        })?;
        let is_native = dependencies.iter().any(|it| !it.place.ends_with("-none-any.whl"));
        Ok(Settled { start: start.command.clone(), note: start.note, is_native, dependencies })
    }
}
