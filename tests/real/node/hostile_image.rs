//! Images that cannot run: row 103 of the hostile inputs (`tests/it/hostile`). Each fails its deployment with a reason that
//! names the cause, and the node goes on.

use std::process::Command;

use narvana::engine::Kind;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::id;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, EngineKind, Harness, context_with};

/// The place of the machine in the head of a program, and a number that is none of ours: SPARC.
const MACHINE: usize = 18;
const SPARC: u8 = 2;

/// An image with this Dockerfile and program, which only the engine has.
async fn image(harness: &Harness, name: &str, dockerfile: &str, program: &[u8]) -> String {
    let tag = format!("localhost/narvana-test/{}:1", harness.name(name));
    let (log, mut lines) = mpsc::channel(64);
    let request = context_with(&tag, dockerfile, &[("program", program, 0o755)]);
    let engine = harness.engine();
    let (built, ()) = tokio::join!(engine.build(request, log), async { while lines.recv().await.is_some() {} });
    built.expect("it is built");
    tag
}

/// An image that says this of itself and holds one program, made as an archive: Docker's reader of Dockerfiles takes minutes
/// for a variable of 1 MiB, and builds for this machine only.
fn archived(harness: &Harness, name: &str, architecture: &str, config: &Value, program: &[u8]) -> String {
    let tag = format!("localhost/narvana-test/{}:1", harness.name(name));
    let tar = |files: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, path, *bytes).expect("in memory");
        }
        tar.into_inner().expect("in memory")
    };
    let layer = tar(&[("program", program)]);
    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": "a test"}],
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    let archive = tar(&[
        ("manifest.json", manifest.to_string().as_bytes()),
        ("config.json", config.to_string().as_bytes()),
        ("layer.tar", &layer),
    ]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), archive).expect("written");
    let mut load = match harness.engine().describe().kind {
        Kind::Podman => Command::new("podman"),
        Kind::Docker | Kind::Fake => {
            let mut docker = Command::new("docker");
            docker.args(["-H", harness.address()]);
            docker
        }
    };
    let loaded =
        load.args(["load", "--input"]).arg(file.path()).output().expect("the engine's own program is installed");
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    tag
}

async fn images_that_cannot_run(kind: EngineKind) {
    let harness = Harness::of(kind).await;
    let node = Node::registered(harness.address());
    node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
    let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static is installed");
    let mut foreign = busybox.clone();
    foreign[MACHINE..MACHINE + 2].copy_from_slice(&[0, SPARC]);
    let mut wrong = Vec::new();
    let mut images = Vec::new();
    for (name, dockerfile, words) in [
        ("missing", format!("FROM {BUSYBOX}\nENTRYPOINT [\"/not-there\"]\n"), "no such file or directory"),
        ("nothing", "FROM scratch\nCOPY program /program\n".to_owned(), "command"),
        // In the words of the engine's first process, which tries a shell in its place.
        ("foreign", "FROM scratch\nCOPY program /program\nENTRYPOINT [\"/program\"]\n".to_owned(), "exec"),
        ("elsewhere", String::new(), "its image is for s390x and this machine is "),
        ("huge", String::new(), "argument list too long"),
    ] {
        let image = match dockerfile.as_str() {
            "" if name == "elsewhere" => archived(&harness, name, "s390x", &json!({"Cmd": ["/program"]}), &foreign),
            "" => {
                let huge = format!("HUGE={}", "x".repeat(1 << 20));
                let config = json!({"Env": [huge], "Cmd": ["/program", "sleep", "1000"]});
                archived(&harness, name, "amd64", &config, &busybox)
            }
            dockerfile => image(&harness, name, dockerfile, &foreign).await,
        };
        // Without a check it would count as running in the moment before it ends.
        let check = json!({"type": "tcp", "port": 8080, "interval_seconds": 1, "retries": 3});
        let service = json!({"name": name, "image": image, "health_check": check});
        node.post("/v1/apps/shop/services", &service).expect(201);
        images.push(image);
        let deployment = node.post(&format!("/v1/apps/shop/services/{name}/deploy"), &json!({})).expect(202);
        let ended = node.wait_deployment(&id(&deployment), &["failed", "running"]);
        let said = format!("{} {}", ended["reason"], ended["log_tail"]).to_lowercase();
        if ended["status"] != "failed" || !said.contains(words) || said.len() > 4_096 {
            wrong.push(format!("{name}: {ended:#}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    node.post("/v1/apps", &json!({"name": "after"})).expect(201);
    assert!(!node.log().contains("panicked"), "{}", node.log());
    drop(node);
    for image in images {
        harness.engine().remove_image(&image).await.expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_cannot_run_on_podman() {
    images_that_cannot_run(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_cannot_run_on_docker() {
    images_that_cannot_run(EngineKind::Docker).await;
}
