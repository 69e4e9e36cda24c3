//! The leader's loops: watch the state, decide, propose.
//!
//! Runs here: one task on every node that does nothing unless its node leads. In: the state as it changes, and time.
//! Out: commands of the platform itself, and changes of the Raft group (`members`). What it does is level-triggered: each round starts from the newest state and
//! forgets the round before, so that a lost answer, a refusal or a new leader needs no repair. Deliberately absent:
//! what to decide (`decide`), and any other effect.

mod liveness;
mod members;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consensus::{Consensus, ProposeError, View};
use crate::decide::{self, Situation};
use crate::model::{NodeId, Timestamp};
use crate::state::{Actor, Command, LogEntry};
use crate::{clock, random};

/// The loop rests this many times as long as it took to decide, so that deciding takes a fifth of a core at most. A
/// single change is looked at without delay; in a large cluster a burst of them gathers meanwhile.
const REST: u32 = 4;
/// How often a node that does not lead looks whether it does. A change of the state makes it look at once.
const LEADERSHIP_POLL: Duration = Duration::from_millis(200);
/// Pause after a round of which everything was refused. A refusal is an entry of the log too, and must not cause the
/// next one without end.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// Proposals under way at once: enough for them to share a sync of the log, few enough to stop at once.
const PROPOSALS_AT_ONCE: usize = 64;

/// How the leader decides, and how often without a cause.
#[derive(Clone, Debug)]
pub struct Options {
    /// How it decides.
    pub decide: decide::Options,
    /// Longest time between two rounds, although nothing changed.
    pub tick: Duration,
    /// Time between two looks for records to forget.
    pub sweep_every: Duration,
    /// A node that was silent for this long does not answer.
    pub health_threshold: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            decide: decide::Options::default(),
            tick: Duration::from_secs(10),
            sweep_every: Duration::from_secs(60),
            health_threshold: Duration::from_secs(6),
        }
    }
}

/// The loop. Give [`Control::run`] to a supervisor.
pub struct Control {
    options: Options,
    consensus: Consensus,
    next_sweep: Instant,
    /// Not before this time the next round after a change.
    rested: Instant,
    /// Nodes that have stopped what must not run twice.
    fenced: watch::Sender<BTreeSet<NodeId>>,
}

/// What came of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Something changed, so the next round follows at once.
    Progress,
    /// There is nothing to do until something changes or this time has come.
    Quiet(Option<Timestamp>),
    /// Everything was refused, or no answer came.
    Refused,
}

impl Control {
    /// A loop that has not begun.
    pub fn new(options: Options, consensus: Consensus) -> Self {
        let now = Instant::now();
        let next_sweep = now + options.sweep_every;
        Self { options, consensus, next_sweep, rested: now, fenced: watch::Sender::default() }
    }

    /// Runs until told to stop. Leads when its node leads, and ends each round as soon as it does not.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut views = self.consensus.watch();
        let work = async {
            loop {
                self.wait_for_leadership(&mut views).await;
                self.lead(&mut views).await;
            }
        };
        // Whatever is under way is dropped: a proposal that nobody waits for is still safe.
        stop.run_until_cancelled(Box::pin(work)).await;
        Ok(())
    }

    async fn wait_for_leadership(&self, views: &mut watch::Receiver<View>) {
        while self.consensus.leading_term().is_none() {
            changed_or(views, LEADERSHIP_POLL).await;
        }
    }

    /// All that a leader does, until this node does not lead any more, or leads again in a later term.
    async fn lead(&mut self, views: &mut watch::Receiver<View>) {
        let Some(term) = self.consensus.leading_term() else { return };
        // A new leader may hold committed entries that it has not applied: it must not decide without them.
        if let Err(error) = self.consensus.linearizable().await {
            tracing::debug!(%error, "leadership is not certain yet");
            changed_or(views, LEADERSHIP_POLL).await;
            return;
        }
        tracing::info!("this node leads: it decides from now on");
        let consensus = self.consensus.clone();
        let (fenced, threshold) = (self.fenced.clone(), self.options.health_threshold);
        // What was known in an earlier term says nothing of now.
        fenced.send_replace(BTreeSet::new());
        let work = async {
            tokio::join!(
                self.rounds(term, views),
                members::keep(&consensus, term),
                liveness::listen(&consensus, term, threshold, &fenced)
            )
        };
        tokio::select! {
            _ = work => {}
            () = consensus.deposed(term) => {}
        }
        tracing::info!("this node does not lead any more");
    }

    /// Round after round.
    async fn rounds(&mut self, term: u64, views: &mut watch::Receiver<View>) {
        let mut fenced = self.fenced.subscribe();
        while self.consensus.leading_term() == Some(term) {
            fenced.mark_unchanged();
            let view = views.borrow_and_update().clone();
            match self.round(term, &view).await {
                Round::Progress => {}
                Round::Quiet(wake_at) => {
                    tokio::select! {
                        () = changed_or(views, self.pause(wake_at)) => {}
                        _ = fenced.changed() => {}
                    }
                    tokio::time::sleep_until(self.rested).await;
                }
                Round::Refused => tokio::time::sleep(REFUSED_PAUSE).await,
            }
        }
    }

    fn pause(&self, wake_at: Option<Timestamp>) -> Duration {
        let until_sweep = self.next_sweep.saturating_duration_since(Instant::now());
        let longest = self.options.tick.min(until_sweep);
        wake_at.map_or(longest, |at| longest.min(at.since(clock::now())))
    }

    async fn round(&mut self, term: u64, view: &View) -> Round {
        let fenced = self.fenced.borrow().clone();
        let situation =
            Situation { state: &view.state, now: clock::now(), fenced: &fenced, options: &self.options.decide };
        let began = Instant::now();
        let mut plan = decide::plan(situation, &mut random::id);
        if self.next_sweep <= Instant::now() {
            let sweep = decide::sweep(situation);
            // While there is more, each round takes some of it.
            if sweep.is_none() {
                self.next_sweep = Instant::now() + self.options.sweep_every;
            }
            plan.commands.extend(sweep);
        }
        self.rested = Instant::now() + began.elapsed() * REST;
        if plan.commands.is_empty() {
            return Round::Quiet(plan.wake_at);
        }
        self.propose_all(term, plan.commands).await
    }

    /// Proposes what was decided from one state, then waits for all of it to be visible, so that nothing is decided
    /// twice.
    async fn propose_all(&self, term: u64, commands: Vec<Command>) -> Round {
        let last = futures::stream::iter(commands)
            .map(|command| propose(&self.consensus, term, command))
            .buffered(PROPOSALS_AT_ONCE)
            .fold(None, async |last, index| index.max(last))
            .await;
        let Some(index) = last else { return Round::Refused };
        match self.consensus.wait_index(index, Instant::now() + self.options.tick).await {
            Ok(_) => Round::Progress,
            Err(error) => {
                tracing::debug!(%error, index, "the change is not visible yet");
                Round::Refused
            }
        }
    }
}

/// The index of the accepted command. It was decided in this term, and is refused in any other.
async fn propose(consensus: &Consensus, term: u64, command: Command) -> Option<u64> {
    let name = command.name();
    let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
    match consensus.propose_in_term(term, entry).await {
        Ok(committed) => {
            tracing::debug!(command = name, index = committed.index, "done");
            Some(committed.index)
        }
        // The state moved on meanwhile; the next round sees how.
        Err(ProposeError::Rejected(rejection)) => {
            tracing::debug!(command = name, %rejection, "refused");
            None
        }
        Err(ProposeError::TooLarge { bytes, limit }) => {
            tracing::error!(command = name, bytes, limit, "the command does not fit the log");
            None
        }
        Err(error) => {
            tracing::debug!(command = name, %error, "no answer");
            None
        }
    }
}

/// Waits for a newer state, at most this long.
async fn changed_or(views: &mut watch::Receiver<View>, limit: Duration) {
    // An error of the channel means that consensus has stopped; then the time-out is what keeps this from spinning.
    if let Ok(Err(_)) = tokio::time::timeout(limit, views.changed()).await {
        tokio::time::sleep(limit.max(LEADERSHIP_POLL)).await;
    }
}

#[cfg(test)]
mod tests;
