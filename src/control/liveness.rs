//! Hears who answers while this node leads, and puts on record who does not.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{changed_or, propose};
use crate::consensus::{Consensus, View};
use crate::decide::liveness::{Heard, Liveness};
use crate::model::NodeId;
use crate::planted::{self, Bug};

/// How often a group of one is looked at: there is nobody to hear until the state brings somebody.
const LOOK_ALONE_EVERY: Duration = Duration::from_secs(10);

/// Listens while this node leads in this term. Tells through `fenced` which nodes have stopped what must not run twice.
/// May be dropped at any time: all that it knows is of this term.
pub(super) async fn listen(
    consensus: &Consensus,
    term: u64,
    threshold: Duration,
    fenced: &watch::Sender<BTreeSet<NodeId>>,
) {
    let began = Instant::now();
    let mut liveness = Liveness::new(threshold);
    let mut views = consensus.watch();
    while let Some(group) = consensus.group().filter(|group| group.term == term) {
        let View { state, .. } = views.borrow_and_update().clone();
        let heard = Heard {
            at: began.elapsed(),
            leader: group.leader,
            silent_for: &group.members.iter().map(|(node, member)| (*node, member.silent_for)).collect(),
            voters: &group.members.iter().filter(|(_, member)| member.votes).map(|(node, _)| *node).collect(),
        };
        let mut findings = liveness.look(&state, &heard);
        if planted::is(Bug::NoFence) {
            let silent = |node: &NodeId| state.absence(*node).is_some();
            findings.fenced.extend(state.admissions().map(|admission| admission.node).filter(silent));
        }
        fenced.send_if_modified(|known| {
            let changed = *known != findings.fenced;
            known.clone_from(&findings.fenced);
            changed
        });
        let known = findings.fenced;
        for command in findings.commands {
            tracing::info!(?command, "a node stopped or began to answer");
            if let Some(index) = propose(consensus, term, command).await {
                // Not to be found twice.
                let _ = consensus.wait_index(index, Instant::now() + threshold).await;
            }
        }
        let alone = Liveness::is_alone(&state, group.members.len(), &known);
        if alone {
            changed_or(&mut views, LOOK_ALONE_EVERY).await;
        } else {
            tokio::time::sleep(liveness.look_every()).await;
        }
    }
}
