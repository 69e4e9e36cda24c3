//! What ends the instances that run alone when the program of their node cannot, because it was killed, stopped or hangs.
//!
//! A guard is a small process of its own on the same machine. It reads the node's newest assurance (`assurance`), and when that is over, and as
//! long as it is, it ends the containers that are labelled for it. It decides nothing else: what was assured is looked up each time, and so is
//! who is there, as long as the engine answers. When that hangs, those that it saw last are ended by the kernel. Here are its work
//! ([`stand_guard`]) and what the agent needs of it ([`Guard`]); `node` starts it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::Options;
use super::assurance::Standing;
use super::contact::is_only_member;
use super::container::{ALONE_LABEL, node_labels};
use crate::consensus::Consensus;
use crate::engine::{self, ContainerState, ContainerStatus, Engine};

/// How often a guard looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it sees who is there while there is nothing to end.
const SEE_EVERY: Duration = Duration::from_secs(5);
/// An engine that takes longer hangs. A look that is under way, one more, and a stop with its grace have to end within
/// [`STOPPED_WITHIN`](crate::decide::isolation::STOPPED_WITHIN).
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether one stands.
const STANDS_EVERY: Duration = Duration::from_secs(5);

/// The guard, as the agent sees it.
#[async_trait]
pub trait Guard: Send + Sync + 'static {
    /// Sees to it that one stands; without one nothing may be started alone here. Else why there is none.
    async fn stand(&self) -> Result<(), String>;

    /// A question of that time ([`clock::since_boot`](crate::clock::since_boot)) was answered. `only` says that this node is the
    /// only member of its cluster.
    async fn assured(&self, asked: Duration, only: bool);
}

/// Keeps a guard standing, for as long as something runs alone here.
pub(super) async fn keep_standing(guard: Arc<dyn Guard>, consensus: Consensus) -> Infallible {
    loop {
        if !is_only_member(&consensus.latest().state)
            && let Err(reason) = guard.stand().await
        {
            tracing::error!(reason, "nothing would end what must not run twice with this program gone; trying again");
        }
        sleep(STANDS_EVERY).await;
    }
}

/// Stands guard until nothing is left to guard and nobody assures this node of anything, or nobody else could run the same:
/// whoever starts something afterwards calls another guard first.
pub async fn stand_guard(options: &Options, engine: &dyn Engine, standing: impl Fn() -> Standing) {
    let mut labels = node_labels(options.cluster, options.node);
    labels.insert(ALONE_LABEL.to_owned(), "true".to_owned());
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut seen_at, mut answered) = (Vec::new(), None::<Instant>, true);
    loop {
        every.tick().await;
        let assured = match standing() {
            Standing::Assured => true,
            Standing::OnlyMember => return,
            Standing::Over => false,
        };
        if assured && seen_at.is_some_and(|at| at.elapsed() < SEE_EVERY) {
            continue;
        }
        let trouble = match within(ANSWER_MAX, engine.list(&labels)).await {
            Ok(found) => {
                seen = found;
                seen.retain(|container| container.state == ContainerState::Running);
                None
            }
            Err(reason) => {
                if answered || !assured {
                    tracing::warn!(reason, "the guard cannot see what runs alone here");
                }
                Some(reason)
            }
        };
        (seen_at, answered) = (Some(Instant::now()), trouble.is_none());
        if assured {
            continue;
        }
        let ended = join_all(seen.iter().map(async |container| {
            // The program may be back by now.
            if standing() == Standing::Assured {
                return false;
            }
            tracing::warn!(name = container.name, "the cluster was not heard of: ending what must not run twice");
            end(engine, container, options.stop_grace, trouble.clone()).await
        }));
        let mut ended = ended.await.into_iter();
        if seen.is_empty() && answered && standing() == Standing::Over {
            return;
        }
        // Whether the kernel has left nothing of it is seen when the engine answers again.
        seen.retain(|_| !ended.next().unwrap_or_default());
    }
}

/// Ends a container, by the kernel when its engine does not: `trouble` is why it is not asked. Says whether there is nothing more to be
/// done.
async fn end(engine: &dyn Engine, container: &ContainerStatus, grace: Duration, trouble: Option<String>) -> bool {
    let reason = match trouble {
        Some(reason) => reason,
        None => match within(grace + ANSWER_MAX, engine.stop(&container.id, grace)).await {
            Ok(()) => return true,
            Err(reason) => reason,
        },
    };
    let name = &container.name;
    match engine.kill_without_engine(&container.id).await {
        Ok(0) => tracing::error!(name, reason, "its engine did not end it, and none of its processes is to be seen"),
        Ok(count) => tracing::warn!(name, reason, count, "its engine did not end it: its processes were killed"),
        Err(error) => {
            tracing::error!(name, reason, %error, "it could not be ended; trying again");
            return false;
        }
    }
    true
}

/// What the engine answers within this time, or why it does not.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, engine::Error>>) -> Result<T, String> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the engine did not answer within {} s", limit.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use futures::future::join;

    use super::*;
    use crate::decide::isolation::STOPPED_WITHIN;
    use crate::engine::fake::{FakeEngine, Fault};
    use crate::engine::{ContainerSpec, Image};
    use crate::model::NodeId;
    use crate::random;

    fn options() -> Options {
        Options { cluster: random::id(), node: NodeId(7), stop_grace: Duration::ZERO, drain_max: Duration::ZERO }
    }

    fn engine_with_web() -> FakeEngine {
        let engine = FakeEngine::new();
        engine.add_image(
            "web",
            Image {
                id: "sha256:web".to_owned(),
                bytes: 1,
                exposed_ports: Vec::new(),
                architecture: None,
                digest: None,
            },
        );
        engine
    }

    #[tokio::test]
    async fn a_guard_ends_what_runs_alone_when_nobody_assures_its_node_and_nothing_else() {
        let newest = Mutex::new(Standing::Assured);
        let standing = || *newest.lock().expect("not poisoned");
        let (options, engine) = (options(), engine_with_web());
        let own = node_labels(options.cluster, options.node);
        let others = node_labels(options.cluster, NodeId(8));
        let alone = BTreeMap::from([(ALONE_LABEL.to_owned(), "true".to_owned())]);
        for (name, labels) in [
            ("alone", own.clone().into_iter().chain(alone.clone()).collect()),
            ("replica", own),
            ("elsewhere", others.into_iter().chain(alone).collect()),
        ] {
            let spec = ContainerSpec { labels, ..ContainerSpec::new(name.to_owned(), "web") };
            let id = engine.create(&spec).await.expect("made");
            engine.start(&id).await.expect("started");
        }
        tokio::select! {
            () = stand_guard(&options, &engine, standing) => panic!("it stands as long as its node is assured"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        assert_eq!(engine.running(), 3);
        *newest.lock().expect("not poisoned") = Standing::OnlyMember;
        stand_guard(&options, &engine, standing).await;
        assert_eq!(engine.running(), 3, "it goes when nobody else could run the same");
        *newest.lock().expect("not poisoned") = Standing::Over;
        let guarding = tokio::time::timeout(Duration::from_secs(20), stand_guard(&options, &engine, standing));
        guarding.await.expect("it goes when there is nothing left");
        let running = engine.containers().into_iter().filter(|it| it.state == ContainerState::Running);
        assert_eq!(running.map(|it| it.name).collect::<Vec<_>>(), ["replica", "elsewhere"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_has_seen_nothing_yet_stands_until_its_engine_answers() {
        let (options, engine) = (options(), engine_with_web());
        engine.set_fault(Fault::Hung);
        let guarding = stand_guard(&options, &engine, || Standing::Over);
        let hangs = async {
            sleep(Duration::from_secs(60)).await;
            engine.set_fault(Fault::None);
            false
        };
        let goes = async {
            guarding.await;
            true
        };
        assert_eq!(timeout(Duration::from_secs(120), join(goes, hangs)).await, Ok((true, false)));
        let early = stand_guard(&options, &engine, || Standing::Over);
        engine.set_fault(Fault::Hung);
        timeout(Duration::from_secs(60), early).await.expect_err("it cannot know whether something is there");
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_engine_that_hangs_does_not_end_the_kernel_does() {
        let newest = Mutex::new(Standing::Assured);
        let standing = || *newest.lock().expect("not poisoned");
        let (options, engine) = (options(), engine_with_web());
        let mut labels = node_labels(options.cluster, options.node);
        labels.insert(ALONE_LABEL.to_owned(), "true".to_owned());
        let spec = ContainerSpec { labels, ..ContainerSpec::new("alone".to_owned(), "web") };
        let id = engine.create(&spec).await.expect("made");
        engine.start(&id).await.expect("started");
        let guarding = stand_guard(&options, &engine, standing);
        let hangs = async {
            sleep(SEE_EVERY).await;
            engine.set_fault(Fault::Hung);
            sleep(Duration::from_secs(30)).await;
            assert_eq!(engine.running(), 1, "an engine that hangs is no reason");
            *newest.lock().expect("not poisoned") = Standing::Over;
            sleep(STOPPED_WITHIN).await;
            assert_eq!(engine.running(), 0);
            engine.set_fault(Fault::None);
        };
        timeout(Duration::from_secs(120), join(guarding, hangs)).await.expect("it goes when there is nothing left");
    }
}
