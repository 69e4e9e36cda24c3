//! The two ends of a connection between nodes, as rustls wants them.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::cluster::{NodeCertificate, peer_name};
use crate::model::{ClusterId, NodeId};

/// The identity of this node and whom it trusts. Made anew when a certificate or the authority changes; connections
/// that exist go on with what they began with.
pub struct Tls {
    pub(super) cluster: ClusterId,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses them.
    #[error("the certificates between nodes cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    /// An authority that verifies nothing.
    #[error("the certificates of the cluster's authority cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl Tls {
    /// A node's certificate under the authorities that the cluster trusts: one, or two while it changes.
    pub fn new(
        cluster: ClusterId,
        authorities: &[CertificateDer<'static>],
        own: &NodeCertificate,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            // Whoever wants to join has no certificate yet; what else it may ask is decided for each call.
            .allow_unauthenticated()
            .build()?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own.chain.clone(), own.key.clone_key())?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(own.chain.clone(), own.key.clone_key())?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { cluster, server: Arc::new(server), client: Arc::new(client) })
    }
}

/// The name that the certificate of a node has to be for.
pub(super) fn name_of(cluster: ClusterId, node: NodeId) -> ServerName<'static> {
    ServerName::try_from(peer_name(cluster, node)).expect("an id is a DNS label")
}

/// The node that a certificate names, if it is one of this cluster. That the certificate is to be believed is checked
/// elsewhere.
pub(super) fn node_of(cluster: ClusterId, certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let ending = peer_name(cluster, NodeId(0)).split_once('.')?.1.to_owned();
    certificate.valid_dns_names().find_map(|name| {
        let (label, rest) = name.split_once('.')?;
        let number = label.strip_prefix("node-")?.parse().ok()?;
        (rest == ending).then_some(NodeId(number))
    })
}
