//! Dockerfiles, images and flakes. What a Dockerfile says is judged when a build begins; see `archive`.

use super::live::Live;
use super::{Check, Row};
use Check::{Live as Do, NotYet, Refused, Test};

const SERVICES: &str = "/v1/apps/shop/services";
const BAD: &str = "invalid_request";
const SCAN: &str = "src/decide/dockerfile.rs";
const WHOLE: Check = Test("tests/real/node/hostile.rs", "hostile_sources_fail_their_build");

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 95,
        sent: "a Dockerfile outside the source",
        checks: &[Refused(&[
            file(r#"{"name":"x","source_type":"upload","build_config":{"dockerfile":"../../Dockerfile"}}"#),
            file(r#"{"name":"x","source_type":"upload","build_config":{"dockerfile":"-"}}"#),
            file(r#"{"name":"x","source_type":"upload","build_config":{"dockerfile":"/etc/passwd"}}"#),
            file(r#"{"name":"x","source_type":"upload","build_config":{"dockerfile":"https://evil.test/Dockerfile"}}"#),
        ])],
    },
    Row { number: 96, sent: "a foreign frontend", checks: &[Test(SCAN, "foreign_frontends_are_refused"), WHOLE] },
    Row {
        number: 97,
        sent: "mounts and modes that lead out of a build",
        checks: &[Test(SCAN, "forbidden_instructions"), WHOLE],
    },
    Row { number: 98, sent: "a working folder in /proc", checks: &[Test(SCAN, "forbidden_instructions"), WHOLE] },
    Row {
        number: 99,
        sent: "volumes, ports and users out of range",
        checks: &[Test(SCAN, "forbidden_instructions"), WHOLE],
    },
    Row {
        number: 100,
        sent: "a build that eats disk, processes, time, or prints 1 GiB in a line",
        checks: &[
            Test("tests/real/node/failure.rs", "a_slow_build"),
            Test("src/logs/split.rs", "a_line_without_end_is_bounded"),
            NotYet(
                "no engine limits the disk of one build; a build is ended when the file system of the node's folder \
                 runs short, which is tested for sources and logs only",
            ),
        ],
    },
    Row { number: 101, sent: "images of this machine", checks: &[Test(SCAN, "the_operator_may_allow_local_images")] },
    Row {
        number: 102,
        sent: "image references that are options, upper-case or long",
        checks: &[
            Refused(&[
                image(r#"{"name":"x","image":"-v/:/h"}"#),
                image(r#"{"name":"x","image":"Docker.io/Library/NGINX"}"#),
                image(r#"{"name":"x","image":"a b"}"#),
                image(r#"{"name":"x","image":"a\u001b[2J"}"#),
                image(r#"{"name":"x","image":"a.test/a@sha256:00"}"#),
                image(r#"{"name":"x","image":""}"#),
            ]),
            Do(long_image),
        ],
    },
    Row {
        number: 103,
        sent: "an image with a huge environment, no entry point, another architecture (the engine refuses these itself)",
        checks: &[Test("tests/real/node/failure.rs", "a_broken_start")],
    },
    Row {
        number: 104,
        sent: "flake references",
        checks: &[
            NotYet("flakes are not built by this version; every flake reference is refused"),
            Refused(&[
                flake(r#"{"name":"x","flake_uri":"path:/"}"#),
                flake(r#"{"name":"x","flake_uri":"git+file:///etc"}"#),
                flake(r#"{"name":"x","flake_uri":"--impure"}"#),
            ]),
        ],
    },
];

const fn file(body: &'static str) -> super::Refused {
    ("POST", SERVICES, body, 400, BAD, "build_config.dockerfile")
}

const fn image(body: &'static str) -> super::Refused {
    ("POST", SERVICES, body, 400, BAD, "image")
}

const fn flake(body: &'static str) -> super::Refused {
    ("POST", SERVICES, body, 400, BAD, "")
}

fn long_image(live: &Live) {
    let body = serde_json::json!({"name": "x", "image": format!("a.test/{}", "a".repeat(300))}).to_string();
    let reply = live.ask("POST", SERVICES, body.as_bytes());
    reply.refused(400, BAD, "300 characters");
    assert!(reply.json["details"]["image"].is_string(), "{}", reply.text);
}

#[test]
fn rows_hold() {
    super::run(ROWS);
}
