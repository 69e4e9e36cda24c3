//! Builds whose steps eat what there is, or want out: rows 98 and 100 of the hostile inputs (`tests/it/hostile`). Each of
//! them fails alone, with a reason, and the node goes on.

use serde_json::{Value, json};

use super::id;
use crate::harness::node::Node;
use crate::harness::{BUSYBOX, EngineKind, Harness};

/// A node with an app and in it a service that is built from what is uploaded.
struct Workshop {
    node: Node,
    _harness: Harness,
}

impl Workshop {
    async fn open(kind: EngineKind) -> Self {
        let harness = Harness::of(kind).await;
        let node = Node::registered(harness.address());
        node.post("/v1/apps", &json!({"name": "shop"})).expect(201);
        node.post("/v1/apps/shop/services", &json!({"name": "web", "source_type": "upload"})).expect(201);
        Self { node, _harness: harness }
    }

    /// Builds with these instructions, which fails, while the node does its work. Returns the failed deployment.
    fn fails(&self, instructions: &str) -> Value {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("Dockerfile"), format!("FROM {BUSYBOX}\n{instructions}\n")).expect("writes");
        self.node.upload("shop", "web", folder.path());
        let deployment = id(&self.node.post("/v1/apps/shop/services/web/deploy", &json!({})).expect(202));
        let failed = self.node.wait_deployment(&deployment, &["failed"]);
        self.node.post("/v1/apps", &json!({"name": format!("after-{}", &deployment[30..])})).expect(201);
        assert!(!self.node.log().contains("panicked"), "{}", self.node.log());
        failed
    }
}

/// More than a build may have; not without end, so that a machine on which nothing bounds them lives to tell.
async fn a_build_that_eats_processes_fails_alone(kind: EngineKind) {
    let shop = Workshop::open(kind).await;
    let failed =
        shop.fails("RUN i=0; while [ $i -lt 5000 ]; do sleep 600 & i=$((i+1)); done; echo all are there; exit 3");
    let text = failed.to_string();
    assert!(failed["reason"].to_string().contains("4096 processes"), "{failed:#}");
    assert!(failed["log_tail"].to_string().contains("Resource temporarily unavailable"), "{failed:#}");
    assert!(!text.contains("all are there\""), "{failed:#}");
}

async fn a_line_of_a_gibibyte_is_cut(kind: EngineKind) {
    let shop = Workshop::open(kind).await;
    let failed = shop.fails("RUN echo begun && head -c 1073741824 /dev/zero | tr '\\0' x && exit 3");
    let lines = failed["log_tail"].as_array().expect("lines");
    let longest = lines.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or_default();
    assert!((10_000..70_000).contains(&longest), "the longest line has {longest} bytes");
    let status = std::fs::read_to_string(format!("/proc/{}/status", shop.node.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a figure");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 300 << 10, "the node took {peak} kB");
}

/// What the scan of a Dockerfile cannot see: where a link in the image leads to.
async fn a_working_folder_behind_a_link_leads_nowhere(kind: EngineKind) {
    let shop = Workshop::open(kind).await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("canary");
    std::fs::write(&secret, "the canary of the machine").expect("writes");
    let secret = secret.display();
    for link in ["/proc/self/fd", "/proc/self/cwd", "/proc/1/root"] {
        let mut steps = format!("RUN ln -s {link} /trap\n");
        for number in 3..12 {
            steps.push_str(&format!(
                "WORKDIR /trap/{number}\nRUN pwd; for up in . .. ../.. ../../.. ../../../.. ../../../../.. ../../../../../..; do cat $up{secret} 2>/dev/null; done; true\n"
            ));
        }
        let failed = shop.fails(&format!("{steps}RUN echo it ended here && exit 3"));
        let build = failed["build_id"].as_str().expect("a build");
        let logs = shop.node.get("/v1/apps/shop/logs?source=build&limit=1000").expect(200).to_string();
        assert!(!logs.contains("the canary of the machine"), "{link}: {build}: {logs}");
        eprintln!("{link}: {}", failed["reason"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_eats_processes_fails_alone_on_podman() {
    a_build_that_eats_processes_fails_alone(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_eats_processes_fails_alone_on_docker() {
    a_build_that_eats_processes_fails_alone(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_gibibyte_is_cut_on_podman() {
    a_line_of_a_gibibyte_is_cut(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_gibibyte_is_cut_on_docker() {
    a_line_of_a_gibibyte_is_cut(EngineKind::Docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_folder_behind_a_link_leads_nowhere_on_podman() {
    a_working_folder_behind_a_link_leads_nowhere(EngineKind::Podman).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_folder_behind_a_link_leads_nowhere_on_docker() {
    a_working_folder_behind_a_link_leads_nowhere(EngineKind::Docker).await;
}
