//! Variables, secrets and names.

use super::live::Live;
use super::{Check, Row};
use Check::{Live as Do, NotYet, Refused};

const ENV: &str = "/v1/apps/shop/services/web/env";
const APPS: &str = "/v1/apps";
const BAD: &str = "invalid_request";
const NO_SECRETS: &str = "there are no secrets in this version; variables can be read by members, which the pages say";

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 105,
        sent: "names of variables (LD_PRELOAD may be set: it is the container's own affair)",
        checks: &[
            Refused(&[
                ("POST", ENV, r#"{"key":"A=B","value":""}"#, 400, BAD, ""),
                ("POST", ENV, r#"{"key":"","value":""}"#, 400, BAD, ""),
                ("POST", ENV, r#"{"key":"A B","value":""}"#, 400, BAD, ""),
                ("POST", ENV, r#"{"key":"PATH\n","value":""}"#, 400, BAD, ""),
                ("POST", ENV, r#"{"key":"PATH","value":"a\u0000b"}"#, 400, BAD, "env_vars.PATH"),
                ("PUT", ENV, r#"{"variables":{"A=B":""}}"#, 400, BAD, ""),
                ("PUT", ENV, r#"{"dotenv":"1A=x"}"#, 400, BAD, ""),
                (
                    "POST",
                    "/v1/apps/shop/services",
                    r#"{"name":"x","image":"a.test/a:1","env_vars":{"A-B":""}}"#,
                    400,
                    BAD,
                    "",
                ),
            ]),
            Do(long_echoes),
        ],
    },
    Row {
        number: 106,
        sent: "a value that is too large (the limit is 32 KiB; a field out of range is 400)",
        checks: &[Do(large_value)],
    },
    Row {
        number: 107,
        sent: "names of secrets",
        checks: &[NotYet(NO_SECRETS), Refused(&[("GET", "/v1/apps/shop/secrets", "", 404, "not_found", "")])],
    },
    Row { number: 108, sent: "SOPS files", checks: &[NotYet(NO_SECRETS)] },
    Row {
        number: 109,
        sent: "names of apps (up to 63 characters: a DNS label; `con` is one)",
        checks: &[
            Refused(&[
                ("POST", APPS, r#"{"name":"a;id"}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"-rf"}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"xn--a"}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"🎉"}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"a."}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"narvana"}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"Shop"}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":""}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"a/../b"}"#, 400, BAD, "name"),
                ("POST", APPS, r#"{"name":"аpp"}"#, 400, BAD, "name"),
                ("POST", "/v1/apps/shop/services", r#"{"name":"../x","image":"a.test/a:1"}"#, 400, BAD, "name"),
            ]),
            Do(long_name),
        ],
    },
];

fn large_value(live: &Live) {
    let body = serde_json::json!({"key": "BIG", "value": "x".repeat(65_537)}).to_string();
    let reply = live.ask("POST", ENV, body.as_bytes());
    reply.refused(400, BAD, "64 KiB");
    assert!(reply.json["details"]["env_vars.BIG"].is_string(), "{}", reply.text);
}

/// What is refused is repeated in part, wherever it stands and however it is escaped.
fn long_echoes(live: &Live) {
    let long = format!("-{}", "\u{7}".repeat(20_000));
    let service = |field: &str| serde_json::json!({"name": "x", "image": "a.test/a:1", field: &long});
    let services = "/v1/apps/shop/services";
    for (method, path, body) in [
        ("POST", ENV, serde_json::json!({"key": &long, "value": ""})),
        ("PUT", ENV, serde_json::json!({"variables": {&long: ""}})),
        ("PUT", ENV, serde_json::json!({"dotenv": format!("{long}=1")})),
        ("POST", services, serde_json::json!({"name": "x", "image": &long})),
        ("POST", services, serde_json::json!({"name": "x", "git_repo": &long})),
        ("POST", services, serde_json::json!({"name": "x", "git_repo": "github.com/o/r", "git_ref": &long})),
        ("POST", services, serde_json::json!({"name": "x", "flake_uri": &long})),
        ("POST", services, service("source_type")),
        ("POST", services, serde_json::json!({"name": "x", "image": "a.test/a:1", "depends_on": [&long]})),
        ("POST", services, serde_json::json!({"name": "x", "image": "a.test/a:1", "env_vars": {&long: ""}})),
    ] {
        live.ask(method, path, body.to_string().as_bytes()).refused(400, BAD, path);
    }
}

fn long_name(live: &Live) {
    for (length, status) in [(64, 400), (63, 201), (100_000, 400)] {
        let body = serde_json::json!({"name": "a".repeat(length)}).to_string();
        let reply = live.ask("POST", APPS, body.as_bytes());
        assert_eq!(reply.status, status, "{length}: {}", reply.text);
        assert!(reply.text.len() < 4_096, "an echo is cut: {} bytes", reply.text.len());
    }
}

#[test]
fn rows_hold() {
    super::run(ROWS);
}
