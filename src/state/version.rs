//! What the version of the cluster permits, and who keeps it from a later one.

use crate::model::{Admission, NodeId, OLDEST_CLUSTER_VERSION};

use super::{Command, Rejection, State};

/// A later version of the cluster that some members support already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The newest that any of them does.
    pub to: u32,
    /// Members that do not.
    pub waits_for: Vec<HeldBack>,
}

/// A member that does not support a version, as far as is on record: one that is away counts like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// Which.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The version of its program and the newest cluster version that supports, as it said at its last start; absent when it has
    /// never come up, or is being removed.
    pub program: Option<(String, u32)>,
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, name, program } = self;
        match program {
            Some((version, newest)) => {
                write!(f, "node {node} {name} (narvana {version}, supports cluster version {newest})")
            }
            None => write!(f, "node {node} {name} (has not said what it supports)"),
        }
    }
}

impl State {
    /// The version that the cluster is at.
    pub fn cluster_version(&self) -> u32 {
        self.cluster().map_or(OLDEST_CLUSTER_VERSION, |cluster| cluster.cluster_version)
    }

    /// The members that do not support a version. One that is being removed is among them until it hears no entry any more.
    pub fn held_back(&self, version: u32) -> impl Iterator<Item = HeldBack> {
        let hears = |member: &&std::sync::Arc<Admission>| member.fenced_at.is_none();
        self.admissions().filter(hears).filter_map(move |member| {
            let program = self.node(member.node).map(|node| (node.version.clone(), node.cluster_version_max));
            let lacks = program.as_ref().is_none_or(|(_, newest)| *newest < version);
            lacks.then(|| HeldBack { node: member.node, name: member.name.clone(), program })
        })
    }

    /// The later version that members are being upgraded to, if any supports one.
    pub fn upgrade(&self) -> Option<Upgrade> {
        let to = self.nodes().map(|node| node.cluster_version_max).max()?;
        (to > self.cluster_version()).then(|| Upgrade { to, waits_for: self.held_back(to).collect() })
    }

    /// Refuses a command that not every member would understand. Asked before it is put into the log: afterwards is too late.
    ///
    /// # Errors
    /// Names the version and who has to be upgraded for it.
    pub fn permits(&self, command: &Command) -> Result<(), Rejection> {
        let (needed, now) = (command.since(), self.cluster_version());
        if needed <= now {
            return Ok(());
        }
        let waits: Vec<String> = self.held_back(needed).map(|member| member.to_string()).collect();
        let fix = match waits.is_empty() {
            true => "every node supports it, so that it is raised in a moment: try again".to_owned(),
            false => format!("upgrade narvana on {}", waits.join(", ")),
        };
        Err(Rejection::Precondition(format!(
            "this needs cluster version {needed}, and the cluster is at version {now}: {fix}"
        )))
    }
}
