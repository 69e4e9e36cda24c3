//! Explanations of what a caller may see. The words are made by `decide`, which needs the whole state to make them.

use std::collections::BTreeSet;

use crate::decide::{self, Situation, explain};
use crate::model::{App, Deployment, Instance, Timestamp};

use super::Scoped;

macro_rules! explained {
    ($($type:ty => $explain:path;)*) => {$(
        impl Scoped<$type> {
            /// Why it is as it is, the most important line first.
            pub fn explain(&self, options: &decide::Options, now: Timestamp) -> Vec<String> {
                // Only the leader knows of more; nothing of it is said before it has led to something.
                let fenced = BTreeSet::new();
                let situation = Situation { state: self.state(), now, fenced: &fenced, options };
                $explain(situation, self.id).map(|explanation| explanation.lines).unwrap_or_default()
            }
        }
    )*};
}

explained! {
    App => explain::explain_app;
    Deployment => explain::explain_deployment;
    Instance => explain::explain_instance;
}
