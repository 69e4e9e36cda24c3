//! Bodies on their way: the client's to the instance, and the instance's (or one of our pages) to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::link::Link;
use super::upstream::Lease;

/// What is sent to an instance.
pub(super) enum RequestBody {
    /// Nothing: the request can be made again from its head.
    Empty,
    /// What the client sends, as it comes.
    Stream {
        /// The client's side.
        incoming: Incoming,
        /// Set whenever something moved.
        moved: Arc<AtomicBool>,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream { incoming, moved } => {
                let frame = Pin::new(incoming).poll_frame(context);
                if frame.is_ready() {
                    moved.store(true, Ordering::Relaxed);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}

/// What is sent to a client.
pub(super) enum ResponseBody {
    /// One of our own pages.
    Page(Full<Bytes>),
    /// An instance's answer.
    Answer(Answer),
}

/// The body of an instance's answer, together with the connection it comes on.
pub(super) struct Answer {
    incoming: Incoming,
    /// `None` once the connection was given back. Dropped together with the body when the client goes away, which
    /// ends the connection and with it the work of the instance.
    source: Option<(Link, Lease)>,
}

impl Answer {
    pub(super) fn new(incoming: Incoming, link: Link, lease: Lease) -> Self {
        let mut answer = Self { incoming, source: Some((link, lease)) };
        answer.release_at_end();
        answer
    }

    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some((link, lease)) = self.source.take() {
            lease.upstream.give_back(link);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // Asking first tells the connection that there is room for more.
        if let ready @ Poll::Ready(_) = Pin::new(&mut self.incoming).poll_frame(context) {
            return ready;
        }
        match &mut self.source {
            Some((link, _)) => {
                link.drive(context);
                Pin::new(&mut self.incoming).poll_frame(context)
            }
            None => Poll::Pending,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Page(page) => Pin::new(page).poll_frame(context).map_err(|never| match never {}),
            Self::Answer(answer) => {
                let frame = answer.poll(context);
                match &frame {
                    Poll::Ready(None) => answer.release(),
                    // A body of known length is not asked again after its last byte.
                    Poll::Ready(Some(Ok(_))) => answer.release_at_end(),
                    _ => {}
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Page(page) => page.is_end_stream(),
            Self::Answer(answer) => answer.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Page(page) => page.size_hint(),
            Self::Answer(answer) => answer.incoming.size_hint(),
        }
    }
}
