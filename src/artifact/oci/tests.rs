//! The face with requests made by hand, hostile ones among them. Real engines push and pull in `tests/real`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::artifact::{Fetcher, Nobody};
use crate::model::ServiceId;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

struct Site {
    registry: RegistryHandle,
    store: ArtifactStore,
    repository: Repository,
    login: String,
    _folder: tempfile::TempDir,
    _part: Supervisor,
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn code(&self) -> (u16, String) {
        let body: Value = serde_json::from_slice(&self.body).expect("an error in JSON");
        (self.status, body["errors"][0]["code"].as_str().expect("a code").to_owned())
    }
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ArtifactStore::open(folder.path()).await.expect("opens");
        let registry = Registry::bind(Fetcher::new(store.clone(), Arc::new(Nobody))).await.expect("a port");
        let (part, handle) = (Supervisor::new("registry", CancellationToken::new()), registry.handle());
        registry.run(&part);
        let password = String::from_utf8(handle.password().expose().to_vec()).expect("text");
        let login = format!("Basic {}", STANDARD.encode(format!("{}:{password}", handle.user())));
        let repository = Repository(random::id::<ServiceId>());
        Self { registry: handle, store, repository, login, _folder: folder, _part: part }
    }

    /// Sends the beginning of a request and leaves the connection open.
    async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.registry.shared.address).await.expect("it listens");
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        let _in_memory = write!(head, "Content-Length: {length}\r\n");
        for (name, value) in headers {
            let _in_memory = write!(head, "{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("sent");
        stream
    }

    async fn exchange(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.open(method, path, headers, body.len()).await;
        // Who is refused early may not be read to the end.
        let _may_be_refused = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _may_be_cut = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Answer { status, headers, body: answer[end + 4..].to_vec() }
    }

    async fn ask(&self, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut headers = vec![("Authorization", self.login.as_str())];
        headers.extend(more);
        self.exchange(method, path, &headers, body).await
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    async fn begin(&self) -> String {
        let begun = self.ask("POST", &self.path("blobs/uploads/"), &[], b"").await;
        assert_eq!(begun.status, 202);
        begun.headers["location"].clone()
    }

    /// Uploads a blob as both engines do: everything in one piece, then its name.
    async fn push(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::new(Sha256::digest(bytes).into());
        let more = self.ask("PATCH", &self.begin().await, &[], bytes).await;
        assert_eq!((more.status, more.headers["range"].clone()), (202, format!("0-{}", bytes.len() - 1)));
        let name = format!("{}?digest={}", more.headers["location"], digest.with_algorithm().replace(':', "%3A"));
        let named = self.ask("PUT", &name, &[], b"").await;
        assert_eq!((named.status, &named.headers["docker-content-digest"]), (201, &digest.with_algorithm()));
        digest
    }
}

fn manifest(config: (Digest, usize), layers: &[(Digest, usize)]) -> Vec<u8> {
    let part = |(digest, size): &(Digest, usize)| json!({"digest": digest.with_algorithm(), "size": size});
    let layers: Vec<_> = layers.iter().map(part).collect();
    json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": part(&config), "layers": layers})
        .to_string()
        .into_bytes()
}

#[tokio::test]
async fn an_image_is_pushed_and_pulled() {
    let site = Site::start().await;
    assert_eq!(site.ask("GET", "/v2/", &[], b"").await.status, 200);
    let (config, layer) = (site.push(b"config").await, site.push(b"a layer").await);
    assert_eq!(site.registry.received(), 13);
    let head = site.ask("HEAD", &site.path(&format!("blobs/{}", layer.with_algorithm())), &[], b"").await;
    assert_eq!((head.status, head.headers["content-length"].as_str(), head.body.len()), (200, "7", 0));
    let bytes = manifest((config, 6), &[(layer, 7)]);
    let kind = [("Content-Type", DOCKER_MANIFEST)];

    let announced = site.registry.announce(site.repository, random::id());
    let (name, tag) = announced.destination();
    assert!(name.starts_with("127.0.0.1:") && name.ends_with(&site.repository.to_string()), "{name}");
    assert_eq!(announced.pushed(), None);
    let by_tag = site.path(&format!("manifests/{tag}"));
    assert_eq!(site.ask("GET", &by_tag, &[], b"").await.code(), (404, "MANIFEST_UNKNOWN".to_owned()));
    let put = site.ask("PUT", &by_tag, &kind, &bytes).await;
    assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));
    let pushed = announced.pushed().expect("it arrived");
    assert_eq!(put.headers["docker-content-digest"], pushed.manifest.with_algorithm());
    assert_eq!(site.ask("GET", &by_tag, &[], b"").await.body, bytes);
    drop(announced);
    assert_eq!(site.ask("GET", &by_tag, &[], b"").await.status, 404);
    assert_eq!(site.ask("PUT", &by_tag, &kind, &bytes).await.code(), (403, "DENIED".to_owned()));

    let by_digest = site.path(&format!("manifests/{}", pushed.manifest.with_algorithm()));
    let got = site.ask("GET", &by_digest, &[], b"").await;
    assert_eq!((got.status, &got.body), (200, &bytes));
    assert_eq!(got.headers["content-type"], DOCKER_MANIFEST);
    let head = site.ask("HEAD", &by_digest, &[], b"").await;
    assert_eq!((head.status, head.headers["content-length"].clone()), (200, bytes.len().to_string()));
    assert!(site.registry.images().complete(pushed.manifest, &tokio::sync::mpsc::channel(1).0).await.is_ok());
    // A layer is no manifest.
    let layer = site.path(&format!("manifests/{}", layer.with_algorithm()));
    assert_eq!(site.ask("GET", &layer, &[], b"").await.code(), (404, "MANIFEST_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn parts_of_a_blob_can_be_asked_for() {
    let site = Site::start().await;
    let digest = site.push(b"0123456789").await;
    let path = site.path(&format!("blobs/{}", digest.with_algorithm()));
    for (range, status, body, said) in [
        ("bytes=3-", 206, "3456789", "bytes 3-9/10"),
        ("bytes=3-5", 206, "345", "bytes 3-5/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=8-100", 206, "89", "bytes 8-9/10"),
    ] {
        let got = site.ask("GET", &path, &[("Range", range)], b"").await;
        assert_eq!((got.status, got.body.as_slice()), (status, body.as_bytes()), "{range}");
        assert_eq!(
            (got.headers["content-range"].as_str(), &got.headers["content-length"]),
            (said, &body.len().to_string())
        );
    }
    for range in ["bytes=10-", "bytes=5-3", "bytes=0-1,3-4", "lines=0-1", "bytes=-", "bytes=99999999999999999999-"] {
        assert_eq!(site.ask("GET", &path, &[("Range", range)], b"").await.status, 416, "{range}");
    }
    assert_eq!(site.ask("GET", &path, &[], b"").await.body, b"0123456789");
}

#[tokio::test]
async fn nobody_gets_in_without_the_password() {
    let site = Site::start().await;
    let digest = site.push(b"secret of a tenant").await;
    let blob = site.path(&format!("blobs/{}", digest.with_algorithm()));
    let other = Site::start().await;
    for (method, path) in [("GET", "/v2/"), ("GET", &blob), ("HEAD", &blob), ("POST", &site.path("blobs/uploads/"))] {
        for login in [None, Some(other.login.as_str()), Some("Basic"), Some("Bearer x")] {
            let headers: Vec<_> = login.map(|login| ("Authorization", login)).into_iter().collect();
            let refused = site.exchange(method, path, &headers, b"").await;
            assert_eq!(refused.status, 401, "{method} {path} {login:?}");
            assert_eq!(refused.headers["www-authenticate"], "Basic realm=\"narvana\"");
        }
    }
    let shown = format!("{:?}", site.registry.password());
    assert_eq!(shown, "[secret]");
}

#[tokio::test]
async fn an_upload_that_was_cut_goes_on_where_it_stopped() {
    let site = Site::start().await;
    let location = site.begin().await;
    let mut cut = site.open("PATCH", &location, &[("Authorization", &site.login)], 20).await;
    cut.write_all(b"hello ").await.expect("sent");
    drop(cut);
    let status = async {
        loop {
            let status = site.ask("GET", &location, &[], b"").await;
            assert_eq!(status.status, 204);
            if status.headers["range"] == "0-5" {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), status).await.expect("what came is kept");
    let lost = site.ask("PATCH", &location, &[("Content-Range", "0-4")], b"again").await;
    assert_eq!((lost.code().0, lost.headers["range"].as_str()), (416, "0-5"), "it is told where to go on");
    let more = site.ask("PATCH", &location, &[("Content-Range", "6-8")], b"wor").await;
    assert_eq!((more.status, more.headers["range"].as_str()), (202, "0-8"));
    let digest = Digest::new(Sha256::digest(b"hello world").into());
    // The last bytes may come with the name.
    let named = site.ask("PUT", &format!("{location}?digest={}", digest.with_algorithm()), &[], b"ld").await;
    assert_eq!(named.status, 201);
    assert_eq!(site.store.claim(digest).await, Some(11));
    assert_eq!(site.ask("GET", &location, &[], b"").await.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn bytes_that_are_not_what_they_are_called_get_no_name() {
    let site = Site::start().await;
    let announced = Digest::new(Sha256::digest(b"announced").into());
    let location = site.begin().await;
    let refused = site.ask("PUT", &format!("{location}?digest={}", announced.with_algorithm()), &[], b"sent").await;
    assert_eq!(refused.code(), (400, "DIGEST_INVALID".to_owned()));
    let whole = site.path(&format!("blobs/uploads/?digest={}", announced.with_algorithm()));
    assert_eq!(site.ask("POST", &whole, &[], b"sent").await.code(), (400, "DIGEST_INVALID".to_owned()));
    let manifest = site.path(&format!("manifests/{}", announced.with_algorithm()));
    let config = site.push(b"c").await;
    let bytes = self::manifest((config, 1), &[]);
    assert_eq!(site.ask("PUT", &manifest, &[], &bytes).await.code(), (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(site.store.list().await.expect("a list").len(), 1, "only the config");
    // The right bytes in one request, and those that are here by their name alone.
    assert_eq!(site.ask("POST", &whole, &[], b"announced").await.status, 201);
    let mount = site.path(&format!("blobs/uploads/?from=x&mount={}", announced.with_algorithm()));
    assert_eq!(site.ask("POST", &mount, &[], b"").await.status, 201);
    let absent = site.path(&format!("blobs/uploads/?mount={}", Digest::new([0; 32]).with_algorithm()));
    assert_eq!(site.ask("POST", &absent, &[], b"").await.status, 202, "an ordinary upload instead");
}

#[tokio::test]
async fn a_manifest_is_taken_only_with_all_its_parts() {
    let site = Site::start().await;
    let announced = site.registry.announce(site.repository, random::id());
    let path = site.path(&format!("manifests/{}", announced.destination().1));
    let kind = [("Content-Type", DOCKER_MANIFEST)];
    let config = site.push(b"config").await;
    let absent = Digest::new([0; 32]);
    for (bytes, code) in [
        (manifest((config, 6), &[(absent, 1)]), (404, "MANIFEST_BLOB_UNKNOWN")),
        (manifest((absent, 6), &[]), (404, "MANIFEST_BLOB_UNKNOWN")),
        (manifest((config, 7), &[]), (404, "MANIFEST_BLOB_UNKNOWN")),
        (b"{}".to_vec(), (400, "MANIFEST_INVALID")),
        (b"\xff".to_vec(), (400, "MANIFEST_INVALID")),
        (vec![b' '; usize::try_from(MANIFEST_BYTES_MAX).expect("small") + 1], (413, "SIZE_INVALID")),
    ] {
        let refused = site.ask("PUT", &path, &kind, &bytes).await.code();
        assert_eq!((refused.0, refused.1.as_str()), code);
    }
    let other_kind = [("Content-Type", "application/vnd.oci.image.index.v1+json")];
    let refused = site.ask("PUT", &path, &other_kind, &manifest((config, 6), &[])).await.code();
    assert_eq!(refused, (400, "MANIFEST_INVALID".to_owned()));
    assert_eq!(announced.pushed(), None);
    assert_eq!(site.ask("PUT", &path, &kind, &manifest((config, 6), &[])).await.status, 201);
}

#[tokio::test]
async fn uploads_are_bounded_and_belong_to_their_repository() {
    let site = Site::start().await;
    let mut first = None;
    let full = loop {
        let begun = site.ask("POST", &site.path("blobs/uploads/"), &[], b"").await;
        if begun.status != 202 {
            break begun;
        }
        first.get_or_insert_with(|| begun.headers["location"].clone());
    };
    assert_eq!(full.code(), (429, "TOOMANYREQUESTS".to_owned()));
    let first = first.expect("some were accepted");
    let elsewhere = first.replace(&site.repository.to_string(), &Repository(random::id()).to_string());
    assert_eq!(site.ask("PATCH", &elsewhere, &[], b"x").await.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    assert_eq!(site.ask("DELETE", &first, &[], b"").await.status, 204);
    site.begin().await;
    for path in ["/v2/..%2f..%2fetc/blobs/uploads/", "/v2/../blobs/uploads/", "/v2/narvana/x/blobs/uploads/"] {
        assert_eq!(site.ask("POST", path, &[], b"").await.code(), (404, "NAME_UNKNOWN".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_damaged_blob_is_never_sent() {
    let site = Site::start().await;
    let digest = site.push(b"whole").await;
    let file = site._folder.path().join(digest.to_string());
    std::fs::write(file, "wh0le").expect("writes");
    let got = site.ask("GET", &site.path(&format!("blobs/{}", digest.with_algorithm())), &[], b"").await;
    assert_eq!(got.code(), (404, "BLOB_UNKNOWN".to_owned()), "and nobody else has it");
}
