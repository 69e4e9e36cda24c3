//! A stream that is lent to whoever sends what it yields, and taken back at any time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::Stream;
use futures::stream::BoxStream;

/// Lends a stream. When the owner is dropped the stream is gone, whoever has it: what was lent ends.
pub(super) fn lend<T>(stream: impl Stream<Item = T> + Send + 'static) -> (Lent<T>, Owner<T>) {
    let slot = Slot(Arc::new(Mutex::new(Inner { stream: Some(Box::pin(stream)), waits: None })));
    (Lent(slot.clone()), Owner(slot))
}

pub(super) struct Lent<T>(Slot<T>);

pub(super) struct Owner<T>(Slot<T>);

struct Slot<T>(Arc<Mutex<Inner<T>>>);

struct Inner<T> {
    /// None when it was taken back, or has ended.
    stream: Option<BoxStream<'static, T>>,
    /// Who waits for more of it.
    waits: Option<Waker>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Stream for Lent<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut inner = self.0.lock();
        let Some(stream) = &mut inner.stream else { return Poll::Ready(None) };
        let next = stream.as_mut().poll_next(context);
        match &next {
            Poll::Pending => inner.waits = Some(context.waker().clone()),
            Poll::Ready(None) => inner.stream = None,
            Poll::Ready(Some(_)) => {}
        }
        next
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        let (stream, waits) = (inner.stream.take(), inner.waits.take());
        drop(inner);
        drop(stream);
        if let Some(waits) = waits {
            waits.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use futures::future::join;
    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    #[tokio::test]
    async fn what_was_lent_is_gone_with_its_owner_and_whoever_waits_is_told() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (mut lent, owner) = lend(UnboundedReceiverStream::new(receiver));
        sender.send(1).expect("there");
        assert_eq!(lent.next().await, Some(1));
        // The first waits before the second goes on.
        let both = join(lent.next(), async {
            tokio::task::yield_now().await;
            drop(owner);
            assert!(sender.send(2).is_err(), "the stream itself is gone at once");
        });
        assert_eq!(timeout(Duration::from_secs(20), both).await, Ok((None, ())));
    }

    #[tokio::test]
    async fn it_ends_as_the_stream_does() {
        let (mut lent, _owner) = lend(futures::stream::iter([1, 2]));
        assert_eq!((lent.next().await, lent.next().await), (Some(1), Some(2)));
        assert_eq!((lent.next().await, lent.next().await), (None, None));
    }
}
