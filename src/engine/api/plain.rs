//! Requests that the client library cannot make, or whose answers it does not show whole.

use bytes::Bytes;
use http::header::{HOST, HeaderMap, SERVER};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use crate::engine::Kind;
use crate::task::{OnError, Supervisor};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What an engine says of itself with every answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) kind: Kind,
    pub(super) version: String,
    /// The newest version of Docker's API that it speaks.
    pub(super) api: String,
}

/// Sends one request over a connection of its own, which `supervisor` keeps until both sides are done with it.
pub(super) async fn send(
    address: &str,
    mut request: Request<Full<Bytes>>,
    supervisor: &Supervisor,
) -> Result<Response<Incoming>, Failure> {
    let stream = match address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://")) {
        Some(host) => {
            let stream = TcpStream::connect(host.trim_end_matches('/')).await?;
            // Without it each key of a terminal waits some 40 ms.
            stream.set_nodelay(true)?;
            Either::Left(stream)
        }
        None => Either::Right(UnixStream::connect(address.strip_prefix("unix://").unwrap_or(address)).await?),
    };
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    supervisor.spawn("engine connection", OnError::Log, connection.with_upgrades());
    Ok(sender.send_request(request).await?)
}

/// Asks an engine who it is. Its call for that takes Podman a third of a second, since it asks every program that it uses.
pub(super) async fn greet(address: &str, supervisor: &Supervisor) -> Result<Greeting, Failure> {
    let answer = send(address, Request::get("/_ping").body(Full::default())?, supervisor).await?;
    if !answer.status().is_success() {
        return Err(format!("it answered {} when it was asked for a sign of life", answer.status()).into());
    }
    greeting(answer.headers()).ok_or_else(|| "it does not say which version of Docker's API it speaks".into())
}

fn greeting(headers: &HeaderMap) -> Option<Greeting> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // `Libpod/4.3.1 (linux)`, `Docker/20.10.24 (linux)`.
    let program = text(SERVER.as_str()).and_then(|server| server.split_whitespace().next());
    let version = program.and_then(|program| Some(program.split_once('/')?.1));
    let podman = text("libpod-api-version");
    Some(Greeting {
        kind: if podman.is_some() { Kind::Podman } else { Kind::Docker },
        version: version.or(podman).unwrap_or("of an unknown version").to_owned(),
        api: text("api-version")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting_of(headers: &[(&'static str, &'static str)]) -> Option<Greeting> {
        let header = |(name, value): &(&'static str, &'static str)| {
            (name.parse().expect("a name"), HeaderValue::from_static(value))
        };
        greeting(&headers.iter().map(header).collect())
    }

    #[test]
    fn engines_say_who_they_are_in_the_headers_of_their_answers() {
        let podman = [("api-version", "1.41"), ("libpod-api-version", "4.3.1"), ("server", "Libpod/4.3.1 (linux)")];
        let expected = Greeting { kind: Kind::Podman, version: "4.3.1".to_owned(), api: "1.41".to_owned() };
        assert_eq!(greeting_of(&podman), Some(expected));
        let docker = [("api-version", "1.41"), ("server", "Docker/20.10.24+dfsg1 (linux)")];
        let expected = Greeting { kind: Kind::Docker, version: "20.10.24+dfsg1".to_owned(), api: "1.41".to_owned() };
        assert_eq!(greeting_of(&docker), Some(expected));
        let behind_a_proxy = greeting_of(&[("api-version", "1.41"), ("server", "proxy")]).expect("it speaks the API");
        assert_eq!((behind_a_proxy.kind, behind_a_proxy.version.as_str()), (Kind::Docker, "of an unknown version"));
        assert_eq!(greeting_of(&[("server", "nginx/1.22")]), None, "this is no engine");
    }
}
