//! One connection to an instance.
//!
//! hyper splits a client connection into a sender and a driver that moves the bytes. Here whoever uses the connection
//! polls the driver in its own task: no task per backend connection, no hand-over between threads per request, and a
//! request whose client is gone ends by being dropped.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::RequestBody;

pub(super) struct Link {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended (or was handed over to an upgrade).
    driver: Option<BoxFuture<'static, hyper::Result<()>>>,
    used: Instant,
}

impl Link {
    /// Connects. An error means that the instance has seen nothing.
    pub(super) async fn open(address: SocketAddr, limit: Duration) -> io::Result<Self> {
        let connect = tokio::time::timeout(limit, TcpStream::connect(address));
        let stream = connect.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    /// Uses a connection that was opened just now.
    pub(super) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> io::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = Some(Box::pin(connection.with_upgrades()) as BoxFuture<'static, _>);
        Ok(Self { sender, driver, used: Instant::now() })
    }

    /// Sends a request and waits for the head of its answer. The answer's body moves only while [`Link::drive`] is
    /// polled.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        poll_fn(|context| {
            drive(driver, context);
            answer.as_mut().poll(context)
        })
        .await
    }

    /// Moves what can be moved in either direction.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        drive(&mut self.driver, context);
    }

    /// Puts the connection to rest after an answer. `false`: it cannot carry another request.
    pub(super) fn rest(&mut self) -> bool {
        self.used = Instant::now();
        self.is_usable()
    }

    /// Whether a request may be sent. Notices a connection that the instance has closed meanwhile.
    pub(super) fn is_usable(&mut self) -> bool {
        // Nobody waits on a resting connection; the next user registers its own waker.
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.used.elapsed()
    }
}

fn drive(driver: &mut Option<BoxFuture<'static, hyper::Result<()>>>, context: &mut Context<'_>) {
    if let Some(running) = driver
        && let Poll::Ready(end) = Pin::new(running).poll(context)
    {
        if let Err(error) = end {
            tracing::debug!(%error, "a connection to an instance ended");
        }
        // Dropped, so that whoever still waits on it is told at once.
        *driver = None;
    }
}
