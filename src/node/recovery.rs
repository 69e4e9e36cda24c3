//! A node that goes on alone after the majority of the voters was lost for good: what `recover` finds, says and does.
//!
//! What the node knows is all that is left, so its log is kept to its last entry, also where nobody can tell whether that was
//! agreed on. The others are removed in the very state that the node begins with: there is no moment in which they are heard.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::artifact::{self, ArtifactStore};
use crate::clock;
use crate::cluster::{DataDir, Identity};
use crate::consensus::Peer;
use crate::model::{ClusterId, NodeId};
use crate::rpc::{Presence, Probe};
use crate::space::Space;
use crate::state::{Beginning, Begun, State, begin_epoch};
use crate::store::{self, SealKey, Seed, Store, Survey};

use super::address;
use super::peer_port::authorities;
use super::removal;
use super::restoring::Losses;
use super::running::ARTIFACTS;

/// A recovery that is possible and not begun. Its folder is locked.
pub struct Recovery {
    dir: DataDir,
    identity: Identity,
    survey: Survey,
    begun: Begun,
    address: String,
    /// Who is where the other voters were last.
    presence: BTreeMap<NodeId, Presence>,
    /// Why the node is no member any more, when it was told that.
    ended: Option<String>,
    /// The services, as `app/service`, that need an image or an uploaded source which this node has no copy of.
    without_copies: Vec<String>,
}

/// Why there is nothing to recover, or not here.
#[derive(Debug, thiserror::Error)]
pub enum Unrecoverable {
    /// The node is the only voter.
    #[error("this node is the only one that votes: it decides alone already; start it with `narvana run`")]
    NotNeeded,
    /// The majority is there.
    #[error(
        "{0} can be reached: with the majority of its voters the cluster needs no recovery, start this node with `narvana run`; \
         if those are not to go on, stop them first"
    )]
    MajorityAnswers(String),
    /// The node has nothing to go on with.
    #[error("this node cannot be what the cluster goes on with: {0}; recover another one, or restore a backup")]
    Unfit(String),
}

impl Recovery {
    /// Looks at the node of a data folder whose program is stopped. Changes nothing.
    pub async fn look(data_dir: &Path) -> anyhow::Result<Self> {
        let (dir, identity) = DataDir::open(data_dir)?;
        let options = options(&dir, identity)?;
        let store = tokio::task::spawn_blocking(|| Store::open_existing(options)).await??;
        let survey = store.survey().await;
        store.close().await?;
        let survey = survey?;
        let beginning = Beginning::Recovered(identity.node);
        let begun = begin_epoch(&survey.state, survey.last, clock::now(), &beginning)
            .map_err(|rejection| Unrecoverable::Unfit(rejection.to_string()))?;
        let others = || survey.voters.iter().filter(|voter| **voter != identity.node);
        if others().next().is_none() {
            return Err(Unrecoverable::NotNeeded.into());
        }
        let addresses = others().filter_map(|voter| Some((*voter, survey.members.get(voter)?.clone())));
        let presence = who_is_there(&survey.state, identity.cluster, addresses).await?;
        let answering = presence.iter().filter(|(_, presence)| **presence == Presence::Itself).map(|(node, _)| *node);
        let answering: Vec<NodeId> = answering.collect();
        let own = usize::from(survey.voters.contains(&identity.node));
        if answering.len() + own > survey.voters.len() / 2 {
            let names: Vec<String> = answering.iter().map(|node| called(&survey, *node)).collect();
            return Err(Unrecoverable::MajorityAnswers(names.join(" and ")).into());
        }
        let kept = address::kept(&dir)?;
        let address = kept.or_else(|| survey.members.get(&identity.node).cloned());
        let address = address.context("it is not known where other nodes reach this one")?;
        let ended = removal::told(&dir)?;
        let artifacts = ArtifactStore::at_rest(Space::of(dir.path().join(ARTIFACTS)));
        let without = artifact::not_here(&artifacts, &survey.state).await;
        let without_copies = without.into_iter().filter_map(|service| survey.state.path_of(service)).collect();
        Ok(Self { dir, identity, survey, begun, address, presence, ended, without_copies })
    }

    /// Everything that somebody has to know before they say yes.
    pub fn statement(&self) -> String {
        let Self { survey, identity, .. } = self;
        let mut text = String::new();
        let mut line = |words: String| writeln!(text, "{words}").expect("a string takes everything");
        line(format!("{} goes on alone as cluster {}.", called(survey, identity.node), identity.cluster));
        if let Some(words) = &self.ended {
            line(format!("\nTHIS NODE WAS TOLD TO END: {words}"));
        }
        line("\nWhat it knows:".to_owned());
        let at = survey.newest_command.map_or_else(String::new, |at| format!(", whose newest change is of {at}"));
        line(format!("  its log ends with entry {} (term {}){at}", survey.last, survey.term));
        match survey.last.saturating_sub(survey.agreed) {
            0 => line("  all of that was agreed on by the majority".to_owned()),
            open => line(format!(
                "  the last {open} of these may not have been agreed on; they are kept: some of them may have been answered"
            )),
        }
        line(match survey.leader {
            Some(leader) => format!("  {} led", called(survey, leader)),
            None => "  who led is not known".to_owned(),
        });
        for voter in survey.voters.iter().filter(|voter| **voter != identity.node) {
            let state = match self.presence.get(voter) {
                Some(Presence::Itself) => "ANSWERS".to_owned(),
                Some(Presence::Another(why)) => format!("SOMETHING ANSWERS THERE that does not show to be it ({why})"),
                Some(Presence::Nobody) | None => "does not answer".to_owned(),
            };
            let place = survey.members.get(voter).map_or("", String::as_str);
            line(format!("  {} votes, at {place}: {state}", called(survey, *voter)));
        }
        line("\nWhat may be lost:".to_owned());
        line(format!("  every change that the others agreed on after entry {}", survey.last));
        let is_left_behind = |node: NodeId| node != identity.node;
        let losses = Losses::of(&survey.state, is_left_behind);
        for name in &losses.with_volumes {
            line(format!("  what the volumes of {name} held on the other nodes: it begins with empty ones"));
        }
        for name in &self.without_copies {
            line(format!(
                "  what was built or uploaded for {name}: this node has no copy; upload it and deploy it again"
            ));
        }
        line("\nWhat happens:".to_owned());
        let left: Vec<String> = self.left_behind().map(|node| called(survey, node)).collect();
        line(format!("  removed for ever: {}; whatever of them comes back is refused and ends", left.join(", ")));
        let moving = survey.state.live_instances().filter(|instance| is_left_behind(instance.placement.node)).count();
        line(format!("  {moving} instances of theirs are lost and start where there is room"));
        line("  join tokens are revoked; log-ins stay".to_owned());
        text.push_str(&format!("  the old store is kept in {}", self.aside().display()));
        text
    }

    fn left_behind(&self) -> impl Iterator<Item = NodeId> {
        self.begun.state.epoch().into_iter().flat_map(|epoch| epoch.left_behind.keys().copied())
    }

    /// Where the old store will be.
    pub fn aside(&self) -> PathBuf {
        self.dir.path().join(self.aside_name())
    }

    fn aside_name(&self) -> String {
        free_name(self.dir.path(), self.begun.state.epoch().map_or(0, |epoch| epoch.number))
    }

    /// Makes the node the only member of its cluster.
    pub async fn carry_out(self) -> anyhow::Result<()> {
        let aside = self.aside_name();
        // Before: a node that has begun anew must not end by what it was told before that.
        removal::forget(&self.dir)?;
        let Begun { state, index, .. } = self.begun;
        let seed = Seed { state, index, term: self.survey.term + 1, address: self.address };
        Store::renew(options(&self.dir, self.identity)?, &seed, &aside).await?;
        Ok(())
    }
}

/// A name that nothing in the folder has: what an earlier recovery kept is not touched by one that somebody began over.
fn free_name(folder: &Path, epoch: u64) -> String {
    let names = (1_u32..).map(|time| match time {
        1 => format!("before-epoch-{epoch}"),
        time => format!("before-epoch-{epoch}-{time}"),
    });
    let mut free = names.filter(|name| !folder.join(name).exists());
    free.next().expect("a folder holds fewer files than there are numbers")
}

fn options(dir: &DataDir, identity: Identity) -> anyhow::Result<store::Options> {
    Ok(store::Options {
        folder: dir.path().to_owned(),
        cluster: identity.cluster,
        node: identity.node,
        key: SealKey::load(&dir.path().join(store::KEY_FILE))?,
        fatal: CancellationToken::new(),
    })
}

fn called(survey: &Survey, node: NodeId) -> String {
    let name = survey.state.node(node).map(|known| known.name.clone());
    let name = name.or_else(|| survey.state.admission(node).map(|known| known.name.clone()));
    name.map_or_else(|| format!("node {node}"), |name| format!("{name} (node {node})"))
}

/// Who is where these nodes of the state's cluster were last.
pub(super) async fn who_is_there(
    state: &State,
    cluster: ClusterId,
    nodes: impl Iterator<Item = (NodeId, String)>,
) -> anyhow::Result<BTreeMap<NodeId, Presence>> {
    let known = state.cluster().context("the state holds no cluster")?;
    let probe = Probe::new(cluster, &authorities(known.trusted().as_bytes())?)?;
    let looks = nodes.map(async |(node, address)| (node, probe.look(&Peer { node, address }).await));
    Ok(join_all(looks).await.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_before_is_not_touched() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["before-epoch-1", "before-epoch-1-2", "before-epoch-1-3"] {
            assert_eq!(free_name(folder.path(), 1), name);
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        assert_eq!(free_name(folder.path(), 2), "before-epoch-2");
    }
}
