//! What each node was started with that decides for the whole cluster, and who was started with something else.
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
pub struct Difference {
    /// Its name on the command line, without dashes.
    pub option: String,
    /// As this node was started.
    pub here: String,
    /// As the other one was.
    pub there: String,
}

/// One option that decides for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name on the command line, without dashes.
    pub option: &'static str,
    /// As this node was started. Of a secret something that only tells it from another one.
    pub value: String,
    /// That nobody is shown the value.
    pub is_secret: bool,
}

/// This node's options, and what others said of theirs. Clones share it.
#[derive(Clone, Default)]
pub struct Rules {
    own: Arc<[Rule]>,
    heard: Arc<Mutex<BTreeMap<NodeId, Vec<Difference>>>>,
}

impl Rules {
    /// With this node's own.
    pub fn new(own: Vec<Rule>) -> Self {
        Self { own: own.into(), heard: Arc::default() }
    }

    /// In what a node was started unlike this one, as far as it was heard since this process started.
    pub fn differing(&self, node: NodeId) -> Vec<Difference> {
        self.heard().get(&node).cloned().unwrap_or_default()
    }

    /// As others are told.
    pub(super) fn told(&self) -> HashMap<String, String> {
        self.own.iter().map(|rule| (rule.option.to_owned(), rule.value.clone())).collect()
    }

    /// Takes down what a member says, and says in this node's log when that is new. What it does not say, since its program is
    /// older, is not compared.
    pub(super) fn note(&self, node: NodeId, told: &HashMap<String, String>) {
        let differs = |rule: &Rule| {
            let there = told.get(rule.option).filter(|there| **there != rule.value)?;
            Some(difference(rule, there))
        };
        let found: Vec<Difference> = self.own.iter().filter_map(differs).collect();
        let mut heard = self.heard();
        let before = heard.entry(node).or_default();
        for new in found.iter().filter(|one| !before.contains(one)) {
            let Difference { option, here, there } = new;
            tracing::warn!(
                "node {node} was started with --{option} {there}, and this node with {here}: what the leader has counts for the whole \
                 cluster; start all nodes with the same"
            );
        }
        *before = found;
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Vec<Difference>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn difference(rule: &Rule, there: &str) -> Difference {
    let is_plain = (1..=VALUE_BYTES_MAX).contains(&there.len()) && there.bytes().all(|byte| byte.is_ascii_graphic());
    let (here, there) = match (rule.is_secret, is_plain) {
        (true, _) => ("its own", "another one"),
        (false, true) => (rule.value.as_str(), there),
        (false, false) => (rule.value.as_str(), "something else"),
    };
    Difference { option: rule.option.to_owned(), here: here.to_owned(), there: there.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(option: &'static str, value: &str) -> Rule {
        Rule { option, value: value.to_owned(), is_secret: option == "key" }
    }

    fn told(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(option, value)| ((*option).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_started_otherwise_is_known_until_that_is_mended() {
        let rules = Rules::new(vec![rule("builds", "2"), rule("patience", "6s"), rule("key", "#1")]);
        let (second, third) = (NodeId(2), NodeId(3));
        assert_eq!(rules.differing(second), []);
        rules.note(second, &Rules::new(vec![rule("builds", "4"), rule("patience", "6s"), rule("key", "#2")]).told());
        let shown: Vec<String> = rules
            .differing(second)
            .into_iter()
            .map(|Difference { option, here, there }| format!("{option} {here} {there}"))
            .collect();
        assert_eq!(shown, ["builds 2 4", "key its own another one"]);
        assert_eq!(rules.differing(third), []);
        rules.note(second, &rules.told());
        assert_eq!(rules.differing(second), []);
    }

    #[test]
    fn what_another_machine_says_is_not_repeated_when_it_is_no_plain_word() {
        let rules = Rules::new(vec![rule("builds", "2"), rule("patience", "6s")]);
        for strange in ["\x1b[2J", "4 5", &"9".repeat(65), ""] {
            rules.note(NodeId(2), &told(&[("builds", strange), ("unknown", "1")]));
            let found = rules.differing(NodeId(2));
            assert!(matches!(&found[..], [one] if one.there == "something else"), "{found:?}");
        }
        // An older program says nothing of what it does not know.
        rules.note(NodeId(2), &told(&[]));
        assert_eq!(rules.differing(NodeId(2)), []);
    }
}
