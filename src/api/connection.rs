//! One connection: told apart by its first byte, served until it ends or the node stops.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::network::Watched;

use super::Peer;

/// A TLS connection begins with a handshake record (RFC 8446, section 5.1), which no HTTP method begins with.
const TLS_HANDSHAKE: u8 = 0x16;
/// Requests at once on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 128;
/// Answer bytes held for a client that does not read, beyond what the system holds.
const WRITE_BUFFER_BYTES: usize = 256 * 1024;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For the head of a request and the TLS handshake.
    pub(super) header_wait: Duration,
    /// To take the next part of an answer.
    pub(super) write_wait: Duration,
    /// Size of a request's head.
    pub(super) head_bytes: usize,
}

/// A client that has connected.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) router: Router,
    pub(super) limits: Limits,
    pub(super) stopping: CancellationToken,
}

impl Connection {
    /// Serves it to its end. What goes wrong is the client's affair, or visible as its broken connection.
    pub(super) async fn serve(self) {
        if let Err(error) = self.stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot turn off delays");
        }
        let mut first = [0];
        let seen = tokio::select! {
            () = self.stopping.cancelled() => return,
            seen = timeout(self.limits.header_wait, self.stream.peek(&mut first)) => seen,
        };
        if !matches!(seen, Ok(Ok(1))) {
            return;
        }
        let Self { stream, peer, tls, router, limits, stopping } = self;
        if first[0] != TLS_HANDSHAKE {
            return answer(stream, Peer { address: peer, tls: false }, router, limits, stopping).await;
        }
        let Some(acceptor) = tls else { return };
        match timeout(limits.header_wait, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => answer(stream, Peer { address: peer, tls: true }, router, limits, stopping).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
        }
    }
}

async fn answer<S>(stream: S, peer: Peer, router: Router, limits: Limits, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Watched::new(stream, limits.head_bytes);
    let verdict = stream.verdict();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        if let Some(flaw) = verdict.flaw() {
            request.extensions_mut().insert(flaw);
        }
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_wait)
        .max_buf_size(WRITE_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(limits.write_wait)
        .max_send_buf_size(WRITE_BUFFER_BYTES);
    let io = TokioIo::new(Impatient::new(stream, limits.write_wait));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %peer.address, %error, "connection ended with an error");
    }
}

/// Gives up on a client that takes nothing: without this, one that never reads would hold its connection for ever.
struct Impatient<S> {
    stream: S,
    wait: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(stream: S, wait: Duration) -> Self {
        Self { stream, wait, stalled: None }
    }

    /// Passes a result on, and counts the time while there is none.
    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let wait = self.wait;
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + wait)));
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, buf);
        self.watch(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.watch(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, result)
    }
}
