//! Carrying out one health check. What its results mean is decided in `decide::probe`.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::engine::{Engine, ExecOutcome};
use crate::model::{HealthCheck, PortBinding, Probe, Protocol};

/// A published port accepts connections even while nothing listens behind it, and closes them at once. One that is
/// still open after this time has somebody on it.
const STAYS_OPEN_FOR: Duration = Duration::from_millis(100);
/// Bytes of a failed command's output that are worth showing.
const OUTPUT_SHOWN: usize = 200;

/// Why a check did not pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The instance failed it: what was seen, in words.
    Failed(String),
    /// The engine did not answer, so nothing was seen of the instance.
    NotSeen,
}

/// Runs the check once. A failure while the engine is away is none of the instance's: the engine may be what forwards its
/// ports.
pub(super) async fn check(
    engine: &dyn Engine,
    container: &str,
    ports: &[PortBinding],
    check: &HealthCheck,
) -> Result<(), Trouble> {
    match run(engine, container, ports, check).await {
        Err(Trouble::Failed(_)) if engine.ping().await.is_err() => Err(Trouble::NotSeen),
        seen => seen,
    }
}

async fn run(engine: &dyn Engine, container: &str, ports: &[PortBinding], check: &HealthCheck) -> Result<(), Trouble> {
    let limit = Duration::from_secs(u64::from(check.timeout_seconds));
    let seen = match &check.probe {
        Probe::Http { path, port } => {
            let address = address_of(ports, *port).map_err(Trouble::Failed)?;
            let answer = tokio::time::timeout(limit, get(address, path)).await;
            answer
                .unwrap_or_else(|_| Err(format!("no answer within {} s", check.timeout_seconds)))
                .map_err(|seen| format!("GET {path}: {seen}"))
        }
        Probe::Tcp { port } => {
            let address = address_of(ports, *port).map_err(Trouble::Failed)?;
            let open = tokio::time::timeout(limit, connect(address)).await;
            open.unwrap_or_else(|_| Err(format!("no connection within {} s", check.timeout_seconds)))
        }
        Probe::Command { command } => match engine.exec(container, command, limit).await {
            Ok(ExecOutcome::Exited { code: 0, .. }) => Ok(()),
            Ok(ExecOutcome::Exited { code, output }) => {
                Err(format!("the command ended with exit code {code}: {}", shown(&output)))
            }
            Ok(ExecOutcome::TimedOut { .. }) => {
                Err(format!("the command took longer than {} s", check.timeout_seconds))
            }
            Err(error) if error.is_unreachable() => return Err(Trouble::NotSeen),
            Err(error) => Err(error.to_string()),
        },
    };
    seen.map_err(Trouble::Failed)
}

fn address_of(ports: &[PortBinding], wanted: Option<u16>) -> Result<SocketAddr, String> {
    ports
        .iter()
        .find(|binding| binding.protocol == Protocol::Tcp && wanted.is_none_or(|port| port == binding.container_port))
        .map(|binding| SocketAddr::from(([127, 0, 0, 1], binding.host_port)))
        .ok_or_else(|| "the port is not published".to_owned())
}

async fn get(address: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = http::Request::get(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::USER_AGENT, concat!("narvana/", env!("CARGO_PKG_VERSION")))
        .header(http::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(answer.status())
    };
    let mut answer = std::pin::pin!(answer);
    // The connection makes progress only while it is polled. A short answer and the end of the connection can arrive
    // together: then the connection is done first, and the answer is there all the same.
    let status = tokio::select! {
        status = &mut answer => status,
        _ended = connection => answer.await,
    }?;
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("answered {status}")) }
}

async fn connect(address: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    match tokio::time::timeout(STAYS_OPEN_FOR, stream.read(&mut [0; 1])).await {
        Err(_) | Ok(Ok(1..)) => Ok(()),
        Ok(_) => Err("nothing listens on the port".to_owned()),
    }
}

fn shown(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(&output[..output.len().min(OUTPUT_SHOWN)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::{FakeEngine, Fault};

    #[tokio::test]
    async fn what_fails_while_the_engine_is_away_is_not_held_against_the_instance() {
        let (engine, tcp) = (FakeEngine::new(), Probe::Tcp { port: None });
        let tcp = HealthCheck { probe: tcp, interval_seconds: 1, timeout_seconds: 1, retries: 1 };
        let command = Probe::Command { command: vec!["true".to_owned()] };
        let command = HealthCheck { probe: command, ..tcp.clone() };
        // Nobody listens on port 1.
        let ports = [PortBinding { container_port: 8080, protocol: Protocol::Tcp, host_port: 1 }];
        assert!(matches!(check(&engine, "c", &ports, &tcp).await, Err(Trouble::Failed(_))));
        assert!(matches!(check(&engine, "c", &ports, &command).await, Err(Trouble::Failed(_))));
        engine.set_fault(Fault::Unreachable);
        assert_eq!(check(&engine, "c", &ports, &tcp).await, Err(Trouble::NotSeen));
        assert_eq!(check(&engine, "c", &ports, &command).await, Err(Trouble::NotSeen));
    }
}
