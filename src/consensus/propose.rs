//! Commands on their way into the log: here when this node leads, else through the node that does.

use std::path::PathBuf;
use std::time::Duration;

use narvana_proto::v1::{self, propose_reply};
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::impls::ProgressResponder;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Consensus, LEADER_PAUSE, Peer, ProposeError, TransportError, another_leads, known_leader, leader_of};
use crate::model::NodeId;
use crate::space::{Full, Use};
use crate::state::{Actor, LogEntry, Outcome};
use crate::store::{self, Answer, LeaderId, Proposal, Response};

/// An accepted command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its index in the log: a read at this index or later sees it.
    pub index: u64,
    /// The answer.
    pub outcome: Outcome,
}

/// Time that an attempt gets at least: one that is cut off leaves it unknown what became of it, where it was known before that
/// nothing did.
const TRY_MIN: Duration = Duration::from_millis(200);

impl Consensus {
    /// Puts a command into the log, through whichever node leads, and waits for the state's answer, and until this node
    /// has it in its own state. Waits for a leader when there is none at the moment.
    pub async fn propose(&self, entry: LogEntry) -> Result<Committed, ProposeError> {
        if self.stop.is_cancelled() {
            return Err(ProposeError::Stopped);
        }
        self.space.check(wanted(&entry))?;
        self.permits(&entry)?;
        let repeatable = entry.request.is_some();
        let proposal = proposal(entry)?;
        let deadline = Instant::now() + self.patience;
        let mut doubtful = false;
        loop {
            let known = known_leader(&self.raft);
            let (leader, address) = match self.propose_here(proposal.clone(), None, deadline).await {
                Err(ProposeError::NoLeader { leader, address }) => (leader, address),
                answered => return sure(answered, doubtful),
            };
            let told = self.roll.leader(Instant::now());
            if let Some(peer) = told.or_else(|| self.elsewhere(leader, address.as_ref())) {
                // What cannot be repeated waits for its answer: it may be on its way.
                let answered = tokio::select! {
                    answered = self.propose_there(&peer, &proposal, deadline) => answered,
                    () = another_leads(&self.raft, known, peer.node), if repeatable => Err(ProposeError::OutcomeUnknown),
                };
                match answered {
                    Err(ProposeError::NoLeader { .. }) => {}
                    // Its repetition gets the same answer, so asking again is safe.
                    Err(ProposeError::OutcomeUnknown) if repeatable => doubtful = true,
                    Ok(committed) => return self.seen_here(committed, deadline).await,
                    answered => return sure(answered, doubtful),
                }
            }
            if Instant::now() + LEADER_PAUSE + TRY_MIN >= deadline || self.stop.is_cancelled() {
                return Err(if doubtful {
                    ProposeError::OutcomeUnknown
                } else {
                    ProposeError::NoLeader { leader, address }
                });
            }
            sleep(LEADER_PAUSE).await;
        }
    }

    /// The same only while this node leads in this term, and never through another one: what a leader decided must not become
    /// true under the next.
    pub async fn propose_in_term(&self, term: u64, entry: LogEntry) -> Result<Committed, ProposeError> {
        self.space.check(wanted(&entry))?;
        self.permits(&entry)?;
        self.propose_here(proposal(entry)?, Some(term), Instant::now() + self.patience).await
    }

    /// Keeps out of the log what a member of an older version would not understand.
    fn permits(&self, entry: &LogEntry) -> Result<(), ProposeError> {
        self.view.borrow().state.permits(&entry.command).map_err(ProposeError::Rejected)
    }

    /// An answer from elsewhere, once this node has it too: whoever asked goes on to read here.
    async fn seen_here(&self, committed: Committed, deadline: Instant) -> Result<Committed, ProposeError> {
        match self.wait_index(committed.index, deadline).await {
            Ok(_) => Ok(committed),
            Err(_) => Err(ProposeError::NotYetHere { index: committed.index }),
        }
    }

    /// The same as a node that asked this one because it leads: not passed on again.
    pub(super) async fn propose_for_another(&self, proposal: Proposal) -> v1::ProposeReply {
        let room = self.space.check(wanted(proposal.entry())).map_err(ProposeError::DiskFull);
        let asked = match room.and_then(|()| self.permits(proposal.entry())) {
            Err(refusal) => Err(refusal),
            Ok(()) => self.propose_here(proposal, None, Instant::now() + self.patience).await,
        };
        let result = match asked {
            Ok(Committed { index, outcome }) => propose_reply::Result::Answer(encode(index, Ok(outcome))),
            Err(ProposeError::Rejected(rejection)) => propose_reply::Result::Answer(encode(0, Err(rejection))),
            Err(ProposeError::DiskFull(full)) => propose_reply::Result::DiskFull(v1::DiskFull {
                folder: full.folder.display().to_string(),
                free: full.free,
                needed: full.needed,
            }),
            Err(ProposeError::OutcomeUnknown | ProposeError::NotYetHere { .. }) => {
                propose_reply::Result::Unknown(v1::OutcomeUnknown {})
            }
            Err(ProposeError::NoLeader { .. } | ProposeError::Stopped | ProposeError::TooLarge { .. }) => {
                propose_reply::Result::NotLeading(v1::NotLeading {})
            }
        };
        v1::ProposeReply { result: Some(result) }
    }

    /// The node that leads, if it is another one and its address is known.
    pub(super) fn elsewhere(&self, leader: Option<NodeId>, address: Option<&String>) -> Option<Peer> {
        let node = leader.filter(|node| *node != self.node)?;
        Some(Peer { node, address: address?.clone() })
    }

    async fn propose_here(
        &self,
        proposal: Proposal,
        term: Option<u64>,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        // What a leader takes that nobody follows may become true much later, so that it could not be said what becomes of it.
        if self.leads_nobody() {
            return Err(ProposeError::NoLeader { leader: None, address: None });
        }
        let write = async {
            let (responder, answer) = ProgressResponder::complete_only();
            let mut write = self.raft.write(proposal).responder(responder);
            if let Some(term) = term {
                write = write.with_leader(LeaderId { term, node_id: self.node.0 });
            }
            write.await.map_err(RaftError::Fatal)?;
            // Whoever drops the question has stopped.
            answer.await.map_err(|_| RaftError::Fatal(Fatal::Stopped))?.map_err(RaftError::APIError)
        };
        match timeout_at(deadline, write).await {
            Ok(Ok(written)) => match written.data {
                Response::Command { index, result: Ok(outcome) } => Ok(Committed { index, outcome }),
                Response::Command { result: Err(rejection), .. } => Err(ProposeError::Rejected(rejection)),
                Response::Internal => Err(ProposeError::OutcomeUnknown),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                let (leader, address) = leader_of(&forward);
                Err(ProposeError::NoLeader { leader, address })
            }
            // Whether a stopping node took it first cannot be told.
            Ok(Err(RaftError::Fatal(_) | RaftError::APIError(_))) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    async fn propose_there(
        &self,
        peer: &Peer,
        proposal: &Proposal,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        let request = v1::ProposeRequest { command: proposal.bytes().clone() };
        let reply = match timeout_at(deadline, self.transport.propose(peer, request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(TransportError::Unreachable { sent: false, .. })) => {
                return Err(ProposeError::NoLeader { leader: Some(peer.node), address: Some(peer.address.clone()) });
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a command was not answered");
                return Err(ProposeError::OutcomeUnknown);
            }
            Err(_) => return Err(ProposeError::OutcomeUnknown),
        };
        match reply.result {
            Some(propose_reply::Result::Answer(bytes)) => match store::decode_answer(&bytes) {
                Ok(Answer { index, result: Ok(outcome) }) => Ok(Committed { index, outcome }),
                Ok(Answer { result: Err(rejection), .. }) => Err(ProposeError::Rejected(rejection)),
                Err(error) => {
                    tracing::warn!(%error, node = %peer.node, "the leader's answer cannot be read");
                    Err(ProposeError::OutcomeUnknown)
                }
            },
            Some(propose_reply::Result::DiskFull(full)) => Err(ProposeError::DiskFull(Full {
                folder: PathBuf::from(full.folder),
                free: full.free,
                needed: full.needed,
            })),
            Some(propose_reply::Result::NotLeading(_)) => Err(ProposeError::NoLeader { leader: None, address: None }),
            Some(propose_reply::Result::Unknown(v1::OutcomeUnknown {})) | None => Err(ProposeError::OutcomeUnknown),
        }
    }
}

/// Once an attempt got no answer, a later one that was not taken does not mean that nothing changed.
fn sure(answered: Result<Committed, ProposeError>, doubtful: bool) -> Result<Committed, ProposeError> {
    match answered {
        Err(error) if doubtful && !matches!(error, ProposeError::Rejected(_)) => Err(ProposeError::OutcomeUnknown),
        answered => answered,
    }
}

fn wanted(entry: &LogEntry) -> Use {
    match entry.actor {
        Actor::User(_) | Actor::Anonymous if !entry.command.makes_room() => Use::Changes,
        _ => Use::Records,
    }
}

fn proposal(entry: LogEntry) -> Result<Proposal, ProposeError> {
    Proposal::new(entry).map_err(|error| match error {
        store::Error::TooLarge { bytes, limit } => ProposeError::TooLarge { bytes, limit },
        // A command that cannot be encoded is larger still than one that does not fit.
        _ => ProposeError::TooLarge { bytes: usize::MAX, limit: store::ENTRY_BYTES_MAX },
    })
}

fn encode(index: u64, result: Result<Outcome, crate::state::Rejection>) -> bytes::Bytes {
    store::encode_answer(&Answer { index, result }).expect("an answer is stored with its request, so it can be encoded")
}
