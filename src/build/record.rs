//! What a builder puts on record of a build before it ends. A build goes on without that.

use std::time::Duration;

use crate::clock;
use crate::consensus::{Consensus, ProposeError};
use crate::model::Lease;
use crate::state::{Actor, Command, LogEntry};

/// How often a leader is told that does not answer, and with which pause.
const TELLS_MAX: u32 = 4;
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Says something of a build that this node works on. Whether it is on record, and seen here; not so where an older member is there.
pub(super) async fn put_on_record(consensus: &Consensus, lease: Lease, command: &Command) -> bool {
    for _ in 0..TELLS_MAX {
        if consensus.latest().state.permits(command).is_err() {
            return false;
        }
        let (actor, command) = (Actor::Node(lease.node), command.clone());
        let entry = LogEntry { proposed_at: clock::now(), actor, request: None, command };
        match consensus.propose(entry).await {
            Ok(_) => return true,
            Err(ProposeError::Rejected(_)) => return false,
            Err(error) => tracing::debug!(%error, "what is said of a build was not acknowledged"),
        }
        tokio::time::sleep(TELL_AGAIN_AFTER).await;
    }
    false
}
