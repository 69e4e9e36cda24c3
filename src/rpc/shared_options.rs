//! Options that all nodes should be started with alike, and who was started with something else.
//!
//! Whoever leads decides by its own options, also for the others, and a log-in is worth something where its key is known. So
//! nodes tell each other theirs when they greet (`consensus::roll`): every two of which one votes. Nothing is decided by it;
//! people are told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::NodeId;

/// Longest value that is taken from another node. Longer ones, and such that are no plain words, are only said to be different.
const VALUE_BYTES_MAX: usize = 64;

/// An option of this node, and how another one has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionDifference {
    /// Its name on the command line, without dashes.
    pub option: String,
    /// As this node was started.
    pub here: String,
    /// As the other one was.
    pub there: String,
}

/// One option that decides for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedOption {
    /// Its name on the command line, without dashes.
    pub option: &'static str,
    /// As this node was started. Of a secret something that only tells it from another one.
    pub value: String,
    /// That nobody is shown the value.
    pub is_secret: bool,
}

/// This node's options, and what others said of theirs. Clones share it.
#[derive(Clone, Default)]
pub struct SharedOptions {
    own: Arc<[SharedOption]>,
    heard: Arc<Mutex<BTreeMap<NodeId, Vec<OptionDifference>>>>,
}

impl SharedOptions {
    /// With this node's own.
    pub fn new(own: Vec<SharedOption>) -> Self {
        Self { own: own.into(), heard: Arc::default() }
    }

    /// In what a node was started unlike this one, as far as it was heard since this process started.
    pub fn differing(&self, node: NodeId) -> Vec<OptionDifference> {
        self.heard().get(&node).cloned().unwrap_or_default()
    }

    /// As others are told.
    pub(super) fn told(&self) -> HashMap<String, String> {
        self.own.iter().map(|own| (own.option.to_owned(), own.value.clone())).collect()
    }

    /// Takes down what a member says, and says in this node's log when that is new. What it does not say, since its program is
    /// older, is not compared.
    pub(super) fn note(&self, node: NodeId, told: &HashMap<String, String>) {
        let differs = |own: &SharedOption| {
            let there = told.get(own.option).filter(|there| **there != own.value)?;
            Some(difference(own, there))
        };
        let found: Vec<OptionDifference> = self.own.iter().filter_map(differs).collect();
        let mut heard = self.heard();
        let before = heard.entry(node).or_default();
        // Once for each option, whatever it becomes.
        let is_new = |one: &&OptionDifference| before.iter().all(|known| known.option != one.option);
        let new: Vec<OptionDifference> = found.iter().filter(is_new).cloned().collect();
        *before = found;
        drop(heard);
        for OptionDifference { option, here, there } in new {
            tracing::warn!("node {node} has --{option} {there}, and this node {here}: start all nodes with the same");
        }
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Vec<OptionDifference>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn difference(own: &SharedOption, there: &str) -> OptionDifference {
    let is_plain = (1..=VALUE_BYTES_MAX).contains(&there.len()) && there.bytes().all(|byte| byte.is_ascii_graphic());
    let (here, there) = match (own.is_secret, is_plain) {
        (true, _) => ("one", "another"),
        (false, true) => (own.value.as_str(), there),
        (false, false) => (own.value.as_str(), "something else"),
    };
    OptionDifference { option: own.option.to_owned(), here: here.to_owned(), there: there.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(option: &'static str, value: &str) -> SharedOption {
        SharedOption { option, value: value.to_owned(), is_secret: option == "key" }
    }

    fn told(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(option, value)| ((*option).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_nodes_were_started_with_otherwise_is_known_until_that_is_mended() {
        let shared_options =
            SharedOptions::new(vec![option("builds", "2"), option("patience", "6s"), option("key", "#1")]);
        let (second, third) = (NodeId(2), NodeId(3));
        assert_eq!(shared_options.differing(second), []);
        shared_options.note(
            second,
            &SharedOptions::new(vec![option("builds", "4"), option("patience", "6s"), option("key", "#2")]).told(),
        );
        let shown: Vec<String> = shared_options
            .differing(second)
            .into_iter()
            .map(|OptionDifference { option, here, there }| format!("{option} {here} {there}"))
            .collect();
        assert_eq!(shown, ["builds 2 4", "key one another"]);
        assert_eq!(shared_options.differing(third), []);
        shared_options.note(second, &shared_options.told());
        assert_eq!(shared_options.differing(second), []);
    }

    #[test]
    fn what_another_machine_says_is_not_repeated_when_it_is_no_plain_word() {
        let shared_options = SharedOptions::new(vec![option("builds", "2"), option("patience", "6s")]);
        for strange in ["\x1b[2J", "4 5", &"9".repeat(65), ""] {
            shared_options.note(NodeId(2), &told(&[("builds", strange), ("unknown", "1")]));
            let found = shared_options.differing(NodeId(2));
            assert!(matches!(&found[..], [one] if one.there == "something else"), "{found:?}");
        }
        // An older program says nothing of what it does not know.
        shared_options.note(NodeId(2), &told(&[]));
        assert_eq!(shared_options.differing(NodeId(2)), []);
    }
}
