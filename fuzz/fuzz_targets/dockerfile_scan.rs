//! Dockerfiles, before an engine sees them.
//!
//! A refusal has lines that are there and messages without control characters. What is accepted names images and ports
//! that are some, stays accepted when the operator allows more, asks for no host network and no elevated build on any line
//! that begins an instruction, and is refused as soon as a forbidden line follows.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use narvana::decide::dockerfile::{MAX_BYTES, Options, Problem, Scan, scan};

/// What no accepted file may do, each a line of its own.
const FORBIDDEN: [&str; 6] = [
    "RUN --security=insecure id",
    "run --network=host id",
    "RUN --mount=type=bind,from=x,source=/,target=/x id",
    "WORKDIR /proc/self/fd/8",
    "FROM localhost/other-org-image",
    "ADD http://169.254.169.254/latest /",
];

fuzz_target!(|text: &str| {
    let strict = Options::default();
    let found = match scan(text, &strict) {
        Ok(found) => found,
        Err(problems) => return refused(text, &problems),
    };
    accepted(text, &found);
    let loopback = Options { allow_loopback: true, ..Options::default() };
    assert_eq!(scan(text, &loopback).as_ref(), Ok(&found), "allowing more changes what is found");
    // A line that is read as part of the one before is an argument, not an instruction; empty lines and comments between
    // them change nothing.
    let said = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    if text.lines().rev().find(said).is_some_and(|line| line.trim_end().ends_with(['\\', '`'])) {
        return;
    }
    assert_eq!(scan(&format!("{text}\n# the end\n"), &strict).as_ref(), Ok(&found), "a comment counts");
    if text.len() < MAX_BYTES - 100 {
        for line in FORBIDDEN {
            assert!(scan(&format!("{text}\n{line}\n"), &strict).is_err(), "accepted with {line}");
        }
    }
});

fn refused(text: &str, problems: &[Problem]) {
    let lines = text.lines().count().max(1);
    assert!(!problems.is_empty());
    assert!(problems.is_sorted_by_key(|problem| problem.line), "{problems:?}");
    for Problem { line, message } in problems {
        assert!((1..=lines).contains(line), "line {line} of {lines}: {message}");
        assert!(!message.chars().any(char::is_control), "{message:?}");
        assert!(message.len() < 2_000, "{} bytes: {message}", message.len());
    }
}

fn accepted(text: &str, found: &Scan) {
    let lines = text.lines().count();
    assert!(!found.stages.is_empty());
    assert!(found.stages.iter().all(|stage| (1..=lines).contains(&stage.line) && !stage.base.is_empty()));
    assert!(found.stages.is_sorted_by_key(|stage| stage.line));
    let ports: BTreeSet<u16> = found.exposed_ports.iter().copied().collect();
    assert!(ports.len() == found.exposed_ports.len() && !ports.contains(&0), "{:?}", found.exposed_ports);
    for image in &found.base_images {
        assert!(!image.starts_with('-') && image != "scratch", "{image}");
        assert!(!image.contains(|c: char| c.is_whitespace() || c.is_control() || c == '$'), "{image:?}");
        let host = image.split(['/', ':']).next().expect("a first part");
        assert!(!["localhost", "127.0.0.1", "169.254.169.254"].contains(&host) || !image.contains('/'), "{image}");
    }
    for warning in &found.warnings {
        assert!(!warning.message.chars().any(char::is_control), "{:?}", warning.message);
    }
    // Read once more, by somebody who knows nothing of variables, quotes and here-documents: a line that begins an
    // instruction and has one of these flags in front of its command.
    let mut continued = false;
    for line in text.lines() {
        let words: Vec<String> = line.split_whitespace().map(str::to_ascii_lowercase).collect();
        let mut words = words.iter().map(String::as_str).skip_while(|word| *word == "onbuild");
        if !continued && words.next() == Some("run") {
            for flag in words.take_while(|word| word.starts_with("--")) {
                assert!(!["--security=insecure", "--network=host"].contains(&flag), "{line}");
            }
        }
        continued = line.contains(['\\', '`']) || (continued && line.trim_start().starts_with('#'));
    }
}
