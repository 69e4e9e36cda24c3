//! An engine that took a call and never answers: every call ends by itself.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ApiEngine, CALL_TIME, PING_TIME};
use crate::engine::{ContainerSpec, Engine, Error, Labels};
use crate::task::{OnError, Supervisor};

/// Says who it is, once.
async fn greet(mut stream: UnixStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let answer =
        b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nServer: Docker/20.10.24 (linux)\r\nContent-Length: 2\r\n\r\nOK";
    stream.write_all(answer).await
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends_after_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let supervisor = Supervisor::new("engine", CancellationToken::new());
    supervisor.spawn("hung engine", OnError::Log, async move {
        greet(listener.accept().await?.0).await?;
        // Taken, and never answered.
        let mut connections = Vec::new();
        loop {
            connections.push(listener.accept().await?);
        }
        #[expect(unreachable_code, reason = "it says what it would return")]
        Ok::<(), std::io::Error>(())
    });
    let engine =
        ApiEngine::connect(&socket.display().to_string(), "test", supervisor.clone()).await.expect("it answers");
    // From here on time passes only while everybody waits.
    tokio::time::pause();

    let (labels, spec) = (Labels::new(), ContainerSpec::new("name", "image"));
    let begun = Instant::now();
    let took = |begun: Instant, answer: Result<(), Error>, limit: Duration, what: &str| {
        assert!(answer.as_ref().is_err_and(Error::is_unreachable), "{what}: {answer:?}");
        let took = begun.elapsed();
        assert!((limit..limit + Duration::from_secs(1)).contains(&took), "{what} ended after {took:?}");
        let text = answer.expect_err("it did not answer").to_string();
        assert!(text.contains(&socket.display().to_string()), "{what}: {text}");
    };
    took(begun, engine.ping().await, PING_TIME, "ping");
    macro_rules! ends {
        ($($what:ident($($argument:expr),*))*) => {
            $(
                let begun = Instant::now();
                took(begun, engine.$what($($argument),*).await.map(drop), CALL_TIME, stringify!($what));
            )*
        };
    }
    ends! {
        image("image")
        remove_image("image")
        list_images(&labels)
        ensure_network("net", &labels)
        remove_network("net")
        list_networks(&labels)
        ensure_volume("volume", &labels)
        remove_volume("volume")
        create(&spec)
        start("id")
        kill("id")
        remove("id")
        list(&labels)
        inspect("id")
    }
    // Stopping has the time that the container is given besides.
    let (begun, grace) = (Instant::now(), Duration::from_secs(10));
    took(begun, engine.stop("id", grace).await, grace + CALL_TIME, "stop");
    assert_eq!(CALL_TIME, Duration::from_secs(30));
}
