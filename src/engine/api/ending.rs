//! An engine that looks at a container while its process ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::ApiEngine;
use crate::engine::{ContainerState, Engine, Error};
use crate::task::{OnError, Supervisor};

/// Answers one request: who it is, or what it found of the container.
async fn answer(mut stream: UnixStream, looks: &AtomicUsize, in_vain: usize) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let (status, body) = if !String::from_utf8_lossy(&head).contains("/json") {
        ("200 OK", "OK")
    } else if looks.fetch_add(1, Ordering::Relaxed) < in_vain {
        ("500 Internal Server Error", r#"{"message": "read /proc/2204/cgroup: no such process"}"#)
    } else {
        ("200 OK", r#"{"Id": "abc", "State": {"Status": "exited", "ExitCode": 7}}"#)
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nServer: Libpod/4.3.1 (linux)\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await
}

/// What comes of looking at the container, and how often it was looked at.
async fn look(in_vain: usize) -> (Result<(ContainerState, Option<i64>), Error>, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let supervisor = Supervisor::new("engine", CancellationToken::new());
    let looks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&looks);
    supervisor.spawn("engine", OnError::Log, async move {
        loop {
            answer(listener.accept().await?.0, &count, in_vain).await?;
        }
        #[expect(unreachable_code, reason = "it says what it would return")]
        Ok::<(), std::io::Error>(())
    });
    let engine =
        ApiEngine::connect(&socket.display().to_string(), "test", supervisor.clone()).await.expect("it answers");
    let found = engine.inspect("abc").await.map(|status| (status.state, status.exit_code));
    (found, looks.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_container_that_ends_while_it_is_looked_at_is_looked_at_again() {
    assert_eq!(look(2).await, (Ok((ContainerState::Exited, Some(7))), 3));
    let (refused, looks) = look(usize::MAX).await;
    assert!(matches!(refused, Err(Error::Rejected { .. })), "{refused:?}");
    assert_eq!(looks, 5, "not without end");
}
