//! How the closure of a store path becomes layers of an image. Pure.
//!
//! Most paths get a layer of their own, so that a change moves what changed and nothing else. Images have a limit of layers: what most others
//! stand on is most likely shared with other images and stays the same, so it goes first, and the least of them share one. What was asked for
//! changes with every change of the source: it is alone in the last layer.

use std::collections::{BTreeMap, BTreeSet};

/// Most layers of one image. Engines refuse more than 127, and some of that is left to them.
const LAYERS_MAX: usize = 100;

/// A path of a Nix store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePath {
    /// Whole, such as `/nix/store/…-hello`.
    pub path: String,
    /// Size of what is in it.
    pub bytes: u64,
    /// What it refers to, by their paths; itself may be among them.
    pub references: BTreeSet<String>,
}

/// Whether this is a path of the store itself, not one in it or elsewhere.
pub fn is_store_path(text: &str) -> bool {
    let Some((digest, name)) = text.strip_prefix("/nix/store/").and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    digest.len() == 32
        && digest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(is_of_name)
}

/// The layers, lowest first, each with its paths. Every path is in one of them.
pub fn layers<'a>(closure: &'a [StorePath], root: &str) -> Vec<Vec<&'a str>> {
    let by_path: BTreeMap<&str, &StorePath> = closure.iter().map(|it| (it.path.as_str(), it)).collect();
    let mut needed_by: BTreeMap<&str, usize> = by_path.keys().map(|path| (*path, 0)).collect();
    for path in by_path.keys() {
        for below in everything_below(path, &by_path) {
            *needed_by.entry(below).or_default() += 1;
        }
    }
    let mut others: Vec<&StorePath> = by_path.values().copied().filter(|it| it.path != root).collect();
    others.sort_by(|a, b| {
        let rank = |it: &StorePath| (needed_by[it.path.as_str()], it.bytes);
        rank(b).cmp(&rank(a)).then_with(|| a.path.cmp(&b.path))
    });
    let alone = if others.len() < LAYERS_MAX { others.len() } else { LAYERS_MAX - 2 };
    let (first, rest) = others.split_at(alone);
    let mut layers: Vec<Vec<&str>> = first.iter().map(|it| vec![it.path.as_str()]).collect();
    if !rest.is_empty() {
        layers.push(rest.iter().map(|it| it.path.as_str()).collect());
    }
    layers.extend(by_path.get_key_value(root).map(|(path, _)| vec![*path]));
    layers
}

/// All that a path needs, without itself.
fn everything_below<'a>(path: &str, by_path: &BTreeMap<&'a str, &'a StorePath>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![path];
    while let Some(next) = open.pop() {
        let Some(known) = by_path.get(next) else { continue };
        for reference in known.references.iter().filter(|reference| *reference != path) {
            if let Some((below, _)) = by_path.get_key_value(reference.as_str())
                && found.insert(*below)
            {
                open.push(below);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_whole_path_is_one_of_the_store() {
        let path = format!("/nix/store/{}-web-1.0", "a0".repeat(16));
        assert!(is_store_path(&path));
        let inside = format!("{path}/bin");
        let up = format!("{path}/../x");
        for other in ["", "/etc", "/nix/store/x", "--help", "/nix/store/../../etc-x", &inside, &up, &path[..44]] {
            assert!(!is_store_path(other), "{other}");
        }
    }

    fn path(name: &str, bytes: u64, references: &[&str]) -> StorePath {
        let references = references.iter().map(|name| (*name).to_owned()).collect();
        StorePath { path: name.to_owned(), bytes, references }
    }

    #[test]
    fn what_others_stand_on_is_below_and_the_root_is_alone_above() {
        let closure = [
            path("app", 1, &["libc", "ssl", "app"]),
            path("ssl", 50, &["libc"]),
            path("docs", 70, &[]),
            path("libc", 10, &["libc"]),
        ];
        assert_eq!(layers(&closure, "app"), [["libc"], ["ssl"], ["docs"], ["app"]].map(Vec::from));
    }

    #[test]
    fn many_paths_share_one_layer_and_the_most_needed_do_not() {
        let mut closure: Vec<StorePath> = (0..300).map(|n| path(&format!("p{n:03}"), n, &["libc"])).collect();
        closure.push(path("libc", 1, &[]));
        closure.push(path("app", 1, &["libc"]));
        let made = layers(&closure, "app");
        assert_eq!(made.len(), LAYERS_MAX);
        assert_eq!((&made[0][..], &made[LAYERS_MAX - 1][..]), (&["libc"][..], &["app"][..]));
        assert_eq!(made[LAYERS_MAX - 2].len(), 302 - (LAYERS_MAX - 1));
    }

    proptest! {
        #[test]
        fn every_path_is_in_one_layer_and_what_stays_keeps_its_place(
            edges in prop::collection::vec((0_usize..40, 0_usize..40), 0..80),
            count in 1_usize..40,
        ) {
            let name = |number: usize| format!("p{number}");
            let closure: Vec<StorePath> = (0..count)
                .map(|number| {
                    let of_it = edges.iter().filter(|(from, _)| *from == number);
                    let references = of_it.map(|(_, to)| name(*to)).collect();
                    StorePath { path: name(number), bytes: number as u64, references }
                })
                .collect();
            let made = layers(&closure, "p0");
            let mut all: Vec<&str> = made.iter().flatten().copied().collect();
            all.sort_unstable();
            let mut expected: Vec<String> = (0..count).map(name).collect();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
            prop_assert_eq!(made.last().expect("a layer"), &vec!["p0"]);
            prop_assert!(made.len() <= LAYERS_MAX);
        }
    }
}
