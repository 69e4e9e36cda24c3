//! Whether this node is in touch with the cluster: whether a leader with a quorum assured it of anything lately.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Guard;
use crate::clock;
use crate::consensus::Consensus;
use crate::decide::isolation::{ASSURED_EVERY, ASSURED_IDLY_EVERY, ISOLATED_AFTER};
use crate::state::State;

/// When this node asked the question that was answered last. An assurance is as old as its question, since the leader may
/// have given it at any time after that.
#[derive(Clone)]
pub(super) struct Contact {
    assured: watch::Sender<Instant>,
    /// Something runs alone here, or is about to; as long as nobody has looked, it may.
    needed: watch::Sender<bool>,
}

impl Contact {
    /// To be told of a first answer before anything depends on it.
    pub(super) fn new() -> Self {
        Self { assured: watch::Sender::new(Instant::now()), needed: watch::Sender::new(true) }
    }

    /// Says whether something runs alone here, or is about to: only then does anything depend on being in touch.
    pub(super) fn set_needed(&self, needed: bool) {
        self.needed.send_if_modified(|before| std::mem::replace(before, needed) != needed);
    }

    /// A question of that time was answered.
    pub(super) fn assured(&self, asked: Instant) {
        self.assured.send_replace(asked);
    }

    /// Whether what must not run twice must not run here any more. The only node of a cluster is never cut off.
    pub(super) fn is_isolated(&self, state: &State) -> bool {
        !is_only_member(state) && self.assured.borrow().elapsed() >= ISOLATED_AFTER
    }

    /// Asks until told to stop. Wakes the agent when the time is over, and when it begins anew.
    pub(super) fn keep(
        &self,
        consensus: Consensus,
        guard: Arc<dyn Guard>,
        wake: Arc<Notify>,
        quit: CancellationToken,
    ) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        let (assured, mut needed) = (self.assured.clone(), self.needed.subscribe());
        async move {
            let tell = tell(assured.subscribe(), wake);
            let ask = ask(&consensus, &*guard, &assured, &mut needed);
            tokio::select! {
                () = quit.cancelled() => {}
                () = tell => {}
                () = ask => {}
            }
            Ok(())
        }
    }
}

/// Whether there is nobody else that could be told to run what runs here.
pub(super) fn is_only_member(state: &State) -> bool {
    state.members().count() <= 1
}

async fn ask(
    consensus: &Consensus,
    guard: &dyn Guard,
    assured: &watch::Sender<Instant>,
    needed: &mut watch::Receiver<bool>,
) {
    loop {
        let (asked, since_boot) = (Instant::now(), clock::since_boot());
        match consensus.linearizable().await {
            Ok(view) => {
                assured.send_replace(asked);
                guard.assured(since_boot, is_only_member(&view.state)).await;
                rest(asked, needed).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the cluster does not answer");
                sleep_until(asked + ASSURED_EVERY).await;
            }
        }
    }
}

/// Until the next question is due. Being needed makes that sooner, and not being needed any more later.
async fn rest(asked: Instant, needed: &mut watch::Receiver<bool>) {
    loop {
        let every = if *needed.borrow_and_update() { ASSURED_EVERY } else { ASSURED_IDLY_EVERY };
        match timeout_at(asked + every, needed.changed()).await {
            Ok(Ok(())) => {}
            // Nobody tells any more: the agent has ended.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

async fn tell(mut assured: watch::Receiver<Instant>, wake: Arc<Notify>) {
    loop {
        let over = *assured.borrow_and_update() + ISOLATED_AFTER;
        let again = tokio::time::timeout_at(over, assured.changed()).await;
        if again.is_ok() {
            continue;
        }
        wake.notify_one();
        // Until it is in touch again nothing new happens.
        let gone = assured.changed().await.is_err();
        wake.notify_one();
        if gone {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Admission, NodeId, NodeRole};

    fn cluster(nodes: u64) -> State {
        let member = |node| Admission {
            node: NodeId(node),
            name: format!("n{node}"),
            address: format!("10.0.0.{node}:9090"),
            role: NodeRole::VoterEligible,
            token: None,
            admitted_at: clock::now(),
            removed_at: None,
            fenced_at: None,
        };
        State::from_records((1..=nodes).map(|node| member(node).into()))
    }

    #[tokio::test]
    async fn a_node_is_isolated_when_its_newest_question_with_an_answer_is_old() {
        let contact = Contact { assured: watch::Sender::new(Instant::now() - ISOLATED_AFTER), ..Contact::new() };
        assert!(!contact.is_isolated(&cluster(1)), "there is nobody else");
        assert!(contact.is_isolated(&cluster(2)));
        contact.assured.send_replace(Instant::now());
        assert!(!contact.is_isolated(&cluster(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_asks_more_often_while_something_there_depends_on_it() {
        let contact = Contact::new();
        contact.set_needed(false);
        let mut needed = contact.needed.subscribe();
        let began = Instant::now();
        rest(began, &mut needed).await;
        assert_eq!(began.elapsed(), ASSURED_IDLY_EVERY);
        let asked = Instant::now();
        let ((), ()) = tokio::join!(rest(asked, &mut needed), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            contact.set_needed(true);
        });
        assert_eq!(asked.elapsed(), ASSURED_EVERY, "from the question before");
        let asked = Instant::now() - Duration::from_secs(5);
        contact.set_needed(false);
        rest(asked, &mut needed).await;
        let waited = asked.elapsed();
        assert_eq!(waited, ASSURED_IDLY_EVERY);
        contact.set_needed(true);
        rest(asked, &mut needed).await;
        assert_eq!(asked.elapsed(), waited, "at once");
    }

    #[tokio::test]
    async fn the_agent_hears_of_both_ends_of_it() {
        let contact = Contact { assured: watch::Sender::new(Instant::now() - ISOLATED_AFTER), ..Contact::new() };
        let wake = Arc::new(Notify::new());
        let told = tell(contact.assured.subscribe(), Arc::clone(&wake));
        let heard = async {
            wake.notified().await;
            contact.assured.send_replace(Instant::now());
            wake.notified().await;
        };
        tokio::select! {
            () = told => panic!("nobody ends it"),
            heard = tokio::time::timeout(Duration::from_secs(5), heard) => heard.expect("in time"),
        }
    }
}
