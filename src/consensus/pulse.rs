//! When openraft looks at its clock. Left to itself it does so twenty times a second on every member, to find that nothing is to
//! be done. Here a leader is told when its followers wait for a sign of life, and the clock of the other voters runs only while
//! the leader is silent: an idle member is woken by what the leader sends, and by little else.

use std::convert::Infallible;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Options, Raft, Roll, ServerMetrics};

pub(super) struct Pulse {
    raft: Raft,
    roll: Roll,
    rhythm: Rhythm,
}

struct Rhythm {
    /// Between two signs of life of a leader.
    heartbeat: Duration,
    /// Nobody campaigns sooner after the leader was heard: openraft lets its lease pass, which is the longest time-out, and then
    /// a time-out.
    patience: Duration,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// openraft's clock runs.
    clock: bool,
    /// The followers get a sign of life.
    heartbeat: bool,
    /// Until when nothing else is due, unless the part of this node changes.
    pause: Duration,
}

#[derive(Clone, Copy)]
enum Part {
    /// No one to send heartbeats to, and no one else to be elected.
    LeadsAlone,
    Leads,
    Follows,
    /// Never campaigns, and hears its leader less often.
    Learns,
}

impl Part {
    fn of(metrics: &ServerMetrics) -> Self {
        let mut members = metrics.membership_config.membership().nodes();
        // One that was a voter until now may campaign until that is agreed on.
        let mut voters = metrics.committed_membership_config.membership().voter_ids();
        match metrics.state {
            ServerState::Learner if voters.all(|voter| voter != metrics.id) => Self::Learns,
            ServerState::Leader if members.all(|(member, _)| *member == metrics.id) => Self::LeadsAlone,
            ServerState::Leader => Self::Leads,
            _ => Self::Follows,
        }
    }
}

impl Pulse {
    pub(super) fn new(raft: Raft, roll: Roll, options: &Options) -> Self {
        Self { raft, roll, rhythm: Rhythm { heartbeat: options.heartbeat, patience: options.election.1 } }
    }

    /// Runs until it is stopped. Ends early when openraft does.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut metrics = self.raft.server_metrics();
        loop {
            let due = self.rhythm.due(Part::of(&metrics.borrow_watched()), self.roll.leader_silent_for());
            self.raft.runtime_config().tick(due.clock);
            if due.heartbeat && self.raft.trigger().heartbeat().await.is_err() {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = metrics.changed() => if changed.is_err() { return Ok(()) },
                () = sleep(due.pause) => {}
            }
        }
    }
}

impl Rhythm {
    fn due(&self, part: Part, leader_silent_for: Duration) -> Due {
        match part {
            Part::LeadsAlone | Part::Learns => Due { clock: false, heartbeat: false, pause: Duration::MAX },
            Part::Leads => Due { clock: false, heartbeat: true, pause: self.heartbeat },
            Part::Follows => {
                let left = self.patience.saturating_sub(leader_silent_for);
                Due { clock: left.is_zero(), heartbeat: false, pause: left.max(self.heartbeat) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openrafts_clock_runs_only_where_the_leader_is_silent() {
        let millis = Duration::from_millis;
        let rhythm = Rhythm { heartbeat: millis(250), patience: millis(500) };
        let follows = |silent_for| {
            let due = rhythm.due(Part::Follows, silent_for);
            assert!(!due.heartbeat);
            (due.clock, due.pause)
        };
        assert_eq!(follows(millis(0)), (false, millis(500)));
        assert_eq!(follows(millis(100)), (false, millis(400)), "it looks again before anybody may campaign");
        assert_eq!(follows(millis(499)), (false, millis(250)));
        assert_eq!(follows(millis(500)), (true, millis(250)));
        assert_eq!(follows(Duration::MAX), (true, millis(250)), "none was heard yet");
        let leads = Due { clock: false, heartbeat: true, pause: millis(250) };
        assert_eq!(rhythm.due(Part::Leads, Duration::MAX), leads);
        let alone = Due { clock: false, heartbeat: false, pause: Duration::MAX };
        assert_eq!(rhythm.due(Part::LeadsAlone, Duration::MAX), alone);
        assert_eq!(rhythm.due(Part::Learns, Duration::MAX), alone, "it waits for what it is told");
    }
}
