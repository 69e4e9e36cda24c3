//! One connection between nodes, and who is at its other end.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tonic::transport::server::Connected;

use crate::model::{Incarnation, NodeId};
use crate::network::Entered;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The node that its certificate names; none when it showed no certificate.
    pub(super) node: Option<NodeId>,
    /// Which process of that node it is.
    pub(super) run: Option<Incarnation>,
    /// Its address.
    pub(super) from: IpAddr,
}

/// A connection after its handshake, which ends by itself when it has to.
pub(super) struct Link<S, G> {
    pub(super) stream: S,
    /// How long it may last.
    pub(super) stay: Stay,
    /// Whoever made it, when this node did not.
    pub(super) guest: G,
}

/// Whoever made a connection.
pub(super) struct Guest {
    pub(super) caller: Caller,
    /// Counts the connection among those of its address.
    #[expect(dead_code, reason = "it counts as long as it lives")]
    pub(super) place: Entered,
}

/// When a connection ends by itself, whatever is under way on it.
pub(super) struct Stay {
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    #[expect(dead_code, reason = "it counts as long as it lives")]
    permit: Option<OwnedSemaphorePermit>,
}

/// How often it is asked whether the other end is still a member.
pub(super) const ADMIT_EVERY: Duration = Duration::from_secs(2);
/// How long the connections of a node that was removed go on: long enough for it to ask something and be told.
const REMOVED_STAYS_MAX: Duration = Duration::from_secs(2);

impl Stay {
    /// After this time. Such connections are few.
    pub(super) fn at_most(longest: Duration, permit: OwnedSemaphorePermit) -> Self {
        Self { over: Box::pin(sleep(longest)), permit: Some(permit) }
    }

    /// Shortly after the other end has ceased to be a member. A stream whose reader takes nothing would never come to its end,
    /// and a node that does not obey would never end one.
    pub(super) fn while_member(is_member: impl Fn() -> bool + Send + 'static) -> Self {
        let over = async move {
            while is_member() {
                sleep(ADMIT_EVERY).await;
            }
            sleep(REMOVED_STAYS_MAX).await;
        };
        Self { over: Box::pin(over), permit: None }
    }
}

impl<S> Connected for Link<S, Guest> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.guest.caller
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Link<S, G> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stay.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Link<S, G> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
