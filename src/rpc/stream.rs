//! One accepted connection, and who is at its other end.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;
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

/// A connection after its handshake.
pub(super) struct Link {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) caller: Caller,
    /// Counts it among those of its address.
    #[expect(dead_code, reason = "it counts as long as it lives")]
    pub(super) place: Entered,
    /// How long it may last.
    pub(super) stay: Stay,
}

/// When a connection ends by itself, whatever is under way on it.
pub(super) struct Stay {
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    #[expect(dead_code, reason = "it counts as long as it lives")]
    permit: Option<OwnedSemaphorePermit>,
}

impl Stay {
    /// After this time. Such connections are few.
    pub(super) fn at_most(longest: Duration, permit: OwnedSemaphorePermit) -> Self {
        Self { over: Box::pin(sleep(longest)), permit: Some(permit) }
    }

    /// Some time after this.
    pub(super) fn until(end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { over: Box::pin(end), permit: None }
    }
}

impl Connected for Link {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stay.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
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
