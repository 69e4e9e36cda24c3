//! Who calls, whether it may, and what it is told when something is wrong.

use std::pin::pin;

use async_stream::stream;
use futures::StreamExt;
use futures::stream::BoxStream;
use narvana_proto::v1;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::stream::{ADMIT_EVERY, Caller};
use super::{Admit, Refusal, Witness};
use crate::consensus::ReceiveError;
use crate::model::{Incarnation, NodeId, NodeRole};

/// A member that calls: it showed its certificate, and was not removed when it began to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) node: NodeId,
    /// Which process of it.
    pub(super) run: Incarnation,
}

/// Why a process neither sends nor answers what Raft says.
pub(super) const NO_PART: &str =
    "this process takes no part in Raft: it has not introduced itself to everybody, or was refused";

/// Lets members through, before anything that they send is read. A caller that was removed, or whose place another process
/// took, is told so by a [`Refusal`]: it ends by that.
pub(super) fn members(admit: Admit, witness: Witness) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| let_in(request, &admit, &witness, |_, _| Ok(()))
}

/// Lets members through that may lead, since nobody else has a reason to send what leaders send, once this process takes part.
pub(super) fn leaders(admit: Admit, witness: Witness) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let request = let_in(request, &admit, &witness, may_lead)?;
        takes_part(&witness).map(|()| request)
    }
}

/// Whether this process may answer what Raft says.
pub(super) fn takes_part(witness: &Witness) -> Result<(), Status> {
    if witness.takes_part() { Ok(()) } else { Err(Status::unavailable(NO_PART)) }
}

fn let_in(
    mut request: Request<()>,
    admit: &Admit,
    witness: &Witness,
    rule: impl Fn(NodeId, NodeRole) -> Result<(), Status>,
) -> Result<Request<()>, Status> {
    let caller = request.extensions().get::<Caller>();
    let Some((node, run)) = caller.and_then(|caller| caller.node.zip(caller.run)) else {
        return Err(Status::unauthenticated("only members of the cluster may call this, with their certificate"));
    };
    rule(node, admit(node).map_err(Refusal::end)?)?;
    witness.is_current(node, run)?;
    request.extensions_mut().insert(Member { node, run });
    Ok(request)
}

/// Whether a node of this role may campaign and lead.
pub(super) fn may_lead(node: NodeId, role: NodeRole) -> Result<(), Status> {
    match role {
        NodeRole::VoterEligible => Ok(()),
        NodeRole::Worker => {
            Err(Status::failed_precondition(format!("node {node} joined as a worker: it neither votes nor leads")))
        }
    }
}

/// Returns when the caller of an open stream is no member any more, with what it is told.
pub(super) async fn until_removed(admit: &Admit, node: NodeId) -> Status {
    loop {
        if let Err(reason) = admit(node) {
            return Refusal::end(reason).into();
        }
        tokio::time::sleep(ADMIT_EVERY).await;
    }
}

/// Answers to a member that end with an error, never as if they were complete, when it is none any more or this node stops.
pub(super) fn while_member<T: Send + 'static>(
    mut answers: BoxStream<'static, Result<T, Status>>,
    caller: NodeId,
    admit: Admit,
    stop: CancellationToken,
) -> BoxStream<'static, Result<T, Status>> {
    let answers = stream! {
        let mut removed = pin!(until_removed(&admit, caller));
        loop {
            let answer = tokio::select! {
                biased;
                status = &mut removed => Some(Err(status)),
                () = stop.cancelled() => Some(Err(Status::unavailable("this node stops"))),
                answer = answers.next() => answer,
            };
            let Some(answer) = answer else { break };
            let last = answer.is_err();
            yield answer;
            if last {
                break;
            }
        }
    };
    answers.boxed()
}

/// The member that [`members`] or [`leaders`] let through.
pub(super) fn member<T>(request: &Request<T>) -> Result<NodeId, Status> {
    process(request).map(|member| member.node)
}

/// The same, with its process.
pub(super) fn process<T>(request: &Request<T>) -> Result<Member, Status> {
    request.extensions().get().copied().ok_or_else(|| Status::internal("the caller is unknown"))
}

/// A ballot is its owner's: nobody leads, campaigns or steps aside in another node's name.
pub(super) fn check_ballot(ballot: Option<v1::Ballot>, caller: NodeId) -> Result<(), Status> {
    match ballot {
        Some(ballot) if ballot.node == caller.0 => Ok(()),
        Some(ballot) => Err(Status::failed_precondition(format!(
            "node {caller} sent a message in the name of node {}",
            ballot.node
        ))),
        None => Err(Status::invalid_argument("the message has no ballot")),
    }
}

pub(super) fn status(error: &ReceiveError) -> Status {
    match error {
        ReceiveError::Malformed(_) | ReceiveError::Snapshot(_) => Status::invalid_argument(error.to_string()),
        ReceiveError::Impostor(_) => Status::failed_precondition(error.to_string()),
        ReceiveError::DiskFull(_) => Status::resource_exhausted(error.to_string()),
        ReceiveError::Store(_) => Status::internal(error.to_string()),
        ReceiveError::Stopped(_) => Status::unavailable(error.to_string()),
    }
}
