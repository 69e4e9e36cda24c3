//! What the instances of one deployment stand on, on this node: its image and its network.
//!
//! The first of those that start together looks, the others take its word, until all have started. Each question is dear
//! to Podman: an image takes 12 ms of its processor time, and of networks it says nothing while it connects a container, so that
//! thirty that asked one after the other started two at a time.

use std::future::Future;

use tokio::sync::{Mutex, MutexGuard};

/// Shared by the runners of a deployment.
#[derive(Default)]
pub(super) struct Ground {
    /// The image's id, once it is there.
    image: Mutex<Option<String>>,
    /// Whose turn it is to pull it, and whether its registry was asked for the newest.
    turn: Mutex<bool>,
    /// That the network is there.
    network: Mutex<bool>,
}

impl Ground {
    /// The id of the image, if the engine has it.
    pub(super) async fn image<E>(
        &self,
        look: impl Future<Output = Result<Option<String>, E>>,
    ) -> Result<Option<String>, E> {
        let mut image = self.image.lock().await;
        if image.is_none() {
            *image = look.await?;
        }
        Ok(image.clone())
    }

    /// Returns when nobody else pulls, with whether somebody has asked the registry for the newest before.
    pub(super) async fn turn(&self) -> MutexGuard<'_, bool> {
        self.turn.lock().await
    }

    /// Returns when the network is there.
    pub(super) async fn network<E>(&self, ensure: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let mut is_there = self.network.lock().await;
        if !*is_there {
            ensure.await?;
            *is_there = true;
        }
        Ok(())
    }

    /// Somebody may have removed what was there. Whoever looks just now finds that out.
    pub(super) fn look_again(&self) {
        if let Ok(mut image) = self.image.try_lock() {
            *image = None;
        }
        if let Ok(mut network) = self.network.try_lock() {
            *network = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_that_start_together_look_once_until_something_fails() {
        let (ground, looks) = (Ground::default(), &AtomicU32::new(0));
        let image = |seen: Result<Option<&'static str>, &'static str>| {
            ground.image(async move {
                looks.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                seen.map(|id| id.map(str::to_owned))
            })
        };
        let count = || looks.swap(0, Ordering::Relaxed);
        assert_eq!((image(Err("hung")).await, image(Ok(None)).await), (Err("hung"), Ok(None)));
        assert_eq!(count(), 2, "what is not there is looked for again");
        let all = join_all((0..30).map(|_| image(Ok(Some("sha256:1"))))).await;
        assert!(all.iter().all(|seen| seen == &Ok(Some("sha256:1".to_owned()))), "{all:?}");
        assert_eq!(count(), 1);
        ground.look_again();
        assert_eq!(image(Ok(None)).await, Ok(None), "it was removed");
    }

    #[tokio::test]
    async fn a_network_is_made_once() {
        let (ground, made) = (Ground::default(), &AtomicU32::new(0));
        let network = |seen: Result<(), &'static str>| {
            ground.network(async move {
                made.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                seen
            })
        };
        assert_eq!(network(Err("no subnet is left")).await, Err("no subnet is left"));
        let all = join_all((0..30).map(|_| network(Ok(())))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert_eq!(made.load(Ordering::Relaxed), 2);
        ground.look_again();
        assert_eq!(network(Ok(())).await, Ok(()));
        assert_eq!(made.load(Ordering::Relaxed), 3);
    }
}
