//! Who calls, whether it may, and what it is told when something is wrong.

use narvana_proto::v1;
use tonic::{Request, Status};

use super::Admission;
use super::stream::Caller;
use crate::consensus::ReceiveError;
use crate::model::NodeId;

/// Who called, if it may.
pub(super) fn caller<T>(request: &Request<T>, admission: &Admission) -> Result<NodeId, Status> {
    let Caller(node) = request.extensions().get().copied().ok_or_else(|| Status::internal("the caller is unknown"))?;
    admission(node).map_err(Status::permission_denied)?;
    Ok(node)
}

/// A ballot is its owner's: nobody leads, campaigns or steps aside in another node's name.
pub(super) fn check_ballot(ballot: Option<v1::Ballot>, caller: NodeId) -> Result<(), Status> {
    match ballot {
        Some(ballot) if ballot.node == caller.0 => Ok(()),
        Some(ballot) => {
            Err(Status::permission_denied(format!("node {caller} sent a message in the name of node {}", ballot.node)))
        }
        None => Err(Status::invalid_argument("the message has no ballot")),
    }
}

pub(super) fn status(error: &ReceiveError) -> Status {
    match error {
        ReceiveError::Malformed(_) | ReceiveError::Snapshot(_) => Status::invalid_argument(error.to_string()),
        ReceiveError::DiskFull(_) => Status::resource_exhausted(error.to_string()),
        ReceiveError::Store(_) => Status::internal(error.to_string()),
        ReceiveError::Stopped(_) => Status::unavailable(error.to_string()),
    }
}
