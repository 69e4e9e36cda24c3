//! Sources from git. What a repository and its server may do is tested with real git next to the code.

use super::live::Live;
use super::{Check, Row};
use Check::{Live as Do, Refused, Test};

const SERVICES: &str = "/v1/apps/shop/services";
const BAD: &str = "invalid_request";
const TESTS: &str = "src/build/git/tests.rs";

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 69,
        sent: "an option as an address",
        checks: &[Refused(&[repo(r#"{"name":"x","git_repo":"--upload-pack=touch /tmp/x"}"#)])],
    },
    Row {
        number: 70,
        sent: "a transport that runs a program",
        checks: &[Refused(&[
            repo(r#"{"name":"x","git_repo":"ext::sh -c id"}"#),
            repo(r#"{"name":"x","git_repo":"fd::17"}"#),
        ])],
    },
    Row {
        number: 71,
        sent: "a folder of the node",
        checks: &[Refused(&[
            repo(r#"{"name":"x","git_repo":"file:///var/lib/narvana"}"#),
            repo(r#"{"name":"x","git_repo":"/etc"}"#),
            repo(r#"{"name":"x","git_repo":"../x"}"#),
            repo(r#"{"name":"x","git_repo":"http://127.0.0.1/o/r"}"#),
            repo(r#"{"name":"x","git_repo":"https://[::1]/o/r"}"#),
            repo(r#"{"name":"x","git_repo":"https://169.254.169.254/o/r"}"#),
            repo(r#"{"name":"x","git_repo":"https://localhost/o/r"}"#),
        ])],
    },
    Row {
        number: 72,
        sent: "an option as a host",
        checks: &[Refused(&[repo(r#"{"name":"x","git_repo":"ssh://-oProxyCommand=id/x"}"#)])],
    },
    Row { number: 73, sent: "a password in an address", checks: &[Do(password)] },
    Row { number: 74, sent: "odd characters in an address, and 10 KiB of it", checks: &[Do(odd_addresses)] },
    Row {
        number: 75,
        sent: "references that are options, ranges or commands",
        checks: &[Refused(&[
            reference(r#"{"name":"x","git_repo":"github.com/o/r","git_ref":"--foo"}"#),
            reference(r#"{"name":"x","git_repo":"github.com/o/r","git_ref":"main;id"}"#),
            reference(r#"{"name":"x","git_repo":"github.com/o/r","git_ref":"a..b"}"#),
            reference(r#"{"name":"x","git_repo":"github.com/o/r","git_ref":"@{-1}"}"#),
            reference(r#"{"name":"x","git_repo":"github.com/o/r","git_ref":"$(id)"}"#),
            reference(r#"{"name":"x","git_repo":"github.com/o/r","git_ref":"a\nb"}"#),
        ])],
    },
    Row {
        number: 76,
        sent: "submodules (never fetched)",
        checks: &[Test(TESTS, "nothing_of_a_repository_is_executed_or_followed")],
    },
    Row {
        number: 77,
        sent: "hooks, filters, LFS pointers",
        checks: &[Test(TESTS, "nothing_of_a_repository_is_executed_or_followed")],
    },
    Row {
        number: 78,
        sent: "a Dockerfile that is a link to a file of the node",
        checks: &[Test("src/build/tree/tests.rs", "paths_never_lead_outside")],
    },
    Row {
        number: 79,
        sent: "more or larger files than allowed",
        checks: &[Test(TESTS, "limits_hold_before_anything_is_written")],
    },
    Row {
        number: 80,
        sent: "a server that stalls",
        checks: &[Test(TESTS, "a_server_that_stalls_is_given_up"), Test(TESTS, "stopping_ends_every_process")],
    },
    Row {
        number: 81,
        sent: "a folder outside the source",
        checks: &[Refused(&[
            (
                "POST",
                SERVICES,
                r#"{"name":"x","git_repo":"github.com/o/r","build_config":{"root_directory":"../other"}}"#,
                400,
                BAD,
                "build_config.root_directory",
            ),
            (
                "POST",
                SERVICES,
                r#"{"name":"x","git_repo":"github.com/o/r","build_config":{"root_directory":"/abs"}}"#,
                400,
                BAD,
                "build_config.root_directory",
            ),
            (
                "POST",
                SERVICES,
                r#"{"name":"x","git_repo":"github.com/o/r","build_config":{"root_directory":"a/../../b"}}"#,
                400,
                BAD,
                "build_config.root_directory",
            ),
            (
                "POST",
                SERVICES,
                r#"{"name":"x","git_repo":"github.com/o/r","build_config":{"root_directory":"a\u0000b"}}"#,
                400,
                BAD,
                "build_config.root_directory",
            ),
        ])],
    },
    Row {
        number: 82,
        sent: "a host that asks for credentials",
        checks: &[Test(TESTS, "what_cannot_be_read_says_why")],
    },
];

/// A service whose address is refused.
const fn repo(body: &'static str) -> super::Refused {
    ("POST", SERVICES, body, 400, BAD, "git_repo")
}

/// A service whose reference is refused.
const fn reference(body: &'static str) -> super::Refused {
    ("POST", SERVICES, body, 400, BAD, "git_ref")
}

fn password(live: &Live) {
    for scheme in ["https", "http", "ssh", "ftp"] {
        let body = format!(r#"{{"name":"x","git_repo":"{scheme}://user:hunter2@git.example.org/o/r"}}"#);
        let reply = live.ask("POST", SERVICES, body.as_bytes());
        reply.refused(400, BAD, scheme);
        assert!(reply.json["details"]["git_repo"].is_string(), "{}", reply.text);
        assert!(!reply.text.contains("hunter2") && !live.log().contains("hunter2"), "{}", reply.text);
    }
}

fn odd_addresses(live: &Live) {
    let long = format!("https://git.example.org/{}", "x".repeat(10 * 1024));
    let odd = [
        "https://git.example.org/o\nr",
        "https://git.example.org/o\0r",
        "https://git.example.org/o r",
        "https://git.example.org/o%0ar",
    ];
    for address in odd.into_iter().chain([long.as_str(), "https://git.example.org/\u{1b}[2J"]) {
        let body = serde_json::json!({"name": "x", "git_repo": address}).to_string();
        let reply = live.ask("POST", SERVICES, body.as_bytes());
        reply.refused(400, BAD, &address.chars().take(100).collect::<String>());
        assert!(reply.json["details"]["git_repo"].is_string(), "{}", reply.text);
    }
    let body = serde_json::json!({"name": "x", "git_repo": "github.com/o/r", "git_ref": "x".repeat(300)}).to_string();
    live.ask("POST", SERVICES, body.as_bytes()).refused(400, BAD, "a long reference");
}

#[test]
fn rows_hold() {
    super::run(ROWS);
}
