//! Yarn before version 2: a list of what was asked for, and what that is.

use std::collections::BTreeSet;

use base64::prelude::{BASE64_STANDARD, Engine};

use super::{ANEW, Fetched, Locked, MANIFEST, Needs, text_of};
use crate::decide::detect::files::Files;
use crate::decide::generate::Unplanned;
use crate::model::{BuildCode, quoted};

const LOCK: &str = "yarn.lock";

/// One package of the list.
#[derive(Clone, Debug, Default)]
struct Entry<'a> {
    /// What was asked for: `name@range`, each.
    asked: Vec<&'a str>,
    version: Option<&'a str>,
    resolved: Option<&'a str>,
    integrity: Option<&'a str>,
}

pub(super) fn locked(files: &Files<'_>, needs: &Needs) -> Result<Locked, Unplanned> {
    if !files.has(LOCK) {
        return Err(Unplanned::of(
            BuildCode::DependencyMissing,
            "there is no yarn.lock, and nothing is installed that is not locked",
            "run `yarn`, commit yarn.lock, and deploy again",
        ));
    }
    let text = text_of(files, LOCK)?;
    if text.lines().any(|line| line.starts_with("__metadata:")) {
        let message =
            "yarn.lock is of Yarn 2 or later, whose hashes are of its own cache and of nothing that can be fetched";
        let next_step = "commit a package-lock.json or pnpm-lock.yaml instead, or add a Dockerfile";
        return Err(Unplanned::of(BuildCode::UnsupportedLanguage, message, next_step));
    }
    let entries = entries(text)
        .map_err(|line| Unplanned::new(format!("yarn.lock cannot be read: {} is no line of it", quoted(line)), ANEW))?;
    let known: BTreeSet<&str> = entries.iter().flat_map(|entry| entry.asked.iter().copied()).collect();
    let missing = needs.all().map(|(name, range)| format!("{name}@{range}")).find(|it| !known.contains(it.as_str()));
    if let Some(missing) = missing {
        let message = format!("yarn.lock is not of this {MANIFEST}: it has no {}", quoted(&missing));
        return Err(Unplanned::new(message, ANEW));
    }
    let mut dependencies = Vec::new();
    for entry in entries {
        let first = entry.asked.first().copied().unwrap_or_default();
        let refused = |why: &str| Unplanned::new(format!("yarn.lock: {} {why}", quoted(first)), ANEW);
        // Another name for a package: `name@npm:other@range`. The name of a scope begins with the same letter.
        let own = first.split_once("@npm:").map_or(first, |(_, own)| own);
        let name = own.get(1..).and_then(|rest| rest.find('@')).map_or(own, |at| &own[..=at]);
        let (place, sum) = entry.resolved.map(|url| url.split_once('#').unwrap_or((url, ""))).ok_or_else(|| {
            refused("is a folder, or something else that is fetched from nowhere, for which no flake is generated yet")
        })?;
        // Before Yarn wrote integrity, the SHA-1 was all there was. What git hosts pack is named by a commit there, which is no hash of it.
        let is_of_registry = place.contains("/-/");
        let sha1 = hex::decode(sum).ok().filter(|sum| is_of_registry && sum.len() == 20);
        let sha1 = sha1.map(|sum| format!("sha1-{}", BASE64_STANDARD.encode(sum)));
        let fetched = Fetched {
            name,
            version: entry.version.ok_or_else(|| refused("has no version"))?,
            url: Some(place),
            integrity: entry.integrity.or(sha1.as_deref()),
        };
        dependencies.push(fetched.dependency(place).map_err(refused)?);
    }
    // Two ranges may mean the same.
    dependencies.sort_by(|one, other| one.place.cmp(&other.place));
    dependencies.dedup_by(|one, other| one.place == other.place);
    let (tools, npmrc) = (vec!["yarn".to_owned()], String::new());
    Ok(Locked { lock: LOCK, flags: "", tools, settings: None, npmrc, dependencies })
}

/// The packages, or the first line that is none of such a file.
fn entries(text: &str) -> Result<Vec<Entry<'_>>, &str> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let depth = line.len() - line.trim_start().len();
        match (depth, entries.last_mut()) {
            (0, _) => {
                let asked = line.strip_suffix(':').ok_or(line)?.split(", ").map(unquoted).collect();
                entries.push(Entry { asked, ..Entry::default() });
            }
            (2, Some(entry)) => match line.trim_start().split_once(' ') {
                Some(("version", value)) => entry.version = Some(unquoted(value)),
                Some(("resolved", value)) => entry.resolved = Some(unquoted(value)),
                Some(("integrity", value)) => entry.integrity = Some(unquoted(value)),
                _ => {}
            },
            // What it needs is said by others with what they are.
            (3.., Some(_)) => {}
            _ => return Err(line),
        }
    }
    Ok(entries)
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches('"')
}
