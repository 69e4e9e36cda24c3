//! A container registry on loopback: the machine's `docker-registry`, in a temporary folder, at a free port.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use narvana::engine::Kind;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use super::daemon::wait_stopped;
use super::node::curl;
use super::{BUSYBOX, DEADLINE, Harness, context_with};

pub(crate) struct Registry {
    child: Child,
    host: String,
    folder: tempfile::TempDir,
}

impl Registry {
    /// Starts an empty one.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (settings, log) = (folder.path().join("config.yml"), folder.path().join("log"));
        let storage = folder.path().join("storage");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            storage.display()
        );
        std::fs::write(&settings, text).expect("a file in our folder");
        let output = File::create(&log).expect("a file in our folder");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "docker-registry", "serve"])
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .expect("the package docker-registry is installed");
        let started = Instant::now();
        let host = loop {
            let words = std::fs::read_to_string(&log).unwrap_or_default();
            let port = words.split("listening on 127.0.0.1:").nth(1).and_then(|rest| {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                (digits.len() < rest.len()).then_some(digits)
            });
            if let Some(port) = port {
                break format!("127.0.0.1:{port}");
            }
            let ended = child.try_wait().expect("it is ours");
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "no registry: {ended:?}: {words}");
            std::thread::sleep(Duration::from_millis(10)); // poll
        };
        Self { child, host, folder }
    }

    /// Its host and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Puts an image there that says `page`, and nowhere else: the engine that built it forgets it. Returns its digest.
    pub(crate) async fn fill(&self, harness: &Harness, image: &str, page: &str) -> String {
        let digest = self.publish(harness, image, page).await;
        let (engine, reference) = (harness.engine(), format!("{}/{image}", self.host));
        engine.remove_image(&reference).await.expect("removed");
        assert_eq!(engine.image(&reference).await.expect("an answer"), None, "only the registry has it");
        digest
    }

    /// Puts an image there that says `page`, as somebody does who builds it. Returns its digest.
    pub(crate) async fn publish(&self, harness: &Harness, image: &str, page: &str) -> String {
        let reference = format!("{}/{image}", self.host);
        let dockerfile = format!("FROM {BUSYBOX}\nCOPY index.html /www/index.html\n");
        let request = context_with(&reference, &dockerfile, &[("index.html", page.as_bytes(), 0o644)]);
        let (log, mut lines) = mpsc::channel(64);
        let engine = harness.engine();
        let (built, ()) = tokio::join!(engine.build(request, log), async { while lines.recv().await.is_some() {} });
        built.expect("it is built");
        let mut push = match engine.describe().kind {
            Kind::Podman => Command::new("podman"),
            Kind::Docker | Kind::Fake => Command::new("docker"),
        };
        match engine.describe().kind {
            Kind::Podman => push.args(["push", "--quiet", "--tls-verify=false", &reference]),
            Kind::Docker | Kind::Fake => push.args(["-H", harness.address(), "push", "--quiet", &reference]),
        };
        let pushed = push.output().expect("the engine's own program is installed");
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
        self.digest(image)
    }

    fn digest(&self, image: &str) -> String {
        let (name, tag) = image.rsplit_once(':').expect("a tag");
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.host);
        let accept = "Accept: application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.oci.image.manifest.v1+json";
        let head = curl(&["--head", "-H", accept, &url]);
        let digest = head.body.lines().find_map(|line| line.strip_prefix("Docker-Content-Digest: "));
        digest.unwrap_or_else(|| panic!("a digest: {head:?}")).trim().to_owned()
    }

    /// Makes the tag lead to a list of images for several processors, of which that tag's image is one. Returns the list's digest.
    pub(crate) fn list(&self, image: &str) -> String {
        let (name, tag) = image.rsplit_once(':').expect("a tag");
        let url = format!("http://{}/v2/{name}/manifests/{tag}", self.host);
        let kinds =
            ["application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"];
        let accept = format!("Accept: {}", kinds.join(", "));
        let text = curl(&["-H", &accept, &url]).body;
        let manifest: serde_json::Value = serde_json::from_str(&text).expect("a manifest");
        let part = |architecture: &str, digest: String| {
            let platform = serde_json::json!({"architecture": architecture, "os": "linux"});
            serde_json::json!({"mediaType": manifest["mediaType"], "digest": digest, "size": text.len(), "platform": platform})
        };
        let other = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
        let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        // The registry wants to have what a list names; that the other one is the same does not matter here.
        let digest = self.digest(image);
        let list = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [part(other, digest.clone()), part(own, digest)],
        });
        let kind = "Content-Type: application/vnd.docker.distribution.manifest.list.v2+json";
        let put = curl(&["--include", "-X", "PUT", "-H", kind, "--data-binary", &list.to_string(), &url]);
        let digest = put.body.lines().find_map(|line| line.strip_prefix("Docker-Content-Digest: "));
        digest.unwrap_or_else(|| panic!("a digest: {put:?}")).trim().to_owned()
    }

    /// Gives out something else under this digest of a manifest from now on, which is still a good manifest.
    pub(crate) fn falsify(&self, digest: &str) {
        let hex = digest.strip_prefix("sha256:").expect("a digest");
        let blob =
            self.folder.path().join("storage/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
        let mut text = std::fs::read(&blob).expect("a manifest");
        text.push(b' ');
        std::fs::write(&blob, text).expect("a file in our folder");
    }

    /// Makes it hang.
    pub(crate) fn hang(&self) {
        self.signal(Signal::STOP);
        wait_stopped(self.child.id());
    }

    /// Ends a hang.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ended_already = kill_process(pid, signal);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}
