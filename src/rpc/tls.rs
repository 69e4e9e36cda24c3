//! The two ends of a connection between nodes, as rustls wants them.

use std::sync::Arc;
use std::{fmt, io};

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};

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

/// Why two nodes with the same cluster's name do not talk to each other: the authority was rotated without one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// The other one's certificate is signed by an authority that is not known here.
    Shows,
    /// The other one does not know the authority of this node's certificate.
    Trusts,
}

impl Distrust {
    /// If that is why a handshake failed.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref()? {
            // All authorities of a cluster have the same name: another one's signatures look wrong.
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Some(Self::Shows)
            }
            rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
                Some(Self::Trusts)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Distrust {
    /// As the beginning of a sentence that goes on with the authority.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Shows => "it shows",
            Self::Trusts => "it trusts",
        })
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
    certificate.valid_dns_names().find_map(|name| node_called(cluster, name))
}

/// The node of this cluster that has this name (`cluster::peer_name`).
pub(super) fn node_called(cluster: ClusterId, name: &str) -> Option<NodeId> {
    let number = name.split_once('.')?.0.strip_prefix("node-")?.parse().ok()?;
    (name == peer_name(cluster, NodeId(number))).then_some(NodeId(number))
}
