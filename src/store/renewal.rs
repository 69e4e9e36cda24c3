//! Stores that begin with a whole state instead of an empty log: of a new node from a backup, and of a node that goes on
//! alone after the majority was lost.
//!
//! A store is not changed in place. The new one is made in a folder of its own, complete and synced; a rename decides; then
//! its files take the places of the old ones, which are kept aside. Dying before the rename changes nothing, dying after
//! it is made good by whoever opens the store next.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};

use super::machine::Unwritten;
use super::raft_types::{Entry, LeaderId, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership, Vote};
use super::seal::sync_folder_of;
use super::state_writer::supports;
use super::{CLEAN_FILE, Error, Options, POSITION_FILE, RAFT_FILE, SNAPSHOT_FOLDER, STATE_FILE, Store, failpoint};
use crate::model::{NodeId, Timestamp};
use crate::state::State;

/// A renewed store that is being made.
const UNFINISHED: &str = "renewed.unfinished";
/// A complete one, whose files belong into the places of the old ones.
const RENEWED: &str = "renewed";
/// In it: the name of the folder that the old files are kept in.
const ASIDE_FILE: &str = "aside";
/// What a store consists of.
const PARTS: [&str; 5] = [STATE_FILE, RAFT_FILE, POSITION_FILE, SNAPSHOT_FOLDER, CLEAN_FILE];

/// What a store is to begin with.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The state.
    pub state: State,
    /// The log goes on after this index; larger than any before.
    pub index: u64,
    /// A term that no vote was given in.
    pub term: u64,
    /// Where the only member is reached: host and port between nodes.
    pub address: String,
}

/// What a node knows, from its own store alone.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The state with every entry of the log.
    pub state: State,
    /// Index of the last entry that the node knew to be agreed on.
    pub agreed: u64,
    /// Index of the last entry of its log: those between may have been agreed on, and may have been answered.
    pub last: u64,
    /// When the newest command in the log was proposed; absent when no command is left in it.
    pub newest_command: Option<Timestamp>,
    /// The newest term it has heard of.
    pub term: u64,
    /// Who led in it, if that was settled.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Every member, with host and port between nodes.
    pub members: BTreeMap<NodeId, String>,
}

impl Store {
    /// Makes a store in a folder that has none, with everything that it begins with on disk.
    pub async fn found(options: Options, seed: &Seed) -> Result<(), Error> {
        supports(&seed.state)?;
        let node = options.node.0;
        let store = open(options).await?;
        let last = LogId::new(LeaderId { term: seed.term, node_id: node }, seed.index);
        let membership = Membership::new(vec![BTreeSet::from([node])], Member::alone(node, &seed.address))
            .expect("the only voter is a member");
        let last_membership = StoredMembership::new(Some(last), membership);
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership };
        let (mut machine, mut log) = (store.machine(), store.log());
        // First: a state without a vote would be taken for a store that lost its log.
        log.save_vote(&Vote { leader_id: last.leader_id, committed: false }).await.map_err(|_| failed(&store))?;
        let (writer, state) = (machine.receive(&meta)?, seed.state.clone());
        let written = tokio::task::spawn_blocking(move || writer.state(&state)).await;
        let snapshot = written.unwrap_or(Err(Error::Defect))?;
        machine.install_snapshot(&meta, snapshot).await.map_err(|_| failed(&store))?;
        log.purge(last).await.map_err(|_| failed(&store))?;
        store.close().await
    }

    /// What the node knows. Changes nothing.
    pub async fn survey(&self) -> Result<Survey, Error> {
        let (mut applied, mut log) = (self.machine.applied(), self.log());
        let agreed = self.log.committed().max(applied.last);
        let vote = log.read_vote().await.map_err(|_| failed(self))?;
        let mut newest_command = None;
        loop {
            let from = applied.last.map_or(0, |last| last.index + 1);
            let read = log.limited_get_log_entries(from, u64::MAX).await;
            let entries: Vec<Entry> = read.map_err(|_| failed(self))?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                applied.take(entry, &mut Unwritten::default());
            }
        }
        for entry in log.try_get_log_entries(..).await.map_err(|_| failed(self))? {
            if let Payload::Normal(proposal) = &entry.payload {
                newest_command = newest_command.max(Some(proposal.entry().proposed_at));
            }
        }
        let membership = applied.membership.membership();
        let last_term = applied.last.map_or(0, |last| last.leader_id.term);
        let leader = vote.filter(|vote| vote.committed).map(|vote| NodeId(vote.leader_id.node_id));
        Ok(Survey {
            agreed: agreed.map_or(0, |id| id.index),
            last: applied.last.map_or(0, |last| last.index),
            newest_command,
            term: vote.map_or(0, |vote| vote.leader_id.term).max(last_term),
            leader,
            voters: membership.voter_ids().map(NodeId).collect(),
            members: membership.nodes().map(|(node, member)| (NodeId(*node), member.address.clone())).collect(),
            state: applied.state,
        })
    }

    /// Puts a store that begins with this into the place of the one in the folder, which must be closed. The old files go
    /// to `aside`, a new folder next to them.
    pub async fn renew(options: Options, seed: &Seed, aside: &str) -> Result<(), Error> {
        let folder = options.folder.clone();
        let unfinished = folder.join(UNFINISHED);
        remove_folder(&unfinished)?;
        Self::found(Options { folder: unfinished.clone(), ..options }, seed).await?;
        let note = unfinished.join(ASIDE_FILE);
        let io = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| Error::Io { path, doing, source }
        };
        fs::write(&note, aside).map_err(io(&note, "write"))?;
        fs::File::open(&note).and_then(|file| file.sync_all()).map_err(io(&note, "sync"))?;
        sync_folder_of(&note)?;
        failpoint::pass("renewal.written");
        rename(&unfinished, &folder.join(RENEWED))?;
        failpoint::pass("renewal.decided");
        finish_renewal(&folder)
    }
}

/// Finishes a renewal that was decided, and forgets one that was not. Whoever opens a store calls this first.
pub(super) fn finish_renewal(folder: &Path) -> Result<(), Error> {
    remove_folder(&folder.join(UNFINISHED))?;
    let renewed = folder.join(RENEWED);
    if !renewed.exists() {
        return Ok(());
    }
    let note = renewed.join(ASIDE_FILE);
    if note.exists() {
        let aside =
            fs::read_to_string(&note).map_err(|source| Error::Io { path: note.clone(), doing: "read", source })?;
        let aside = folder.join(aside);
        fs::create_dir_all(&aside).map_err(|source| Error::Io { path: aside.clone(), doing: "create", source })?;
        sync_folder_of(&aside)?;
        for part in PARTS {
            let (new, place) = (renewed.join(part), folder.join(part));
            // What is not there any more has its place already.
            if new.exists() {
                if place.exists() {
                    rename(&place, &aside.join(part))?;
                    failpoint::pass("renewal.moved");
                }
                rename(&new, &place)?;
                failpoint::pass("renewal.moved");
            }
        }
        fs::remove_file(&note).map_err(|source| Error::Io { path: note.clone(), doing: "remove", source })?;
        sync_folder_of(&note)?;
    }
    remove_folder(&renewed)
}

async fn open(options: Options) -> Result<Store, Error> {
    tokio::task::spawn_blocking(|| Store::open(options)).await.unwrap_or(Err(Error::Defect))
}

/// openraft's errors are texts; the store has noted the real one.
fn failed(store: &Store) -> Error {
    store.fatal().damage().unwrap_or(Error::Closed)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| Error::Io { path: from.to_owned(), doing: "rename", source })?;
    sync_folder_of(to)?;
    sync_folder_of(from)
}

fn remove_folder(path: &PathBuf) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { path: path.clone(), doing: "remove", source }),
    }
}

#[cfg(test)]
mod tests;
