//! The HTTP API: bodies, framing, headers, tokens, paths, log-ins.

use std::time::{Duration, Instant};

use super::live::Live;
use super::{Check, Row, token};
use Check::{Live as Do, Refused, Test};

const APPS: &str = "/v1/apps";
const SERVICES: &str = "/v1/apps/shop/services";
const BAD: &str = "invalid_request";

pub(super) const ROWS: &[Row] = &[
    Row { number: 1, sent: "a body that is not JSON", checks: &[Do(broken_json)] },
    Row { number: 2, sent: "a body of 1 MiB and a byte", checks: &[Do(large_body)] },
    Row { number: 3, sent: "JSON nested 10,000 deep (the limit is 128)", checks: &[Do(deep_json)] },
    Row {
        number: 4,
        sent: "a key twice",
        checks: &[Refused(&[("POST", APPS, r#"{"name":"a","name":"b"}"#, 400, BAD, "name")])],
    },
    Row {
        number: 5,
        sent: "a field that is not ours",
        checks: &[Refused(&[
            ("POST", APPS, r#"{"name":"a","is_admin":true}"#, 400, BAD, "is_admin"),
            ("PATCH", APPS_SHOP, r#"{"version":1,"role":"owner"}"#, 400, BAD, "role"),
        ])],
    },
    Row {
        number: 6,
        sent: "another organisation in the body (a new app may name one of the caller's own)",
        checks: &[Refused(&[
            ("POST", APPS, r#"{"name":"a","org_id":"01a205ad-7f91-737f-a519-2b4c26e7d222"}"#, 404, "not_found", ""),
            (
                "PATCH",
                APPS_SHOP,
                r#"{"version":1,"org_id":"01a205ad-7f91-737f-a519-2b4c26e7d222"}"#,
                400,
                BAD,
                "org_id",
            ),
            ("POST", SERVICES, r#"{"name":"a","image":"a.test/a:1","org_id":"x"}"#, 400, BAD, "org_id"),
        ])],
    },
    Row {
        number: 7,
        sent: "an app of another organisation",
        checks: &[
            Test("src/api/access.rs", "what_belongs_to_others_looks_like_what_does_not_exist"),
            Test("src/api/access.rs", "what_belongs_to_others_takes_as_long_as_what_does_not_exist"),
            Test("src/api/access.rs", "what_everybody_may_ask_for_shows_nothing_of_other_organisations"),
            Refused(&[("GET", "/v1/apps/01a205ad-7f91-737f-a519-2b4c26e7d222", "", 404, "not_found", "")]),
        ],
    },
    Row {
        number: 8,
        sent: "numbers out of range",
        checks: &[Refused(&[
            ("POST", SERVICES, r#"{"name":"a","image":"a.test/a:1","replicas":-1}"#, 400, BAD, "replicas"),
            ("POST", SERVICES, r#"{"name":"a","image":"a.test/a:1","replicas":1e309}"#, 400, BAD, ""),
            ("POST", SERVICES, r#"{"name":"a","image":"a.test/a:1","replicas":"3"}"#, 400, BAD, "replicas"),
            ("POST", SERVICES, r#"{"name":"a","image":"a.test/a:1","replicas":1.5}"#, 400, BAD, "replicas"),
            ("POST", SERVICES, r#"{"name":"a","image":"a.test/a:1","replicas":4294967296}"#, 400, BAD, "replicas"),
            ("POST", SERVICES, r#"{"name":"a","image":"a.test/a:1","replicas":4294967295}"#, 400, BAD, "replicas"),
            ("POST", "/v1/apps/shop/services/web/scale", r#"{"replicas":4294967295}"#, 400, BAD, "replicas"),
        ])],
    },
    Row { number: 9, sent: "text that is not Unicode", checks: &[Do(not_unicode)] },
    Row {
        number: 10,
        sent: "NUL in a name",
        checks: &[Refused(&[
            ("POST", APPS, r#"{"name":"a\u0000b"}"#, 400, BAD, "name"),
            ("POST", SERVICES, r#"{"name":"a\u0000","image":"a.test/a:1"}"#, 400, BAD, "name"),
        ])],
    },
    Row { number: 11, sent: "Content-Length and Transfer-Encoding together", checks: &[Do(two_framings)] },
    Row {
        number: 12,
        sent: "a body that never ends",
        checks: &[
            Test("tests/it/api_server.rs", "a_body_that_drips_is_given_up"),
            Test("tests/it/api_server.rs", "an_upload_that_drips_on_and_on_is_given_up_and_not_kept"),
            Test("tests/it/api_server.rs", "who_says_nothing_is_let_go"),
            Test("tests/it/api_server.rs", "one_address_has_a_limit_of_connections"),
            Test("src/network/ingress/tests/hostile.rs", "who_sends_a_head_too_slowly_is_cut_off"),
            Test("src/network/ingress/tests/hostile.rs", "one_address_has_a_limit_of_connections"),
        ],
    },
    Row { number: 13, sent: "200 header fields, or one of 64 KiB", checks: &[Do(large_heads)] },
    Row {
        number: 14,
        sent: "a foreign Host with a cookie, an absolute target (Host decides nothing here, and cookies are no log-in)",
        checks: &[
            Do(foreign_host),
            Test("src/network/ingress/tests/hostile.rs", "an_absolute_target_decides_the_host"),
        ],
    },
    Row {
        number: 15,
        sent: "an empty bearer token, and one of 100 KiB (stopped as a large head)",
        checks: &[Do(odd_bearers)],
    },
    Row { number: 16, sent: "a token without algorithm", checks: &[Do(token::no_algorithm)] },
    Row {
        number: 17,
        sent: "a token signed with a public key or another algorithm (the node has no public key: HS256 is pinned)",
        checks: &[Do(token::other_keys)],
    },
    Row { number: 18, sent: "a token that names a key", checks: &[Do(token::key_names)] },
    Row { number: 19, sent: "a token that brings or links its key", checks: &[Do(token::keys_from_elsewhere)] },
    Row {
        number: 20,
        sent: "a token of another cluster, audience, type, time, or ended session",
        checks: &[Do(token::claims_that_do_not_fit)],
    },
    Row {
        number: 21,
        sent: "a cookie instead of a token (there are no cookie sessions, so 401, not 403)",
        checks: &[Do(cookie)],
    },
    Row {
        number: 22,
        sent: "a limit out of range, a forged cursor",
        checks: &[Refused(&[
            ("GET", "/v1/apps?limit=10000000", "", 400, BAD, "limit"),
            ("GET", "/v1/apps?limit=-1", "", 400, BAD, ""),
            ("GET", "/v1/apps?cursor=..%2f..%2fx", "", 400, BAD, "cursor"),
            ("GET", "/v1/apps/shop/logs?cursor=forged", "", 400, BAD, ""),
            ("GET", "/v1/apps?min_index=18446744073709551615", "", 400, BAD, "min_index"),
            ("GET", "/v1/apps?consistency=stale&min_index=18446744073709551615", "", 400, BAD, "min_index"),
        ])],
    },
    Row {
        number: 23,
        sent: "paths that climb or hide",
        checks: &[Refused(&[
            ("GET", "/v1/apps/..%2f..%2fnodes", "", 404, "not_found", ""),
            ("GET", "/v1/apps/../nodes", "", 404, "not_found", ""),
            ("GET", "/v1/apps/%00", "", 404, "not_found", ""),
            ("GET", "/v1/apps/shop;a=b", "", 404, "not_found", ""),
            ("GET", "/v1/apps/%252e%252e%252fnodes", "", 404, "not_found", ""),
            ("GET", "/v1/apps/%1b%5b2J", "", 404, "not_found", ""),
            ("GET", "/v1/apps/%ff", "", 400, BAD, ""),
            ("GET", "//v1/apps", "", 404, "not_found", ""),
        ])],
    },
    Row { number: 24, sent: "1,000 log-ins in less than a minute, many at once", checks: &[Do(many_logins)] },
];

const APPS_SHOP: &str = "/v1/apps/shop";

fn broken_json(live: &Live) {
    for body in ["{", "[", "{\"name\":", "nul", "{}}", "{\"name\":\"a\"} {}"] {
        let reply = live.ask("POST", APPS, body.as_bytes());
        reply.refused(400, BAD, body);
        let message = reply.json["message"].as_str().unwrap_or_default();
        assert!(message.contains("line 1 column") || !reply.json["details"].is_null(), "{message}");
    }
}

fn large_body(live: &Live) {
    let body = format!("{{\"name\":\"{}\"}}", "a".repeat(1 << 20));
    live.ask("POST", APPS, body.as_bytes()).refused(413, "too_large", "1 MiB");
    // Without saying so before, and without asking for the end of the connection.
    let head = format!(
        "POST {APPS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        live.token
    );
    let chunk = format!("100001\r\n{}\r\n0\r\n\r\n", " ".repeat(0x10_0001));
    let answer = live.raw(live.api, format!("{head}{chunk}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

fn deep_json(live: &Live) {
    for deep in ["[", "{\"name\":"] {
        let body = format!("{{\"name\":{}", deep.repeat(10_000));
        live.ask("POST", APPS, body.as_bytes()).refused(400, BAD, "deep");
    }
}

fn not_unicode(live: &Live) {
    for body in
        [&b"{\"name\":\"\xff\xfe\"}"[..], b"{\"name\":\"\\ud800\"}", b"{\"name\":\"a\xc0\xaf\"}", b"\xef\xbb\xbf{}"]
    {
        live.ask("POST", APPS, body).refused(400, BAD, &String::from_utf8_lossy(body));
    }
}

fn two_framings(live: &Live) {
    let smuggled = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 40\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 0\r\n",
    ] {
        for before in ["", smuggled] {
            for to in [live.api, live.ingress] {
                let request = format!(
                    "{before}POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{fields}\r\n\
                     0\r\n\r\n{smuggled}"
                );
                // Reading to the end shows that the connection is closed.
                let answer = live.raw(to, request.as_bytes());
                let answers = answer.matches("HTTP/1.1 ").count();
                assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "{fields} to {to}: {answer}");
                assert!(answers <= 2 && !answer.ends_with("\"}}"), "{fields} to {to}: {answer}");
                assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
            }
        }
    }
    for fields in
        ["Content-Length: 5\r\nContent-Length: 6\r\n", "Transfer-Encoding: xchunked\r\n", "Content-Length: +5\r\n"]
    {
        let request = format!("POST /auth/login HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n{smuggled}");
        for to in [live.api, live.ingress] {
            let answer = live.raw(to, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400"), "{fields}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields}: {answer}");
        }
    }
}

fn large_heads(live: &Live) {
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "x".repeat(64 * 1024));
    for fields in [&many, &long] {
        assert_eq!(live.ask_with("GET /health", fields).status, 431);
    }
    live.ask_with("GET /health", &long).refused(431, "too_large", "64 KiB");
    let path = format!("GET /{}", "x".repeat(64 * 1024));
    assert!(matches!(live.ask_with(&path, "").status, 414 | 431));
}

fn foreign_host(live: &Live) {
    let cookie = format!("Cookie: session={0}; token={0}\r\n", live.token);
    for (target, host) in
        [("/v1/apps", "evil.test"), ("http://evil.test/v1/apps", "evil.test"), ("/v1/apps", "a.test\r\nHost: b.test")]
    {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{cookie}\r\n");
        let answer = live.raw(live.api, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 401"), "{target} {host}: {answer}");
    }
}

fn odd_bearers(live: &Live) {
    for value in ["Bearer ", "Bearer", "", "bearer  ", "Basic YTpi", "Bearer a b", "Bearer \u{e9}"] {
        let reply = live.ask_with("GET /v1/apps", &format!("Authorization: {value}\r\n"));
        reply.refused(401, "unauthorized", value);
        assert!(reply.head.contains("www-authenticate: bearer"), "{}", reply.head);
    }
    let long = format!("Authorization: Bearer {}\r\n", "x".repeat(100 * 1024));
    live.ask_with("GET /v1/apps", &long).refused(431, "too_large", "100 KiB");
    let long = format!("Authorization: Bearer {}\r\n", "x".repeat(20 * 1024));
    live.ask_with("GET /v1/apps", &long).refused(401, "unauthorized", "20 KiB");
}

fn cookie(live: &Live) {
    let fields = format!(
        "Cookie: token={}\r\nOrigin: https://evil.test\r\nContent-Type: application/json\r\nContent-Length: 14\r\n",
        live.token
    );
    let request = format!("POST {APPS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{{\"name\":\"evil\"}}");
    let answer = live.raw(live.api, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    // A form, which a page of another site may send without asking first.
    let request = format!(
        "POST {APPS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: text/plain\r\nContent-Length: 15\r\n\r\n{{\"name\":\"evil\"}}",
        live.token
    );
    let answer = live.raw(live.api, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
}

/// The first thirty or so of an address are checked, the others told when to come back.
const LOGINS: usize = 1_000;
const LOGINS_AT_ONCE: usize = 40;

fn many_logins(live: &Live) {
    let begun = Instant::now();
    let slowest = std::thread::scope(|scope| {
        let attempts: Vec<_> = (0..LOGINS_AT_ONCE)
            .map(|thread| {
                scope.spawn(move || {
                    let attempt = |number| {
                        let body = format!(r#"{{"email":"u{thread}-{number}@example.org","password":"wrong horse"}}"#);
                        live.ask_as("", "POST", "/auth/login", body.as_bytes())
                    };
                    (0..LOGINS / LOGINS_AT_ONCE).map(attempt).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        while attempts.iter().any(|attempt| !attempt.is_finished()) {
            let begun = Instant::now();
            assert_eq!(live.ask_as("", "GET", "/health", b"").status, 200);
            slowest = slowest.max(begun.elapsed());
        }
        let replies: Vec<_> = attempts.into_iter().flat_map(|attempt| attempt.join().expect("an answer")).collect();
        assert_eq!(replies.len(), LOGINS);
        let slowed: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
        assert!(slowed.len() >= LOGINS * 9 / 10, "{} of {LOGINS} were slowed down", slowed.len());
        for reply in &slowed {
            reply.refused(429, "rate_limited", "a log-in");
            assert!(reply.head.contains("retry-after: "), "{}", reply.head);
        }
        assert!(replies.iter().all(|reply| matches!(reply.status, 401 | 429)));
        slowest
    });
    assert!(begun.elapsed() < Duration::from_secs(60), "{LOGINS} took {:?}", begun.elapsed());
    assert!(slowest <= Duration::from_secs(1), "health took {slowest:?} meanwhile");
}

#[test]
fn rows_hold() {
    super::run(ROWS);
}
