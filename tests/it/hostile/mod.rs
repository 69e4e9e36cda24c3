//! Hostile input against a live node: one table of numbered inputs, one file per family.
//!
//! The node is the real program as a process of its own, without an engine; requests are bytes on a socket, since HTTP
//! clients refuse to send most of this. Every number of the list has a row. A row that needs an engine, or a fault that a
//! node cannot be given from outside, names the test that has it; one that does not apply yet says why. Where status,
//! code or limit differ from what the list proposes (its `E_*` codes, 422 for a field out of range), the API's own
//! documented choice is what is expected here: 400 `invalid_request` with the field in `details`.

mod archive;
mod between_nodes;
mod cli_config;
mod data;
mod dockerfile_image;
mod env_names;
mod git;
mod http;
mod interrupt;
mod joining;
mod live;
mod logs;
mod token;

use std::collections::BTreeMap;
use std::path::Path;

use live::Live;

/// One input of the list.
struct Row {
    /// Its number in the list.
    number: u16,
    /// What is sent, in words.
    sent: &'static str,
    /// All of these hold.
    checks: &'static [Check],
}

/// What is expected.
enum Check {
    /// Each of these requests of the owner is refused.
    Refused(&'static [Refused]),
    /// Whatever takes more than a table.
    Live(fn(&Live)),
    /// This test of this file, which runs in the same suite, has it.
    Test(&'static str, &'static str),
    /// Nothing takes such input yet, for this reason.
    NotYet(&'static str),
}

/// A request and its refusal: method, path, body, status, code, and the field that `details` names (or nothing).
type Refused = (&'static str, &'static str, &'static str, u16, &'static str, &'static str);

const FAMILIES: [&[Row]; 10] = [
    http::ROWS,
    between_nodes::ROWS,
    joining::ROWS,
    cli_config::ROWS,
    git::ROWS,
    archive::ROWS,
    dockerfile_image::ROWS,
    env_names::ROWS,
    logs::ROWS,
    data::ROWS,
];

/// Runs all rows of a family against one node, which must live afterwards and must not have been surprised.
fn run(rows: &[Row]) {
    let live = Live::start();
    for row in rows {
        for check in row.checks {
            eprintln!("row {}: {}", row.number, row.sent);
            match check {
                Check::Refused(requests) => requests.iter().for_each(|request| refused(&live, request)),
                Check::Live(check) => check(&live),
                Check::Test(..) | Check::NotYet(_) => {}
            }
        }
        let health = live.ask_as("", "GET", "/health", b"");
        assert_eq!(health.status, 200, "after row {}: {}", row.number, live.log());
    }
    let log = live.log();
    for bad in ["panicked", "a request failed", "ERROR"] {
        assert!(!log.contains(bad), "{bad}: {log}");
    }
}

fn refused(live: &Live, (method, path, body, status, code, field): &Refused) {
    let reply = live.ask(method, path, body.as_bytes());
    let shown: String = format!("{method} {path} {body}").chars().take(200).collect();
    reply.refused(*status, code, &shown);
    if !field.is_empty() {
        assert!(reply.json["details"].get(field).is_some(), "{shown}: {}", reply.text);
    }
}

/// Whether a file has a function of this name that the test runner runs: one with the attribute of a test above it.
pub(crate) fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |line: &str| ["fn ", "async fn "].iter().any(|word| line.starts_with(&format!("{word}{name}(")));
    let Some(at) = lines.iter().position(|line| begins(line)) else { return false };
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    above.into_iter().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
}

#[test]
fn only_what_is_run_counts_as_a_test() {
    let text = "async fn body(kind: Kind) {\n}\n#[test]\nfn plain() {}\n\n#[tokio::test(start_paused = true)]\n// Why.\nasync fn later() {}\n#[test]\n\nfn apart() {}\n";
    let found: Vec<&str> =
        ["body", "plain", "later", "apart", "none"].into_iter().filter(|name| has_test(text, name)).collect();
    assert_eq!(found, ["plain", "later"]);
}

#[test]
fn every_number_of_the_list_has_a_row_with_a_check_that_exists() {
    let mut rows = BTreeMap::new();
    for row in FAMILIES.into_iter().flatten() {
        assert!(!row.checks.is_empty() && !row.sent.is_empty(), "row {} is empty", row.number);
        assert!(rows.insert(row.number, row).is_none(), "row {} is there twice", row.number);
        for check in row.checks {
            match check {
                Check::Test(file, name) => {
                    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
                    let text = text.unwrap_or_else(|error| panic!("row {}: {file}: {error}", row.number));
                    assert!(has_test(&text, name), "row {}: {file} has no test {name}", row.number);
                }
                Check::NotYet(reason) => assert!(reason.len() > 20, "row {} has no reason", row.number),
                Check::Refused(requests) => assert!(!requests.is_empty(), "row {} asks nothing", row.number),
                Check::Live(_) => {}
            }
        }
    }
    // Rows that nobody runs hold nothing.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/hostile");
    for file in std::fs::read_dir(folder).expect("a folder") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let (has_rows, run) = (text.contains("const ROWS"), text.contains("super::run(ROWS)"));
        let checks_itself = text.contains("&[Do(") || text.contains("            Do(") || text.contains("Refused(&[");
        assert!(!has_rows || !checks_itself || run, "nothing runs the rows of {}", path.display());
    }
    let wanted: Vec<u16> = (1..=24).chain(35..=109).chain(113..=118).collect();
    assert_eq!(rows.into_keys().collect::<Vec<u16>>(), wanted);
}
