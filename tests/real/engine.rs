//! Container engines: the contract on the fake and on real ones; what only real ones can show on both of these.

mod attach;
mod builds;
mod contract;
mod service;
mod store;
mod trouble;

use std::net::SocketAddr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use narvana::clock;
use narvana::engine::fake::{End, FakeEngine, Script};
use narvana::engine::{
    ContainerSpec, ContainerState, ContainerStatus, ExecOutcome, Image, Labels, LogLine, LogStream, LogsFrom,
    NetworkAttachment, PublishedPort,
};
use narvana::model::{Memory, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{BUSYBOX, DEADLINE, Harness, until};

/// Makes two tests of one body.
macro_rules! on_both_engines {
    ($($module:ident::$body:ident)*) => {
        mod podman {
            $(#[tokio::test]
            async fn $body() {
                super::$module::$body(super::Harness::podman().await).await;
            })*
        }
        mod docker {
            $(#[tokio::test]
            async fn $body() {
                super::$module::$body(super::Harness::docker().await).await;
            })*
        }
    };
}

on_both_engines! {
    run::keeps_the_contract
    run::serves_on_loopback_and_by_alias
    run::tells_that_memory_ran_out
    run::gives_few_rights
    run::cuts_long_lines_and_waits_for_quiet_ones
    builds::failure_carries_the_last_lines
    builds::processes_are_bounded
    builds::dropping_ends_the_running_step
    store::an_image_goes_and_comes_back
    store::moves_images_as_every_engine_does
    attach::pipes_carry_every_byte
    attach::a_terminal_has_a_size_and_keys
    attach::a_terminal_passes_binary_on
    attach::terminals_end_when_they_are_hung_up
    attach::what_cannot_run_says_so
    trouble::a_hung_engine_is_unreachable
    trouble::a_killed_engine_ends_streams
    trouble::what_runs_on_a_hung_engine_is_ended_without_it
    trouble::a_new_connection_finds_what_runs
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let fake = FakeEngine::new();
    fake.set_time(clock::now().plus(Duration::from_secs(3_600)));
    let id = format!("sha256:{}", "0".repeat(64));
    fake.add_image(
        BUSYBOX,
        Image {
            id,
            bytes: 1,
            exposed_ports: vec![(8080, Protocol::Tcp)],
            architecture: Some("amd64".to_owned()),
            digest: None,
        },
    );
    let line = |stream, text: &str| (stream, text.to_owned());
    let says = |lines, end| Script { lines, end, ..Script::default() };
    let (out, err) = (LogStream::Stdout, LogStream::Stderr);
    let chat = vec![line(out, "one"), line(err, "two"), line(out, "hello")];
    fake.script_command(&contract::CHATTY, says(chat, Some(End::Exit(7))));
    fake.script_command(&contract::FAILS, says(vec![line(out, "out")], Some(End::Exit(3))));
    fake.script_command(&contract::HANGS, says(Vec::new(), None));
    contract::all(&fake, "fake", &Labels::from([("narvana.test".to_owned(), "fake".to_owned())])).await;
}

/// What containers do that run.
mod run {
    use super::*;

    pub(super) async fn keeps_the_contract(harness: Harness) {
        contract::all(harness.engine(), &harness.name("contract"), &harness.labels()).await;
    }

    pub(super) async fn serves_on_loopback_and_by_alias(harness: Harness) {
        let engine = harness.engine();
        let network = harness.name("net");
        engine.ensure_network(&network, &harness.labels()).await.expect("a network");
        let attached = |alias: &str| Some(NetworkAttachment { name: network.clone(), aliases: vec![alias.to_owned()] });
        let mut web = harness.spec("web", &[]);
        web.ports = vec![PublishedPort { container_port: 8080, protocol: Protocol::Tcp }];
        web.network = attached("web.shop.internal");
        let id = harness.run(&web).await;

        let host = engine.inspect(&id).await.expect("it runs").bindings[0].host;
        let page =
            until("the page on loopback", || async { get(host).await.filter(|answer| answer.contains("hello")) });
        assert!(page.await.ends_with("\r\n\r\nhello from narvana\n"));

        let mut visitor = harness.spec("visitor", &contract::SLEEP);
        visitor.network = attached("visitor");
        let visitor = harness.run(&visitor).await;
        let fetch = contract::words(&["wget", "-q", "-O", "-", "http://web.shop.internal:8080/"]);
        let page = until("the page by alias", || async {
            let answer = engine.exec(&visitor, &fetch, DEADLINE).await.expect("an answer");
            matches!(answer, ExecOutcome::Exited { code: 0, .. }).then_some(answer)
        });
        assert_eq!(page.await, ExecOutcome::Exited { code: 0, output: b"hello from narvana\n".to_vec() });
        for id in [&id, &visitor] {
            engine.remove(id).await.expect("removed");
        }
        engine.remove_network(&network).await.expect("removed");
    }

    pub(super) async fn tells_that_memory_ran_out(harness: Harness) {
        let limited = |name: &str, command: &str| {
            let mut spec = harness.spec(name, &["sh", "-c", command]);
            spec.memory = Memory::from_mebibytes(32);
            spec
        };
        let greedy = exited(&harness, &limited("greedy", "x=a; while true; do x=$x$x; done")).await;
        assert_eq!((greedy.exit_code, greedy.oom_killed), (Some(137), true), "{greedy:?}");
        let killed = exited(&harness, &limited("killed", "kill -9 $$")).await;
        assert_eq!((killed.exit_code, killed.oom_killed), (Some(137), false), "{killed:?}");
    }

    pub(super) async fn gives_few_rights(harness: Harness) {
        let spec = harness.spec("rights", &["grep", "-E", "CapEff|CapBnd|NoNewPrivs", "/proc/self/status"]);
        let id = exited(&harness, &spec).await.id;
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID and NET_BIND_SERVICE.
        assert_eq!(
            log(&harness, &id, LogsFrom::default()).await,
            ["CapEff:\t00000000000004fb", "CapBnd:\t00000000000004fb", "NoNewPrivs:\t1"]
        );
    }

    pub(super) async fn cuts_long_lines_and_waits_for_quiet_ones(harness: Harness) {
        let write = "sleep 2; i=0; while [ $i -lt 5000 ]; do printf 0123456789; i=$((i+1)); done; echo; printf end";
        let id = harness.run(&harness.spec("long", &["sh", "-c", write])).await;
        let lines: Vec<LogLine> = harness
            .engine()
            .logs(&id, LogsFrom { follow: true, ..LogsFrom::default() })
            .try_collect()
            .await
            .expect("a log");
        assert_eq!(lines.len(), 2);
        assert!(lines[0].cut && lines[0].bytes.len() == narvana::engine::LINE_BYTES_MAX);
        assert_eq!((&lines[1].bytes[..], lines[1].cut), (&b"end"[..], false));
    }
}

/// What a server at that address answers, headers included.
async fn get(host: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(host).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// Runs a container to its end.
async fn exited(harness: &Harness, spec: &ContainerSpec) -> ContainerStatus {
    let id = harness.run(spec).await;
    until("the container exits", || async {
        let status = harness.engine().inspect(&id).await.expect("it is there");
        (status.state == ContainerState::Exited).then_some(status)
    })
    .await
}

async fn log(harness: &Harness, id: &str, from: LogsFrom) -> Vec<String> {
    let lines: Vec<LogLine> = harness.engine().logs(id, from).try_collect().await.expect("a log");
    contract::texts(&lines)
}

/// Whether a stream ends, with an error or without.
async fn ends<T>(stream: &mut (impl StreamExt<Item = T> + Unpin)) {
    let end = async { while stream.next().await.is_some() {} };
    tokio::time::timeout(DEADLINE, end).await.expect("the stream ends");
}
