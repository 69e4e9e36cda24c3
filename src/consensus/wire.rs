//! Raft's messages as they travel, to and from openraft's own types.

use narvana_proto::v1::{self, append_reply, transfer_reply};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::model::Unsupported;
use crate::store::{self, LeaderId, LogId, Proposal, TypeConfig, Unreadable, Vote};

/// Elections that others may have had without this node: one in each second for a hundred years. A term that is far ahead is made up,
/// and would end the group: when all terms are used up nobody can be elected any more.
const TERMS_AHEAD_MAX: u64 = 1 << 32;

/// A message that makes no sense. Whoever sent it is newer than this program, or not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// A field is not there.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// A payload would not fit the log.
    #[error("the message has a command of {bytes} bytes, at most {limit} fit")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A payload cannot be read.
    #[error("the message has a payload that cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    /// No group has had so many elections.
    #[error("the message is of term {term}, and {known} is known here: no group has so many elections")]
    Term {
        /// Of which.
        term: u64,
        /// The newest here.
        known: u64,
    },
    /// A reply to something else than what was sent.
    #[error("the reply speaks of entries of the log that it was not asked about")]
    Unasked,
    /// The caller takes back what it has acknowledged.
    #[error("it lacks entry {index} of the log, and had acknowledged all up to {agreed}: its store has lost some")]
    Reverted {
        /// Which.
        index: u64,
        /// The last one.
        agreed: u64,
    },
}

impl Malformed {
    /// That this program is too old for the message, if that is it.
    pub(super) fn unsupported(&self) -> Option<Unsupported> {
        match self {
            Self::Unreadable(Unreadable::Unsupported(unsupported)) => Some(*unsupported),
            _ => None,
        }
    }
}

pub(super) fn ballot(vote: &Vote) -> v1::Ballot {
    v1::Ballot { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// A ballot that somebody says, where this term is known.
pub(super) fn vote(ballot: Option<v1::Ballot>, known: u64) -> Result<Vote, Malformed> {
    let ballot = ballot.ok_or(Malformed::Missing("ballot"))?;
    if ballot.term.saturating_sub(known) > TERMS_AHEAD_MAX {
        return Err(Malformed::Term { term: ballot.term, known });
    }
    let leader_id = LeaderId { term: ballot.term, node_id: ballot.node };
    Ok(Vote { leader_id, committed: ballot.committed })
}

fn position(id: LogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

fn log_id(position: v1::LogId) -> LogId {
    LogId::new(LeaderId { term: position.term, node_id: position.leader }, position.index)
}

pub(super) fn append_request(request: &AppendEntriesRequest<TypeConfig>) -> Result<v1::AppendRequest, store::Error> {
    Ok(v1::AppendRequest {
        ballot: Some(ballot(&request.vote)),
        previous: request.prev_log_id.map(position),
        committed: request.leader_commit.map(position),
        entries: request.entries.iter().map(store::encode_entry).collect::<Result<_, _>>()?,
    })
}

pub(super) fn append_entries(
    request: v1::AppendRequest,
    known: u64,
) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    Ok(AppendEntriesRequest {
        vote: vote(request.ballot, known)?,
        prev_log_id: request.previous.map(log_id),
        leader_commit: request.committed.map(log_id),
        entries: request.entries.iter().map(|entry| store::decode_entry(entry)).collect::<Result<_, _>>()?,
    })
}

/// A command that another member passes on.
pub(super) fn proposal(command: bytes::Bytes) -> Result<Proposal, Malformed> {
    if command.len() > store::ENTRY_BYTES_MAX {
        return Err(Malformed::TooLarge { bytes: command.len(), limit: store::ENTRY_BYTES_MAX });
    }
    Ok(Proposal::from_bytes(command)?)
}

pub(super) fn append_reply(result: StreamAppendResult<TypeConfig>) -> v1::AppendReply {
    let result = match result {
        Ok(last) => append_reply::Result::Matching(v1::Matching { last: last.map(position) }),
        Err(StreamAppendError::Conflict(at)) => append_reply::Result::Conflict(position(at)),
        Err(StreamAppendError::HigherVote(vote)) => append_reply::Result::Higher(ballot(&vote)),
    };
    v1::AppendReply { result: Some(result) }
}

pub(super) fn append_result(reply: v1::AppendReply, known: u64) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    Ok(match reply.result.ok_or(Malformed::Missing("result"))? {
        append_reply::Result::Matching(matching) => Ok(matching.last.map(log_id)),
        append_reply::Result::Conflict(at) => Err(StreamAppendError::Conflict(log_id(at))),
        append_reply::Result::Higher(higher) => Err(StreamAppendError::HigherVote(vote(Some(higher), known)?)),
    })
}

pub(super) fn vote_request(request: &VoteRequest<TypeConfig>, pre_vote: bool) -> v1::VoteRequest {
    v1::VoteRequest {
        ballot: Some(ballot(&request.vote)),
        last: request.last_log_id.map(position),
        pre_vote,
        transfer: request.leadership_transfer,
    }
}

pub(super) fn request_for_vote(request: &v1::VoteRequest, known: u64) -> Result<VoteRequest<TypeConfig>, Malformed> {
    Ok(VoteRequest {
        vote: vote(request.ballot, known)?,
        last_log_id: request.last.map(log_id),
        leadership_transfer: request.transfer,
    })
}

pub(super) fn vote_reply(response: &VoteResponse<TypeConfig>) -> v1::VoteReply {
    v1::VoteReply {
        ballot: Some(ballot(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.map(position),
    }
}

pub(super) fn vote_response(reply: v1::VoteReply, known: u64) -> Result<VoteResponse<TypeConfig>, Malformed> {
    Ok(VoteResponse {
        vote: vote(reply.ballot, known)?,
        vote_granted: reply.granted,
        last_log_id: reply.last.map(log_id),
    })
}

pub(super) fn transfer_request(request: &TransferLeaderRequest<TypeConfig>) -> v1::TransferRequest {
    v1::TransferRequest {
        ballot: Some(ballot(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(position),
    }
}

pub(super) fn request_to_lead(
    request: v1::TransferRequest,
    known: u64,
) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    Ok(TransferLeaderRequest::new(vote(request.ballot, known)?, request.to, request.last.map(log_id)))
}

pub(super) fn transfer_reply(response: TransferLeaderResponse<TypeConfig>) -> v1::TransferReply {
    let result = match response {
        Ok(()) => transfer_reply::Result::Accepted(v1::TransferAccepted {}),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => transfer_reply::Result::Ballot(ballot(&actual)),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            transfer_reply::Result::Log(v1::Matching { last: actual.map(position) })
        }
    };
    v1::TransferReply { result: Some(result) }
}

/// The answer to this request.
pub(super) fn transfer_response(
    request: &TransferLeaderRequest<TypeConfig>,
    reply: v1::TransferReply,
) -> Result<TransferLeaderResponse<TypeConfig>, Malformed> {
    Ok(match reply.result.ok_or(Malformed::Missing("result"))? {
        transfer_reply::Result::Accepted(v1::TransferAccepted {}) => Ok(()),
        transfer_reply::Result::Ballot(other) => {
            let expected = *request.from_leader();
            Err(TransferLeaderError::VoteChanged { expected, actual: vote(Some(other), expected.leader_id.term)? })
        }
        transfer_reply::Result::Log(log) => {
            let expected = request.last_log_id().copied();
            Err(TransferLeaderError::LogNotFlushed { expected, actual: log.last.map(log_id) })
        }
    })
}
