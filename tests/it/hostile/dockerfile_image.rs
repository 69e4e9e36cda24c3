//! Dockerfiles, images and flakes. What a Dockerfile says is judged when a build begins; see `archive`.

use super::live::Live;
use super::{Check, Row};
use Check::{Live as Do, NotYet, Refused, Test};

const SERVICES: &str = "/v1/apps/shop/services";
const BAD: &str = "invalid_request";
const SCAN: &str = "src/decide/dockerfile.rs";
const BUILDS: &str = "tests/real/node/hostile_build.rs";
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
    Row {
        number: 98,
        sent: "a working folder in /proc, by its name and through a link of the image",
        checks: &[
            Test(SCAN, "forbidden_instructions"),
            WHOLE,
            Test(BUILDS, "a_working_folder_behind_a_link_leads_nowhere_on_podman"),
            Test(BUILDS, "a_working_folder_behind_a_link_leads_nowhere_on_docker"),
        ],
    },
    Row {
        number: 99,
        sent: "volumes, ports and users out of range",
        checks: &[Test(SCAN, "forbidden_instructions"), WHOLE],
    },
    Row {
        number: 100,
        sent: "a build that eats processes, disk or time, or prints 1 GiB in a line (no engine limits the disk of one \
               build: it is ended when the file system of the node's folder runs short, before changes are refused)",
        checks: &[
            Test(BUILDS, "a_build_that_eats_processes_fails_alone_on_podman"),
            Test(BUILDS, "a_build_that_eats_processes_fails_alone_on_docker"),
            Test(
                "tests/real/node/durability.rs",
                "a_running_build_that_fills_the_disk_is_ended_before_changes_are_refused",
            ),
            Test("tests/real/node/failure.rs", "a_slow_build_on_podman"),
            Test("tests/real/node/failure.rs", "a_slow_build_on_docker"),
            Test(BUILDS, "a_line_of_a_gibibyte_is_cut_on_podman"),
            Test(BUILDS, "a_line_of_a_gibibyte_is_cut_on_docker"),
            Test("src/logs/split.rs", "a_line_without_end_is_bounded"),
        ],
    },
    Row {
        number: 101,
        sent: "images of this machine; one of internal:5000 is taken: what a name leads to is the engine's to find out, a \
               registry in the operator's own network is usual, and the engine has the log-ins of nobody's organisation",
        checks: &[Test(SCAN, "forbidden_instructions"), Test(SCAN, "harmless_lines_that_look_close")],
    },
    Row {
        number: 102,
        sent: "image references that are options, upper-case, long, or name another content",
        checks: &[
            Test("tests/real/node/image.rs", "an_image_is_pulled_on_podman"),
            Test("tests/real/node/image.rs", "an_image_is_pulled_on_docker"),
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
        sent: "an image with an environment of 1 MiB, no entry point, one that is not there, another architecture",
        checks: &[
            Test("tests/real/node/hostile_image.rs", "images_that_cannot_run_on_podman"),
            Test("tests/real/node/hostile_image.rs", "images_that_cannot_run_on_docker"),
        ],
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
