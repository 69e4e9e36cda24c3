//! Starting a command on a terminal.
//!
//! The client library takes the bytes of a terminal for frames when they begin with a control character: a program that
//! writes binary data would hang. So this one call is made without it; what comes afterwards is bytes and nothing else.

use std::fmt::Display;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::ReaderStream;

use super::ApiEngine;
use super::call::Call;
use super::exec::Pipes;
use crate::engine::{Error, ExecOutput};
use crate::task::OnError;

/// Longest refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

#[derive(serde::Deserialize)]
struct Refusal {
    message: String,
}

/// Starts a prepared command that was given a terminal.
pub(super) async fn start(engine: &ApiEngine, call: &Call, exec: &str) -> Result<Pipes, Error> {
    let address = engine.description.address.as_str();
    let unreachable = |error: std::io::Error| call.unreachable(error.to_string());
    match address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://")) {
        Some(host) => {
            let stream = TcpStream::connect(host.trim_end_matches('/')).await.map_err(unreachable)?;
            // Without it each key waits some 40 ms.
            stream.set_nodelay(true).map_err(unreachable)?;
            start_over(stream, engine, call, exec).await
        }
        None => {
            let path = address.strip_prefix("unix://").unwrap_or(address);
            start_over(UnixStream::connect(path).await.map_err(unreachable)?, engine, call, exec).await
        }
    }
}

async fn start_over<S>(stream: S, engine: &ApiEngine, call: &Call, exec: &str) -> Result<Pipes, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn broken<E: Display>(call: &Call) -> impl Fn(E) -> Error {
        |error| call.unreachable(error.to_string())
    }
    let request = Request::post(format!("/exec/{exec}/start"))
        .header(HOST, "localhost")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(r#"{"Detach":false,"Tty":true}"#))
        .map_err(|error| call.garbled(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken(call))?;
    engine.supervisor.spawn("engine terminal", OnError::Log, connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(broken(call))?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await.map_err(broken(call))?;
        let body = body.to_bytes();
        let said = serde_json::from_slice(&body).map(|refusal: Refusal| refusal.message);
        return Err(call.refusal(status.as_u16(), said.unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned())));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(broken(call))?;
    let (output, input) = tokio::io::split(TokioIo::new(upgraded));
    let call = call.clone();
    let pieces = ReaderStream::new(output).map(move |piece| match piece {
        Ok(piece) => Ok(ExecOutput::Stdout(piece)),
        Err(error) => Err(call.unreachable(error.to_string())),
    });
    Ok((pieces.boxed(), Box::pin(input)))
}
