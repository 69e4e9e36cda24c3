//! What ends the instances that run alone when the program of their node cannot, because it was killed, stopped or hangs.
//!
//! A guard is a small process of its own on the same machine. It reads the node's newest [`Assurance`], and when that is over, and as
//! long as it is, it ends the containers that are labelled for it. It decides nothing else and remembers nothing: whoever is
//! there, and what was assured, is looked up each time. Here are its work ([`stand_guard`]) and what the agent needs of it
//! ([`Guard`]); `node` starts it.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use super::container::{ALONE_LABEL, node_labels};
use super::{Assurance, Options};
use crate::engine::{ContainerState, Engine};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The guard, as the agent sees it.
#[async_trait]
pub trait Guard: Send + Sync + 'static {
    /// Sees to it that one stands. Without one nothing may run alone here: why there is none.
    async fn stand(&self) -> Result<(), String>;

    /// A question so long ago was answered. `only` says that this node is the only member of its cluster.
    fn assured(&self, age: Duration, only: bool);
}

/// Stands guard until nothing is left to guard and nobody assures this node of anything: whoever starts something afterwards
/// calls another guard first.
pub async fn stand_guard(options: &Options, engine: &dyn Engine, assurance: &Assurance) {
    let mut labels = node_labels(options.cluster, options.node);
    labels.insert(ALONE_LABEL.to_owned(), "true".to_owned());
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if !assurance.is_over() {
            continue;
        }
        let running = match engine.list(&labels).await {
            Ok(found) => found.into_iter().filter(|container| container.state == ContainerState::Running),
            Err(error) => {
                tracing::warn!(%error, "the guard cannot see what runs alone here");
                continue;
            }
        };
        let ended = join_all(running.map(async |container| {
            // The program may be back by now.
            if assurance.is_over() {
                let name = container.name;
                tracing::warn!(%name, "the cluster was not heard of: ending what must not run twice");
                if let Err(error) = engine.stop(&container.id, options.stop_grace).await {
                    tracing::error!(%name, %error, "it could not be ended; trying again");
                }
            }
        }));
        if ended.await.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::decide::isolation::ISOLATED_AFTER;
    use crate::engine::fake::FakeEngine;
    use crate::engine::{ContainerSpec, Image};
    use crate::model::NodeId;
    use crate::random;

    #[tokio::test]
    async fn a_guard_ends_what_runs_alone_when_nobody_assures_its_node_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let assurance = Assurance::of(folder.path());
        let options =
            Options { cluster: random::id(), node: NodeId(7), stop_grace: Duration::ZERO, drain_max: Duration::ZERO };
        let engine = FakeEngine::new();
        engine.add_image("web", Image { id: "sha256:web".to_owned(), bytes: 1, exposed_ports: Vec::new() });
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
        assurance.note(Duration::ZERO, false).expect("writes");
        let standing = stand_guard(&options, &engine, &assurance);
        tokio::select! {
            () = standing => panic!("it stands as long as its node is assured"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        assert_eq!(engine.running(), 3);
        assurance.note(ISOLATED_AFTER, false).expect("writes");
        let standing = tokio::time::timeout(Duration::from_secs(20), stand_guard(&options, &engine, &assurance));
        standing.await.expect("it goes when there is nothing left");
        let running = engine.containers().into_iter().filter(|it| it.state == ContainerState::Running);
        assert_eq!(running.map(|it| it.name).collect::<Vec<_>>(), ["replica", "elsewhere"]);
    }
}
