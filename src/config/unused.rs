//! Variables that an operator has set for a node and that nothing reads: settings of the original system without a
//! meaning here, and misspelt names of our own.

use std::collections::BTreeSet;

/// Settings of the original, and what to do instead.
const WITHOUT_MEANING: &[(&str, &str)] = &[
    ("API_KEY_HEADER", "not used: tokens travel in the Authorization header"),
    ("API_URL", "not used: the command line takes --api or NARVANA_API"),
    ("ATTIC_ENDPOINT", "not used yet: this version has no Nix builds, and so no cache for them"),
    ("ATTIC_TOKEN", "not used yet: this version has no Nix builds, and so no cache for them"),
    ("GITHUB_WEBHOOK_URL", "not used yet: deploy with `narvana deploy`, or POST …/deploy from the forge's own jobs"),
    ("INTERNAL_API_URL", "not used: every node serves the API itself"),
    ("PUBLIC_API_URL", "not used yet: set --advertise to the address at which this node is reached"),
    ("PUBLIC_WEB_URL", "not used yet: this version has no web pages"),
    ("REGISTRY_URL", "not used: images stay on the nodes and no registry is needed"),
    ("SCHEDULER_RETRY_BACKOFF", "not used yet: the pauses between restarts are fixed"),
    ("SOPS_AGE_PRIVATE_KEY", "not used: secrets are sealed with the key in the data folder"),
    ("SOPS_AGE_PUBLIC_KEY", "not used: secrets are sealed with the key in the data folder"),
    ("WEB_URL", "not used yet: this version has no web pages"),
];

/// How unlike a known name another may be to count as a slip of it: at most this share of its letters, as one in …
const LETTERS_PER_SLIP: usize = 4;

/// One warning for each variable of `set` that has no effect. `known` are the variables that something reads; of unknown
/// ones only those beginning with `NARVANA_` are spoken of, the others are not ours to judge.
pub fn unused_variables<'a>(set: impl IntoIterator<Item = &'a str>, known: &BTreeSet<String>) -> Vec<String> {
    set.into_iter().filter_map(|name| warning(name, known)).collect()
}

fn warning(name: &str, known: &BTreeSet<String>) -> Option<String> {
    if known.contains(name) {
        return None;
    }
    if let Some((_, instead)) = WITHOUT_MEANING.iter().find(|(unused, _)| *unused == name) {
        return Some(format!("{name} is set and {instead}"));
    }
    if !name.starts_with("NARVANA_") {
        return None;
    }
    Some(match nearest(name, known) {
        Some(near) => format!("{name} is set and nothing reads it; did you mean {near}?"),
        None => format!("{name} is set and nothing reads it; `narvana run --help` names the variables there are"),
    })
}

fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let distances = known.iter().map(|other| (strsim::damerau_levenshtein(name, other), other));
    let (distance, near) = distances.min()?;
    (distance <= near.len() / LETTERS_PER_SLIP).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_named_with_what_to_do() {
        let known = BTreeSet::from(["NARVANA_DATA_DIR", "NARVANA_ENGINE", "API_PORT"].map(str::to_owned));
        for (name, wanted) in [
            ("NARVANA_DATA_DIR", None),
            ("API_PORT", None),
            ("HOME", None),
            ("API_PROT", None),
            (
                "PUBLIC_API_URL",
                Some(
                    "PUBLIC_API_URL is set and not used yet: set --advertise to the address at which this node is reached",
                ),
            ),
            (
                "ATTIC_TOKEN",
                Some("ATTIC_TOKEN is set and not used yet: this version has no Nix builds, and so no cache for them"),
            ),
            ("NARVANA_DATADIR", Some("NARVANA_DATADIR is set and nothing reads it; did you mean NARVANA_DATA_DIR?")),
            ("NARVANA_EGNINE", Some("NARVANA_EGNINE is set and nothing reads it; did you mean NARVANA_ENGINE?")),
            (
                "NARVANA_WHATEVER_ELSE",
                Some(
                    "NARVANA_WHATEVER_ELSE is set and nothing reads it; `narvana run --help` names the variables there are",
                ),
            ),
        ] {
            assert_eq!(unused_variables([name], &known), wanted.map(str::to_owned).into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_setting_that_gets_a_meaning_is_no_longer_warned_of() {
        let known = BTreeSet::from(["ATTIC_TOKEN".to_owned()]);
        assert!(unused_variables(["ATTIC_TOKEN"], &known).is_empty());
    }
}
