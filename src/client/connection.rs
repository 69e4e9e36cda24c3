//! Sending one request to whichever node answers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::{HeaderValue, Method, StatusCode};
use reqwest::{Certificate, Response, Url};
use serde_json::Value;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use super::Error;
use crate::model::Secret;
use crate::random;

/// Longest time to reach a node before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The same when there is no other one.
const CONNECT_TIMEOUT_ALONE: Duration = Duration::from_secs(5);
/// Longest time for an ordinary request: longer than the node's own limit, so that its answer is seen.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Header with the version of the program that answers.
const VERSION: &str = "x-narvana-version";
/// Longest version that is repeated.
const VERSION_CHARS_MAX: usize = 40;

/// Where to, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Addresses of nodes of one cluster.
    pub addresses: Vec<String>,
    /// Token of a log-in.
    pub token: Option<Secret>,
    /// PEM file with the only certificate authorities to trust; the machine's when absent.
    pub ca_cert: Option<PathBuf>,
    /// Certificate of the cluster's own authority (PEM), to be trusted besides.
    pub authority: Option<String>,
    /// Read what a node knows, without asking whether it is the newest.
    pub stale: bool,
    /// Told once when a node answers that is of another version than this program: its address and its version.
    pub on_other_version: Option<fn(&str, &str)>,
}

/// Told the bytes sent so far of an upload.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What a request carries.
pub(super) enum Body<'a> {
    Empty,
    Json(&'a Value),
    /// Nothing; the answer is long and takes as long as it takes.
    Download,
    /// Nothing; the connection becomes a WebSocket, by this key.
    WebSocket(&'a str),
    File {
        path: &'a Path,
        progress: &'a Progress,
    },
}

/// One request, without the node it goes to.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'static str, String)],
    pub(super) body: Body<'a>,
    /// That the answer is a stream without end, and the event after which it begins; empty for its beginning.
    pub(super) stream: Option<&'a str>,
}

/// The nodes, and which of them answered last.
pub(super) struct Connection {
    http: reqwest::Client,
    nodes: Vec<Url>,
    current: AtomicUsize,
    authorization: Option<HeaderValue>,
    stale: bool,
    on_other_version: Option<fn(&str, &str)>,
    has_told_version: AtomicBool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let nodes = options.addresses.iter().map(|address| parse(address)).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(Error::Address { address: String::new() });
        }
        let authorization = options.token.as_ref().map(bearer).transpose()?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("narvana/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(if nodes.len() > 1 { CONNECT_TIMEOUT } else { CONNECT_TIMEOUT_ALONE })
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &options.ca_cert {
            let failed = |source| Error::CertificateFile { path: path.clone(), source };
            let pem = std::fs::read(path).map_err(failed)?;
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(Error::Tls)?);
        } else if nodes.iter().all(|node| node.scheme() == "http") {
            // A fresh machine has no certificates, which must not matter to plain HTTP.
            builder = builder.tls_certs_only([]);
        }
        if let Some(authority) = &options.authority {
            let trusted = Certificate::from_pem_bundle(authority.as_bytes()).map_err(Error::Tls)?;
            builder = trusted.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
        }
        let http = builder.build().map_err(Error::Tls)?;
        Ok(Self {
            http,
            nodes,
            current: AtomicUsize::new(0),
            authorization,
            stale: options.stale,
            on_other_version: options.on_other_version,
            has_told_version: AtomicBool::new(false),
        })
    }

    /// Answers of another version are taken as far as they are understood; that it is another one may explain the rest.
    fn compare_version(&self, response: &Response) {
        let Some(told) = self.on_other_version else { return };
        let Some(version) = response.headers().get(VERSION).and_then(|value| value.to_str().ok()) else { return };
        if version != env!("CARGO_PKG_VERSION") && !self.has_told_version.swap(true, Ordering::Relaxed) {
            told(&self.address(), &version.chars().take(VERSION_CHARS_MAX).collect::<String>());
        }
    }

    /// The address that answered last, or the first one.
    pub(super) fn address(&self) -> String {
        let node = &self.nodes[self.current.load(Ordering::Relaxed)];
        node.as_str().trim_end_matches('/').to_owned()
    }

    /// Sends a request to the node that answered last, and to the others as long as that is safe.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Response, Error> {
        // One key for all tries: a node that has done it already answers with what it did.
        let key: Uuid = random::id();
        let first = self.current.load(Ordering::Relaxed);
        // Log-ins have no key: each makes a session of its own.
        let repeatable = request.method == Method::GET || request.path.first() != Some(&"auth");
        let mut nodes = (0..self.nodes.len()).map(|step| (first + step) % self.nodes.len());
        let mut failed: Option<Error> = None;
        let mut asked = FuturesUnordered::new();
        loop {
            // One after the other; but who cannot decide says so after seconds, and then all others are asked at once.
            let can_decide = failed.as_ref().is_none_or(|error| error.code() != "no_quorum");
            let at_once =
                if can_decide || !repeatable || matches!(request.body, Body::File { .. }) { 1 } else { usize::MAX };
            if asked.is_empty() {
                asked.extend(nodes.by_ref().take(at_once).map(|node| self.attempt(node, request, key)));
            }
            match asked.next().await {
                None => break,
                Some(Err(error)) if error.another_node_may_help(repeatable) => {
                    // What says most is told: that it may have been done, then who is missing, then that nobody was there.
                    let is_read = request.method == Method::GET;
                    if failed.as_ref().is_none_or(|before| error.weight(is_read) >= before.weight(is_read)) {
                        failed = Some(error);
                    }
                }
                Some(answered) => return answered,
            }
        }
        Err(failed.expect("there is at least one node"))
    }

    async fn attempt(&self, node: usize, request: &Request<'_>, key: Uuid) -> Result<Response, Error> {
        let mut url = self.nodes[node].clone();
        // The scheme was checked, so that the address has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(request.path);
        }
        let from = url.to_string();
        let mut builder = self.http.request(request.method.clone(), url).query(request.query);
        builder = match request.stream {
            Some("") => builder.header(ACCEPT, "text/event-stream"),
            Some(after) => builder.header(ACCEPT, "text/event-stream").header("Last-Event-ID", after),
            None => builder.header(ACCEPT, "application/json"),
        };
        if self.stale && request.method == Method::GET && !request.query.iter().any(|(name, _)| *name == "consistency")
        {
            builder = builder.query(&[("consistency", "stale")]);
        }
        if let Some(authorization) = &self.authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        if request.method != Method::GET {
            builder = builder.header("Idempotency-Key", key.to_string());
        }
        builder = match &request.body {
            Body::Empty | Body::Download => builder,
            Body::WebSocket(key) => builder
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket")
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_KEY, *key),
            Body::Json(value) => builder.json(value),
            Body::File { path, progress } => {
                let (length, body) = upload(path, progress).await?;
                // The length is announced, so that what is too large is refused before it is sent.
                builder.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, length).body(body)
            }
        };
        // Uploads and downloads take as long as they take, and streams for ever.
        if request.stream.is_none() && !matches!(request.body, Body::File { .. } | Body::Download) {
            builder = builder.timeout(REQUEST_TIMEOUT);
        }
        let response = builder.send().await.map_err(|source| self.failed(source, from.clone()))?;
        self.current.store(node, Ordering::Relaxed);
        self.compare_version(&response);
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|source| Error::Broken { from, source })?;
        Err(Error::from_body(status.as_u16(), &body))
    }

    fn failed(&self, source: reqwest::Error, from: String) -> Error {
        if source.is_connect() || source.is_builder() {
            let tried: Vec<&str> = self.nodes.iter().map(|node| node.as_str().trim_end_matches('/')).collect();
            return Error::Unreachable { tried: tried.join(", "), source: source.without_url() };
        }
        Error::Broken { from, source: source.without_url() }
    }
}

fn parse(address: &str) -> Result<Url, Error> {
    let bad = || Error::Address { address: address.to_owned() };
    let url = Url::parse(address).map_err(|_| bad())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain || url.host_str().is_none() {
        return Err(bad());
    }
    Ok(url)
}

fn bearer(token: &Secret) -> Result<HeaderValue, Error> {
    let mut bytes = b"Bearer ".to_vec();
    bytes.extend_from_slice(token.expose());
    let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| Error::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

async fn upload(path: &Path, progress: &Progress) -> Result<(u64, reqwest::Body), Error> {
    let failed = |source| Error::Upload { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    let progress = Arc::clone(progress);
    let mut sent = 0;
    let stream = ReaderStream::with_capacity(file, 64 * 1024).inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            sent += chunk.len() as u64;
            progress(sent);
        }
    });
    Ok((length, reqwest::Body::wrap_stream(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_an_api_are_accepted() {
        for address in ["http://127.0.0.1:8080", "https://n.example.org/narvana/", "http://[::1]:1"] {
            assert!(parse(address).is_ok(), "{address}");
        }
        for address in ["", "127.0.0.1:8080", "localhost", "ftp://h", "http://u:p@h", "http://h?x=1", "file:///x"] {
            assert!(parse(address).is_err(), "{address}");
        }
    }
}
