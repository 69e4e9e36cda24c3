//! Python: versions, dependencies, and the modules that frameworks are started with.

use std::collections::BTreeSet;

use serde_json::json;
use toml::{Table, Value};

use super::files::{Files, inside, is_foreign, join};
use super::{Detection, EntryPoint, Framework, Undetected, broken, plain, settle};
use crate::model::{BuildStrategy, BuildType};

pub(in crate::decide) const PROJECT: &str = "pyproject.toml";
pub(in crate::decide) const REQUIREMENTS: &str = "requirements.txt";
const USUAL_VERSION: &str = "3.11";
/// Files of requirements that are looked at.
const REQUIREMENTS_MAX: usize = 20;

pub(super) fn detect(files: &Files<'_>) -> Result<Detection, Undetected> {
    let mut detection = plain(BuildStrategy::AutoPython, BuildType::PureNix, 90);
    let project = match files.manifest(PROJECT)? {
        Some(text) => text.parse().map_err(|error: toml::de::Error| broken(PROJECT, error.message()))?,
        None => Table::new(),
    };
    version(files, &project, &mut detection);
    installer(files, &project, &mut detection);
    let needs = dependencies(files, &project);
    let known = [("django", Framework::Django), ("fastapi", Framework::Fastapi), ("flask", Framework::Flask)];
    let framework = known.into_iter().find(|(name, _)| needs.contains(*name)).map(|(_, framework)| framework);
    detection.framework = framework.unwrap_or(Framework::Generic);
    detection.entry_points = settle(entry_points(files, &project));
    let program = detection.entry_points.first().map(|it| it.path.clone());
    match detection.framework {
        Framework::Django => django(files, &mut detection),
        Framework::Fastapi => match module(files, "FastAPI(") {
            Some(module) => drop(detection.suggested.insert("fastapi_options", json!({ "app_module": module }))),
            None => detection.warnings.push("no FastAPI(…) was found: set fastapi_options.app_module".to_owned()),
        },
        Framework::Flask => match module(files, "Flask(") {
            Some(module) => drop(detection.suggested.insert("start_command", json!(format!("gunicorn {module}")))),
            None => detection.warnings.push("no Flask(…) was found: set start_command".to_owned()),
        },
        _ if program.is_none() => {
            let warning = "nothing says what to run: there is no main.py, app.py or script; set start_command";
            detection.warnings.push(warning.to_owned());
        }
        _ => {}
    }
    if let Some(program) = program {
        detection.suggested.insert("entry_point", json!(program));
    }
    detection.port = Some(if detection.framework == Framework::Flask { 5000 } else { 8000 });
    Ok(detection)
}

/// What a manifest says at a place.
pub(in crate::decide) fn entry<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(*key))
}

/// The version, or the range of versions, that is asked for.
pub(in crate::decide) fn wanted_version(files: &Files<'_>, project: &Table) -> Option<String> {
    let line = |path: &str| files.text(path).and_then(|it| it.lines().map(str::trim).find(|line| !line.is_empty()));
    let own = line(".python-version");
    let runtime = line("runtime.txt").and_then(|it| it.strip_prefix("python-"));
    let requires = entry(project, &["project", "requires-python"]).and_then(Value::as_str);
    let poetry = entry(project, &["tool", "poetry", "dependencies", "python"]).and_then(Value::as_str);
    own.or(requires).or(poetry).or(runtime).map(str::to_owned)
}

fn version(files: &Files<'_>, project: &Table, detection: &mut Detection) {
    let version = wanted_version(files, project).unwrap_or_else(|| USUAL_VERSION.to_owned());
    let is_exact = version.split('.').count() == 3 && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    detection.toolchain = is_exact.then(|| version.clone());
    detection.version = Some(version.clone());
    detection.suggested.insert("python_version", json!(version));
}

/// Who installs the dependencies, by its lock file.
fn installer(files: &Files<'_>, project: &Table, detection: &mut Detection) {
    let is_poetry = entry(project, &["tool", "poetry"]).is_some();
    let installer = if files.has("poetry.lock") || (is_poetry && !files.has("uv.lock")) {
        "poetry"
    } else if files.has("uv.lock") {
        "uv"
    } else {
        "pip"
    };
    detection.suggested.insert("package_manager", json!(installer));
    if files.has("poetry.lock") && files.has("uv.lock") {
        detection.warnings.push("poetry is used; uv.lock belongs to another installer: remove it".to_owned());
    }
    if installer == "poetry" && !files.has("poetry.lock") {
        detection.warnings.push("poetry.lock is missing: run `poetry lock` and commit it".to_owned());
    }
    if installer == "pip" {
        let unpinned = requirements(files).into_iter().find(|line| !line.contains("==") && !line.contains('@'));
        if let Some(line) = unpinned {
            let name = crate::model::quoted(&line);
            let warning =
                format!("{REQUIREMENTS} does not say which version of {name}: pin it with ==, or use a lock file");
            detection.warnings.push(warning);
        }
    }
}

/// Lines of the requirements that name something, without comments and markers.
fn requirements(files: &Files<'_>) -> Vec<String> {
    let (mut waiting, mut seen) = (vec![REQUIREMENTS.to_owned()], BTreeSet::new());
    let mut found = Vec::new();
    while let Some(path) = waiting.pop().filter(|_| seen.len() < REQUIREMENTS_MAX) {
        if !seen.insert(path.clone()) {
            continue;
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let text = files.text(&path).unwrap_or_default().trim_start_matches('\u{feff}');
        for line in text.lines() {
            let line = line.split(" #").next().unwrap_or_default().split(';').next().unwrap_or_default().trim();
            let other = ["-r ", "--requirement ", "--requirement="].iter().find_map(|option| line.strip_prefix(option));
            if let Some(other) = other {
                waiting.extend(inside(&join(folder, other.trim())));
            } else if !line.is_empty() && !line.starts_with(['#', '-']) {
                found.push(line.to_owned());
            }
        }
    }
    found
}

/// Names of what is needed, in the one spelling that Python's index compares.
fn dependencies(files: &Files<'_>, project: &Table) -> BTreeSet<String> {
    let mut lines = requirements(files);
    let listed = entry(project, &["project", "dependencies"]).and_then(Value::as_array).into_iter().flatten();
    lines.extend(listed.filter_map(Value::as_str).map(str::to_owned));
    let poetry = entry(project, &["tool", "poetry", "dependencies"]).and_then(Value::as_table).into_iter().flatten();
    lines.extend(poetry.map(|(name, _)| name.clone()));
    // A setup.py is a program: only names in quotation marks are looked for in it.
    if let Some(setup) = files.text("setup.py") {
        lines.extend(setup.split(['"', '\'']).skip(1).step_by(2).filter(|it| it.len() < 100).map(str::to_owned));
    }
    lines.iter().map(|line| name(line)).filter(|name| !name.is_empty()).collect()
}

fn name(requirement: &str) -> String {
    let end = requirement.find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.')));
    normalized(&requirement[..end.unwrap_or(requirement.len())])
}

/// The one spelling of a name that Python's index compares.
pub(in crate::decide) fn normalized(name: &str) -> String {
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

fn entry_points(files: &Files<'_>, project: &Table) -> Vec<EntryPoint> {
    const USUAL: [&str; 9] =
        ["main.py", "app.py", "run.py", "server.py", "manage.py", "wsgi.py", "asgi.py", "app/main.py", "src/main.py"];
    let file = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".py").to_owned();
        EntryPoint { name, path: (*path).to_owned(), is_default: false }
    };
    let mut found: Vec<EntryPoint> = USUAL.iter().filter(|path| files.has(path)).map(file).collect();
    for scripts in [&["project", "scripts"][..], &["tool", "poetry", "scripts"]] {
        let scripts = entry(project, scripts).and_then(Value::as_table).into_iter().flatten();
        found.extend(scripts.filter_map(|(name, module)| {
            Some(EntryPoint { name: name.clone(), path: module.as_str()?.to_owned(), is_default: false })
        }));
    }
    found
}

/// The settings of a project: what `manage.py` says, else the first `settings.py`.
fn django(files: &Files<'_>, detection: &mut Detection) {
    let said = files.text("manage.py").and_then(|text| {
        let rest = &text[text.find("DJANGO_SETTINGS_MODULE")?..];
        rest.split(['"', '\'']).skip(1).map(str::trim).find(|it| is_module(it))
    });
    let lying = files.below("").filter(|path| path.ends_with("/settings.py") && !is_foreign(path));
    let nearest = lying.min_by_key(|path| (path.matches('/').count(), *path));
    let module = said.map(str::to_owned).or_else(|| Some(nearest?.trim_end_matches(".py").replace('/', ".")));
    match module {
        Some(module) => drop(detection.suggested.insert("django_options", json!({ "settings_module": module }))),
        None => detection.warnings.push("no settings.py was found: set django_options.settings_module".to_owned()),
    }
}

/// Whether it is a name of a module, with or without those around it.
pub(in crate::decide) fn is_module(text: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    text.split('.').all(part)
}

/// The module and variable of an application, as servers want to be told: `app.main:app`.
fn module(files: &Files<'_>, constructor: &str) -> Option<String> {
    const PLACES: [&str; 6] = ["main.py", "app/main.py", "src/main.py", "app.py", "wsgi.py", "app/__init__.py"];
    let texts: Vec<(&str, &str)> = PLACES.into_iter().filter_map(|path| Some((path, files.text(path)?))).collect();
    texts.into_iter().find_map(|(path, text)| {
        let variable = text.lines().find_map(|line| {
            let (variable, value) = line.split_once('=')?;
            let variable = variable.split(':').next().unwrap_or_default();
            let is_top = !variable.starts_with(char::is_whitespace) && is_module(variable.trim());
            (is_top && value.trim_start().starts_with(constructor)).then(|| variable.trim())
        })?;
        let module = path.trim_end_matches(".py").trim_end_matches("/__init__").replace('/', ".");
        Some(format!("{module}:{variable}"))
    })
}
