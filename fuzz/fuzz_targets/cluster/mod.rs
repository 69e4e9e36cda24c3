//! The members of a made-up cluster: the real one, what the others show it, and how a target takes their messages out of
//! its input.

use std::sync::Arc;

use narvana::cluster::{Authority, NodeCertificate, PEER_LIFE};
use narvana::consensus::{self, Consensus, Mark};
use narvana::model::{ClusterId, NodeId};
use narvana::rpc::{Hello, Peers, Tls, Witness};
use narvana::store::{self, KEY_FILE, SealKey, Store};
use narvana::task::Supervisor;
use narvana::{clock, random};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A node of a cluster that has not begun yet.
pub struct Member {
    pub folder: TempDir,
    pub cluster: ClusterId,
    pub authority: Authority,
    pub tls: watch::Receiver<Arc<Tls>>,
    pub witness: Witness,
    pub consensus: Consensus,
    pub supervisor: Supervisor,
    pub fatal: CancellationToken,
}

impl Member {
    pub async fn start(node: NodeId) -> Self {
        // As in every program of Rust that begins in its own `main`: a connection that the other end has closed is an error.
        drop(signal(SignalKind::pipe()).expect("a handler"));
        let cluster: ClusterId = random::id();
        let authority = Authority::new(cluster, clock::now()).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        let fatal = CancellationToken::new();
        let key = SealKey::create(&folder.path().join(KEY_FILE)).expect("a key");
        let options = store::Options { folder: folder.path().to_owned(), cluster, node, key, fatal: fatal.clone() };
        let store = Store::open(options).expect("opens");
        let tls = tls(cluster, &authority, node);
        let witness = witness(Mark::found(&store.log()));
        let peers = Arc::new(Peers::new(tls.clone(), witness.clone()));
        let supervisor = Supervisor::new("node", fatal.clone());
        let options = consensus::Options::default();
        let consensus = Consensus::start(node, options, store, peers, supervisor.clone()).await;
        let consensus = consensus.expect("starts");
        Self { folder, cluster, authority, tls, witness, consensus, supervisor, fatal }
    }
}

/// `length u16 | message`, repeated; a length that is too long takes the rest.
pub fn parts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        bytes = rest;
        Some(message)
    })
}

/// A message as gRPC frames it.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0][..], &length, message].concat()
}

pub fn root(authority: &Authority) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(authority.certificate.as_bytes()).expect("PEM")
}

pub fn certificate(cluster: ClusterId, authority: &Authority, node: NodeId) -> NodeCertificate {
    let (certificate, key) = (&authority.certificate, &authority.key);
    Authority::peer_certificate(certificate, key, (cluster, node), clock::now(), PEER_LIFE).expect("signs")
}

pub fn tls(cluster: ClusterId, authority: &Authority, node: NodeId) -> watch::Receiver<Arc<Tls>> {
    let own = certificate(cluster, authority, node);
    let tls = Tls::new(cluster, &[root(authority)], &own).expect("certificates");
    watch::Sender::new(Arc::new(tls)).subscribe()
}

pub fn witness(began: Mark) -> Witness {
    let witness = Witness::new(Hello { run: random::id(), began }, []);
    witness.take_part();
    witness
}
