//! Starting a command on a terminal.
//!
//! The client library takes the bytes of a terminal for frames when they begin with a control character: a program that
//! writes binary data would hang. So this call is made without it; what comes afterwards is bytes and nothing else.

use std::fmt::Display;

use futures::StreamExt;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio_util::io::ReaderStream;

use super::ApiEngine;
use super::call::Call;
use super::exec::Pipes;
use super::plain;
use crate::engine::{Error, ExecOutput};

/// Longest refusal that is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

#[derive(serde::Deserialize)]
struct Refusal {
    message: String,
}

/// Starts a prepared command that was given a terminal.
pub(super) async fn start(engine: &ApiEngine, call: &Call, exec: &str) -> Result<Pipes, Error> {
    fn broken<E: Display>(call: &Call) -> impl Fn(E) -> Error {
        |error| call.unreachable(error.to_string())
    }
    let request = Request::post(format!("/exec/{exec}/start"))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "tcp")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(r#"{"Detach":false,"Tty":true}"#))
        .map_err(|error| call.garbled(error.to_string()))?;
    let response = plain::send(&engine.description.address, request, &engine.supervisor).await.map_err(broken(call))?;
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
