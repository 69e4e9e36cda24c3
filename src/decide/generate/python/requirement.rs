//! What a source says that it needs, as lines for pip that name packages of its index and nothing else.
//!
//! Pip reads much more into a line than a name: addresses, folders, and options by which programs of strangers run. So a line is taken apart here,
//! and what goes to pip is written anew from its parts.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::super::Unplanned;
use crate::decide::detect::files::{Files, inside, join};
use crate::decide::detect::python::{PROJECT, REQUIREMENTS, entry};
use crate::model::{BuildCode, quoted};

/// Most of one requirement that is looked at.
const BYTES_MAX: usize = 16 * 1024;
/// Files of requirements that name each other.
const FILES_MAX: usize = 20;
/// What pip takes for a file, whether there is one or not.
const ARCHIVES: [&str; 12] =
    [".whl", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".tbz", ".txz", ".tlz", ".lz", ".lzma"];
/// How an option begins that says what a file must hash to.
const HASH: &str = "--hash=";

/// What is needed, and what versions may be, a line each.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) requirements: Vec<String>,
    pub(super) constraints: Vec<String>,
}

/// What `requirements.txt` says, with the files that it names, or else the manifest.
pub(super) fn of_files(files: &Files<'_>, project: &Table) -> Result<Lines, Unplanned> {
    let mut lines = Lines::default();
    if !files.has(REQUIREMENTS) {
        lines.requirements = of_project(project)?;
        return Ok(lines);
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
            let message = format!("there is no {}, which the requirements name", quoted(&path));
            return Err(Unplanned::new(message, correct()));
        }
        let text = files.lock(&path).map_err(|why| Unplanned::new(why.message, correct()))?.unwrap_or_default();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for line in logical_lines(text) {
            let list = if only_limits { &mut lines.constraints } else { &mut lines.requirements };
            if !line.starts_with('-') {
                list.push(requirement(&path, &line)?);
                continue;
            }
            let (option, value) = line.split_once([' ', '=']).unwrap_or((&line, ""));
            let value = value.trim();
            match option {
                "-r" | "--requirement" | "-c" | "--constraint" => {
                    let named = inside(&join(folder, value)).ok_or_else(|| {
                        let named = quoted(value);
                        let message = format!("{} names {named}, which is outside of the source", quoted(&path));
                        Unplanned::new(message, correct())
                    })?;
                    waiting.push((named, only_limits || matches!(option, "-c" | "--constraint")));
                }
                // Only wheels are taken as it is.
                "--only-binary" | "--prefer-binary" => {}
                // The source itself is there without being installed.
                "-e" | "--editable" if value == "." && folder.is_empty() => list.extend(of_project(project)?),
                _ => {
                    let message =
                        format!("{} has {}, which a generated flake does not do", quoted(&path), quoted(&line));
                    let next_step = "remove it, or add a Dockerfile or a flake.nix";
                    return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
                }
            }
        }
    }
    Ok(lines)
}

fn unsupported(message: &str, next_step: &str) -> Unplanned {
    Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step)
}

/// `project.dependencies` of a manifest without a lock file.
fn of_project(project: &Table) -> Result<Vec<String>, Unplanned> {
    if entry(project, &["project"]).is_none() {
        return Err(unsupported(
            "what it needs is said by a program (setup.py), which no generated flake runs",
            "list it in requirements.txt, or in pyproject.toml (project.dependencies)",
        ));
    }
    // Whoever has the same name on the index would be taken instead.
    if ["sources", "index"].iter().any(|key| entry(project, &["tool", "uv", key]).is_some()) {
        return Err(unsupported(
            "pyproject.toml says where uv finds packages (tool.uv), and there is no uv.lock beside it",
            "run `uv lock` and commit uv.lock; of a workspace, build the folder with uv.lock (--root)",
        ));
    }
    listed(project)
}

/// `project.dependencies`.
pub(super) fn listed(project: &Table) -> Result<Vec<String>, Unplanned> {
    let dynamic = entry(project, &["project", "dynamic"]).and_then(Value::as_array);
    if dynamic.is_some_and(|all| all.iter().any(|it| it.as_str() == Some("dependencies"))) {
        return Err(unsupported(
            "what it needs is said by a program (project.dynamic of pyproject.toml), which no generated flake runs",
            "list it in pyproject.toml (project.dependencies)",
        ));
    }
    let listed = entry(project, &["project", "dependencies"]).and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(Value::as_str).map(|line| requirement(PROJECT, line)).collect()
}

/// Lines without comments, those that go on after a `\` made one.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.replace('\t', " ");
        let line = if line.trim_start().starts_with('#') { "" } else { line.split(" #").next().unwrap_or_default() };
        let line = line.trim_end();
        let goes_on = line.strip_suffix('\\');
        begun.push_str(goes_on.unwrap_or(line).trim());
        begun.push(' ');
        if goes_on.is_none() {
            lines.push(std::mem::take(&mut begun).trim().to_owned());
        }
    }
    lines.push(begun.trim().to_owned());
    lines.retain(|line| !line.is_empty());
    lines
}

/// A line that names a package of the index: `name[extras] versions ; marker --hash=…`.
pub(super) fn requirement(path: &str, line: &str) -> Result<String, Unplanned> {
    let refused = |why: &str| {
        let message = format!("{} has {}, {why}", quoted(path), quoted(line));
        let next_step = "name a package of the index, or add a Dockerfile or a flake.nix";
        Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step)
    };
    let (what, options) = line.split_at(line.find(" --").unwrap_or(line.len()));
    let (what, marker) = what.split_once(';').map_or((what, None), |(what, marker)| (what, Some(marker.trim())));
    if what.contains('@') || what.contains("://") {
        return Err(refused("which is fetched from elsewhere than the index"));
    }
    if line.len() > BYTES_MAX || !marker.is_none_or(is_marker) {
        return Err(refused("which is no requirement"));
    }
    let (name, rest) = what.split_at(what.find(|letter| !is_of_name(letter)).unwrap_or(what.len()));
    let rest = rest.trim();
    let (extras, versions) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((extras, versions)) => (extras.replace(' ', ""), versions),
        None => (String::new(), rest),
    };
    let versions = versions.replace(' ', "");
    let is_range = versions.is_empty() || versions.starts_with(['<', '>', '=', '!', '~', '(']);
    let is_plain = versions.bytes().all(|it| it.is_ascii_alphanumeric() || b".*+!_-<>=~,()".contains(&it));
    if !is_name(name) || !extras.split(',').all(|it| extras.is_empty() || is_name(it)) || !is_range || !is_plain {
        return Err(refused("which names no package of the index"));
    }
    let mut anew = name.to_owned();
    if !extras.is_empty() {
        anew.push_str(&format!("[{extras}]"));
    }
    anew.push_str(&versions);
    if is_archive(&anew) {
        return Err(refused("which is a file to pip"));
    }
    if let Some(marker) = marker.filter(|marker| !marker.is_empty()) {
        anew.push_str(&format!(" ; {marker}"));
    }
    for option in options.split_whitespace() {
        let hash = option.strip_prefix(HASH).and_then(|hash| hash.split_once(':'));
        let is_hash = |(kind, digest): (&str, &str)| {
            matches!(kind, "sha256" | "sha384" | "sha512") && digest.bytes().all(|it| it.is_ascii_hexdigit())
        };
        if !hash.is_some_and(is_hash) {
            return Err(refused("with an option that a generated flake does not do"));
        }
        anew.push_str(&format!(" {option}"));
    }
    Ok(anew)
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-_.".contains(letter)
}

/// Whether it is a name of a package, which is neither an option nor a file to anybody.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && text.chars().all(is_of_name) && !is_archive(text)
}

fn is_archive(text: &str) -> bool {
    ARCHIVES.iter().any(|ending| text.to_ascii_lowercase().ends_with(ending))
}

/// Whether it can be nothing but what says when something is needed. A word that begins with `-` is where options begin to pip.
pub(super) fn is_marker(text: &str) -> bool {
    text.bytes().all(|it| it.is_ascii_alphanumeric() || b" ._-+*,<>=!~()'\"".contains(&it))
        && !text.split(' ').any(|word| word.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_anew_from_its_parts() {
        let anew = |line: &str| requirement("r", line).map_err(|why| why.message);
        for (line, wanted) in [
            ("Flask", "Flask"),
            ("a_b.c [x, y] >= 1.0 , < 2", "a_b.c[x,y]>=1.0,<2"),
            ("a (>=1,<2)", "a(>=1,<2)"),
            (
                "a==1.*;python_version<'3.12' and (os_name == \"posix\")",
                "a==1.* ; python_version<'3.12' and (os_name == \"posix\")",
            ),
            ("a==1.0+cpu --hash=sha256:00aa --hash=sha512:11", "a==1.0+cpu --hash=sha256:00aa --hash=sha512:11"),
        ] {
            assert_eq!(anew(line).as_deref(), Ok(wanted), "{line}");
        }
    }

    #[test]
    fn nothing_but_a_package_of_the_index_is_named() {
        for line in [
            "evil --no-binary evil",
            "greet --only-binary=:none:",
            "greet --hash=sha256:00 --no-binary=:all:",
            "greet --hash=md5:00",
            "greet ; python_version > '3'\u{2028}evil @ https://x/evil-1.0.tar.gz",
            "greet ; python_version > '3' --no-binary=x",
            "greet ; python_version > '3' -''-no-binary=greet",
            "greet ; python_version > '3' -e .",
            "greet==1.zip",
            "greet.tlz",
            "file:/nix/store/x-source/evil",
            "x[/../nix/store/x-source/evil",
            "x[a/b]",
            "./own",
            "own/a.whl",
            "a.whl",
            "a.tar.gz",
            "-e .",
            "a==${SECRET}",
            "a\n-e .",
            "a==1\r-e .",
            "a\\",
            "git+https://example.org/a",
            "a @ https://example.org/a.whl",
            "a b",
            "",
        ] {
            let said = requirement("r", line);
            assert!(said.is_err(), "{line:?}: {said:?}");
        }
    }

    #[test]
    fn comments_end_lines_and_lines_go_on() {
        let text = "\u{feff}a==1 \\\r\n  --hash=sha256:00\r\n# note \\\nb\t# why\nc \\\n# more\nd#e\n\n";
        assert_eq!(logical_lines(text), ["a==1 --hash=sha256:00", "b", "c", "d#e"]);
    }
}
