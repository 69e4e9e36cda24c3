//! The way out of a fence: a proxy for HTTP that checks where it leads to.
//!
//! It runs as a part of the build and ends with it. Programs that do not ask a proxy find no network: those that fetch for Nix do, as
//! half of the world's offices are behind one.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::decide::fetching::{Asked, HEAD_BYTES_MAX, HEAD_END, Reach, asked};

/// Connections at once. Nix has 25 of its own; more wait.
const CONNECTIONS_MAX: usize = 128;
/// Longest wait for a request, a name, a connection.
const REQUEST_MAX: Duration = Duration::from_secs(30);
const RESOLVE_MAX: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Pause after a connection could not be taken, such as for want of files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Lets out of a fence.
pub(super) struct Proxy<'a> {
    /// Where to.
    pub(super) reach: Reach,
    /// The log of the build, which says what was refused.
    pub(super) lines: &'a mpsc::Sender<String>,
}

/// Why a request gets none of what it asks for.
struct Refusal {
    status: &'static str,
    reason: String,
}

impl Refusal {
    fn new(status: &'static str, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

impl Proxy<'_> {
    /// Answers what comes, as long as it is asked to.
    pub(super) async fn serve(&self, listener: TcpListener) -> Infallible {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                stream = accept(&listener), if open.len() < CONNECTIONS_MAX => open.push(self.answer(stream)),
                Some(()) = open.next(), if !open.is_empty() => {}
            }
        }
    }

    async fn answer(&self, mut client: TcpStream) {
        let Ok(Ok((head, rest))) = timeout(REQUEST_MAX, read_head(&mut client)).await else { return };
        match self.open(&head).await {
            Ok((mut server, first)) => {
                let (to_client, to_server) = match first {
                    Some(head) => (&b""[..], head),
                    None => (&b"HTTP/1.1 200 Connection established\r\n\r\n"[..], Vec::new()),
                };
                let passed = async {
                    client.write_all(to_client).await?;
                    server.write_all(&to_server).await?;
                    server.write_all(&rest).await?;
                    copy_bidirectional(&mut client, &mut server).await
                };
                // Either end may break off; the other one sees it.
                let _ = passed.await;
            }
            Err(Refusal { status, reason }) => {
                // The log is best effort, and its reader outlives this work.
                let _ = self.lines.send(format!("Not fetched: {reason}.")).await;
                let length = reason.len() + 1;
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{reason}\n"
                );
                // Who does not wait for it has gone.
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
            }
        }
    }

    /// A connection to what is asked for, and what its server is told first.
    async fn open(&self, head: &[u8]) -> Result<(TcpStream, Option<Vec<u8>>), Refusal> {
        let asked = asked(head).map_err(|problem| Refusal::new("400 Bad Request", problem.0))?;
        let Asked { host, port, .. } = &asked;
        let unreachable = |cause: String| Refusal::new("502 Bad Gateway", format!("{host}:{port} {cause}"));
        let found = timeout(RESOLVE_MAX, lookup_host((host.as_str(), *port))).await;
        let found = found.map_err(|_| unreachable("could not be resolved in time".to_owned()))?;
        let found: Vec<SocketAddr> =
            found.map_err(|error| unreachable(format!("could not be resolved ({error})")))?.collect();
        let addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
        if let Some(why) = self.reach.refusal(&asked, &addresses) {
            return Err(Refusal::new("403 Forbidden", format!("{host}:{port} is {why}")));
        }
        let mut last = unreachable("has no address".to_owned());
        for address in found.into_iter().take(ADDRESSES_MAX) {
            match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(server)) => return Ok((server, asked.passed_on)),
                Ok(Err(error)) => last = unreachable(format!("cannot be reached ({error})")),
                Err(_) => last = unreachable("does not answer".to_owned()),
            }
        }
        Err(last)
    }
}

/// The next connection. While none can be taken, those that are open go on.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => sleep(ACCEPT_AGAIN_AFTER).await,
        }
    }
}

/// A request up to its body, and what came of that already.
async fn read_head(client: &mut TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END);
        if let Some(end) = end {
            let rest = bytes.split_off(end + HEAD_END.len());
            return Ok((bytes, rest));
        }
        if bytes.len() >= HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that tells what it was asked, and a proxy that leads to it and nowhere else.
    async fn through(request: impl Fn(u16) -> String) -> (String, Vec<String>) {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = server.local_addr().expect("bound").port();
        let proxy = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let at = proxy.local_addr().expect("bound");
        let (lines, mut said) = mpsc::channel(8);
        let reach = Reach { allow_loopback: false, named: vec![("localhost".to_owned(), port)] };
        let proxy_of = Proxy { reach, lines: &lines };
        let serving = async {
            loop {
                let (mut stream, _) = server.accept().await.expect("a client");
                let (head, rest) = read_head(&mut stream).await.expect("a request");
                let first = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
                let answer = format!("server heard {first} and {}", String::from_utf8_lossy(&rest));
                stream.write_all(answer.as_bytes()).await.expect("it listens");
            }
        };
        let asking = async {
            let mut client = TcpStream::connect(at).await.expect("a proxy");
            client.write_all(request(port).as_bytes()).await.expect("it listens");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("an answer");
            answer
        };
        let answer = tokio::select! {
            answer = asking => answer,
            () = serving => unreachable!("it goes on"),
            never = proxy_of.serve(proxy) => match never {},
        };
        said.close();
        let mut all = Vec::new();
        while let Some(line) = said.recv().await {
            all.push(line);
        }
        (answer, all)
    }

    #[tokio::test]
    async fn requests_and_tunnels_lead_to_what_may_be_reached() {
        let (answer, said) =
            through(|port| format!("GET http://localhost:{port}/x HTTP/1.1\r\nHost: localhost:{port}\r\n\r\nbody"))
                .await;
        assert!(answer.starts_with("server heard GET /x HTTP/1.1"), "{answer}");
        assert!(said.is_empty(), "{said:?}");
        let (answer, _) =
            through(|port| format!("CONNECT localhost:{port} HTTP/1.1\r\n\r\nGET /y HTTP/1.1\r\n\r\nrest")).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 Connection established\r\n\r\nserver heard GET /y HTTP/1.1"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn what_is_of_the_machine_is_refused_and_said() {
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"] {
            let (answer, said) = through(|port| format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403 Forbidden"), "{host}: {answer}");
            assert!(said.len() == 1 && said[0].starts_with("Not fetched: "), "{said:?}");
        }
        let (answer, _) = through(|_| "GET / HTTP/1.1\r\n\r\n".to_owned()).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request"), "{answer}");
    }
}
