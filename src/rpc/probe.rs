//! Who is at an address: a handshake, after which nothing is said. For programs that are no member at that moment.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::TlsError;
use super::tls::name_of;
use crate::consensus::Peer;
use crate::model::ClusterId;

/// Longest wait for a connection, and again for the handshake.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Asks who answers where the nodes of a cluster were last.
pub struct Probe {
    cluster: ClusterId,
    tls: Arc<ClientConfig>,
}

/// Who is at a node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nobody takes a connection.
    Nobody,
    /// The node: it has shown its certificate.
    Itself,
    /// Something takes connections and has not shown to be the node: why not.
    Another(String),
}

impl Probe {
    /// For the nodes whose certificates one of these authorities signed.
    pub fn new(cluster: ClusterId, authorities: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { cluster, tls: Arc::new(tls) })
    }

    /// Looks at a node's address.
    pub async fn look(&self, peer: &Peer) -> Presence {
        let Ok(Ok(stream)) = timeout(ANSWER_MAX, TcpStream::connect(&peer.address)).await else {
            return Presence::Nobody;
        };
        let name = name_of(self.cluster, peer.node);
        match timeout(ANSWER_MAX, TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream)).await {
            Ok(Ok(_)) => Presence::Itself,
            Ok(Err(error)) => Presence::Another(error.to_string()),
            Err(_) => {
                Presence::Another(format!("it takes connections and says nothing for {} s", ANSWER_MAX.as_secs()))
            }
        }
    }
}
