//! Commands whose input and output somebody holds, on real engines.

use bytes::Bytes;
use futures::StreamExt;
use narvana::engine::{Attached, Error, ExecOutcome, ExecOutput, ExecSpec, TerminalSize};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::contract::{SLEEP, words};
use crate::harness::{DEADLINE, Harness, until};

const SIZE: TerminalSize = TerminalSize { rows: 31, columns: 117 };

fn piped(argv: &[&str]) -> ExecSpec {
    ExecSpec { argv: words(argv), terminal: None, takes_input: true }
}

fn on_terminal(argv: &[&str]) -> ExecSpec {
    ExecSpec { terminal: Some(SIZE), ..piped(argv) }
}

/// Everything that is written, apart, and the exit code.
async fn all(attached: &mut Attached) -> (Vec<u8>, Vec<u8>, i64) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let item = timeout(DEADLINE, attached.output.next()).await.expect("output in time");
        match item.expect("an end with a code").expect("output") {
            ExecOutput::Stdout(bytes) => out.extend(bytes),
            ExecOutput::Stderr(bytes) => err.extend(bytes),
            ExecOutput::Exited(code) => return (out, err, code),
        }
    }
}

/// Reads until the text is there.
async fn heard(attached: &mut Attached, text: &str) -> String {
    let mut out = String::new();
    while !out.contains(text) {
        let item = timeout(DEADLINE, attached.output.next()).await.unwrap_or_else(|_| panic!("{text} not in {out:?}"));
        match item.expect("it goes on").expect("output") {
            ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => out.push_str(&String::from_utf8_lossy(&bytes)),
            ExecOutput::Exited(code) => panic!("ended with {code}: {out}"),
        }
    }
    out
}

pub(super) async fn pipes_carry_every_byte(harness: Harness) {
    let engine = harness.engine();
    let id = harness.run(&harness.spec("sleep", &SLEEP)).await;
    // More than any buffer on the way holds, and every byte there is.
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut cat = engine.attach(&id, &piped(&["cat"])).await.expect("attached");
    let mut input = std::mem::replace(&mut cat.input, Box::pin(tokio::io::sink()));
    let bytes = Bytes::from(sent.clone());
    let (_, (out, err, code)) = tokio::join!(
        async {
            input.write_all(&bytes).await.expect("taken");
            input.shutdown().await.expect("ended");
        },
        all(&mut cat)
    );
    assert!(out == sent, "{} of {} bytes came back", out.len(), sent.len());
    assert_eq!((err.len(), code), (0, 0));

    let both = ["sh", "-c", "echo out; echo err >&2; exit 9"];
    let mut both = engine.attach(&id, &piped(&both)).await.expect("attached");
    assert_eq!(all(&mut both).await, (b"out\n".to_vec(), b"err\n".to_vec(), 9));

    let nothing = ExecSpec { takes_input: false, ..piped(&["cat"]) };
    let mut nothing = engine.attach(&id, &nothing).await.expect("attached");
    assert_eq!(all(&mut nothing).await, (Vec::new(), Vec::new(), 0), "without input it reads an end");
}

pub(super) async fn a_terminal_has_a_size_and_keys(harness: Harness) {
    let engine = harness.engine();
    let id = harness.run(&harness.spec("sleep", &SLEEP)).await;
    let mut shell = engine.attach(&id, &on_terminal(&["sh"])).await.expect("attached");
    let exec = shell.id.clone();
    // The shell may be asked before it has its size, so it is asked until it has.
    let sizes = "until [ \"$(stty size)\" = '31 117' ]; do :; done; echo first-size\n";
    shell.input.write_all(sizes.as_bytes()).await.expect("taken");
    heard(&mut shell, "\nfirst-size").await;
    engine.resize(&exec, TerminalSize { rows: 40, columns: 90 }).await.expect("resized");
    shell.input.write_all(b"stty size; tty\n").await.expect("taken");
    let seen = heard(&mut shell, "/dev/").await;
    assert!(seen.contains("40 90"), "{seen}");
    // Ctrl-C ends what runs, not the shell; Ctrl-D ends that.
    shell.input.write_all(b"sh -c 'echo begun-$((1 + 1)); exec sleep 1000'\n").await.expect("taken");
    heard(&mut shell, "begun-2").await;
    shell.input.write_all(b"\x03").await.expect("taken");
    shell.input.write_all(b"echo still-$((40 + 2))\n").await.expect("taken");
    // A key that arrives before the shell reads keys again, which its prompt tells, is not an end to it.
    heard(&mut shell, "still-42\r\n/ # ").await;
    shell.input.write_all(b"\x04").await.expect("taken");
    let (_, _, code) = all(&mut shell).await;
    assert!(code == 0 || code == 130, "{code}");
}

/// Whatever they do: wait for a command, have half of one, run another program or another shell, or are stopped.
pub(super) async fn terminals_end_when_they_are_hung_up(harness: Harness) {
    let engine = harness.engine();
    let id = harness.run(&harness.spec("sleep", &SLEEP)).await;
    for (typed, seen) in [
        ("", ""),
        ("echo half-$((40 + 2))", "half-"),
        ("sh -c 'echo begun-$((40 + 2)); exec sleep 1234'\n", "begun-42"),
        ("sh\nsh -c 'echo begun-$((40 + 2)); exec sleep 1234'\n", "begun-42"),
        ("echo begun-$((40 + 2)); kill -STOP $$\n", "begun-42"),
    ] {
        let mut shell = engine.attach(&id, &on_terminal(&["sh"])).await.expect("attached");
        heard(&mut shell, "/ # ").await;
        shell.input.write_all(typed.as_bytes()).await.expect("taken");
        heard(&mut shell, seen).await;
        engine.hang_up(&id, &shell.id).await.expect("hung up");
        all(&mut shell).await;
        engine.hang_up(&id, &shell.id).await.expect("it has ended, which is no trouble");
    }
    // In the moment in which it starts.
    let mut begins = engine.attach(&id, &on_terminal(&["sleep", "1234"])).await.expect("attached");
    engine.hang_up(&id, &begins.id).await.expect("hung up");
    all(&mut begins).await;
    until("nothing is left of them", || async {
        let seen =
            engine.exec(&id, &words(&["sh", "-c", "ps | grep -c '[s]leep 1234'"]), DEADLINE).await.expect("it runs");
        (seen == ExecOutcome::Exited { code: 1, output: b"0\n".to_vec() }).then_some(())
    })
    .await;
}

/// What begins like a frame of the engine's own protocol is passed on like everything else.
pub(super) async fn a_terminal_passes_binary_on(harness: Harness) {
    let engine = harness.engine();
    let id = harness.run(&harness.spec("sleep", &SLEEP)).await;
    let argv = ["sh", "-c", r"printf '\001\000\000\000\177\377\377\377after'; exit 4"];
    let mut binary = engine.attach(&id, &on_terminal(&argv)).await.expect("attached");
    let (out, _, code) = all(&mut binary).await;
    assert_eq!((out.as_slice(), code), (b"\x01\0\0\0\x7f\xff\xff\xffafter".as_slice(), 4));
}

pub(super) async fn what_cannot_run_says_so(harness: Harness) {
    let engine = harness.engine();
    let id = harness.run(&harness.spec("sleep", &SLEEP)).await;
    for spec in [piped(&["no-such-command"]), on_terminal(&["no-such-command"])] {
        let mut missing = engine.attach(&id, &spec).await.expect("an answer");
        let (out, err, code) = all(&mut missing).await;
        let said = String::from_utf8_lossy(&[out, err].concat()).into_owned();
        assert!(matches!(code, 126 | 127) && said.contains("no-such-command"), "{code} {said}");
    }
    // A command ends with its container.
    let mut sleep = engine.attach(&id, &piped(&["sleep", "1000"])).await.expect("attached");
    engine.kill(&id).await.expect("killed");
    let (_, _, code) = all(&mut sleep).await;
    assert_ne!(code, 0);
    let refused = until("it is refused", || async { engine.attach(&id, &piped(&["true"])).await.err() }).await;
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    let gone = engine.attach("narvana-no-such-container", &piped(&["true"])).await.err();
    assert!(matches!(gone, Some(Error::NotFound { .. })), "{gone:?}");
}
