//! Uploaded sources that want out of their build: rows 83 to 101 of the hostile inputs (`tests/it/hostile`) through a
//! whole node. Each fails its build before an engine sees it, with a code, a reason, and nothing of it outside.

use serde_json::{Value, json};

use crate::harness::node::Node;
use crate::harness::{BUSYBOX, Harness};

/// One entry of a tar archive: name, kind, target of a link, contents.
type Entry<'a> = (&'a str, u8, &'a str, &'a str);

const FILE: u8 = b'0';
const HARD_LINK: u8 = b'1';
const LINK: u8 = b'2';
const DEVICE: u8 = b'3';
const PIPE: u8 = b'6';

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, target, contents) in entries {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{:011o}", contents.len()).as_bytes());
        block[136..147].copy_from_slice(b"00000000000");
        block[148..156].fill(b' ');
        block[156] = *kind;
        block[157..157 + target.len()].copy_from_slice(target.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(contents.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1_024, 0);
    bytes
}

fn dockerfile(text: &str) -> Vec<u8> {
    tar(&[("Dockerfile", FILE, "", text)])
}

/// Row, archive, build code, words of the reason.
fn sources() -> Vec<(u16, Vec<u8>, &'static str, &'static str)> {
    let from = format!("FROM {BUSYBOX}\n");
    let rule = |row, line: &str, words| (row, dockerfile(&format!("{from}{line}\n")), "INVALID_CONFIG", words);
    let archive = |row, entries: &[Entry<'_>]| (row, tar(entries), "INVALID_CONFIG", "entry");
    vec![
        archive(83, &[("../../narvana-was-here", FILE, "", "x")]),
        archive(84, &[("/tmp/narvana-was-here", FILE, "", "x")]),
        archive(85, &[("a", LINK, "/tmp", ""), ("a/narvana-was-here", FILE, "", "x")]),
        archive(87, &[("a", HARD_LINK, "/etc/shadow", "")]),
        archive(88, &[("a", DEVICE, "", "")]),
        archive(88, &[("a", PIPE, "", "")]),
        (92, vec![0x1f, 0x8b, 8, 0, 0], "INVALID_CONFIG", ""),
        archive(93, &[("a", FILE, "", "x"), ("a", FILE, "", "y")]),
        (94, b"PK\x03\x04\x14\0\x01\0".to_vec(), "INVALID_CONFIG", "zip"),
        (96, dockerfile(&format!("# syntax=attacker/frontend\n{from}")), "INVALID_CONFIG", "line 1"),
        rule(97, "RUN --mount=type=bind,from=other,source=/,target=/x true", "line 2"),
        rule(97, "RUN --mount=type=bind,source=/,target=/x,bind-propagation=shared true", "line 2"),
        rule(97, "RUN --security=insecure true", "line 2"),
        rule(97, "RUN --network=host true", "line 2"),
        rule(98, "WORKDIR /proc/self/fd/8", "line 2"),
        rule(99, "EXPOSE 99999", "line 2"),
        rule(99, "USER 99999999999999", "line 2"),
        (78, tar(&[("Dockerfile", LINK, "/etc/shadow", "")]), "INVALID_CONFIG", ""),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_sources_fail_their_build() {
    let harness = Harness::podman().await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let mut wrong = Vec::new();
    for (number, (row, archive, code, words)) in sources().into_iter().enumerate() {
        let service = format!("s{number}");
        let spec = json!({"name": service, "source_type": "upload", "build_strategy": "dockerfile"});
        node.post("/v1/apps/shop/services", &spec).expect(201);
        node.upload_bytes("shop", &service, &archive);
        let deployment = node.post(&format!("/v1/apps/shop/services/{service}/deploy"), &json!({})).expect(202);
        let id = deployment["id"].as_str().expect("an id");
        let ended = node.wait_deployment(id, &["failed", "running"]);
        let build = ended["build_id"].as_str().map(|id| node.get(&format!("/v1/builds/{id}")).expect(200));
        let failure = build.map_or(Value::Null, |build| build["failure"].clone());
        if failure["code"] != code || !failure["message"].to_string().contains(words) {
            wrong.push(format!("row {row}: {ended:#} {failure:#}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!std::path::Path::new("/tmp/narvana-was-here").exists(), "something was written outside");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
