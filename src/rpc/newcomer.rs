//! The other side of the way in: a node that knows nothing but a join token.
//!
//! Whoever answers has to show the authority whose key the token names, before anything is sent to it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use narvana_proto::v1;
use narvana_proto::v1::join_client::JoinClient;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::TlsError;
use super::peers::reason;
use super::tls::{name_of, node_of};
use crate::clock;
use crate::cluster::{JoinSecret, key_pin, valid_until};
use crate::consensus::Peer;
use crate::model::{ClusterId, JoinTokenId, NodeId, RequestId, Timestamp};

/// Longest wait for a connection and its handshake.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for an answer; letting a node in goes through the log.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Why a node was not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody is there; another member may be.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port between nodes.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// Whoever answered is not of the cluster that the token is for. Nothing was sent to it.
    #[error("{address} is no member of the cluster that this join token is for: {reason}")]
    Stranger {
        /// Host and port between nodes.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// Its certificate, or this machine's clock, is not of this time.
    #[error(
        "{address} shows a certificate that is not valid at the time of this machine's clock, {now}: {reason}; set the clock of \
         this machine, or of that one"
    )]
    Clock {
        /// Host and port between nodes.
        address: String,
        /// What this machine's clock says.
        now: Timestamp,
        /// What was seen.
        reason: String,
    },
    /// It cannot answer at the moment. Asking again is safe.
    #[error("{address} cannot let nodes in at the moment: {reason}")]
    Busy {
        /// Host and port between nodes.
        address: String,
        /// What it said.
        reason: String,
    },
    /// It said no; every member would.
    #[error("the cluster did not let this node in: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
}

/// Asks members of a cluster to be let in.
pub struct Newcomer {
    tls: Arc<ClientConfig>,
}

/// A member that was reached and proved to be of the right cluster.
pub struct Door {
    client: JoinClient<Channel>,
    address: String,
    /// The address of this machine that the connection was made from.
    pub from: IpAddr,
    /// The member.
    pub node: NodeId,
    /// When its certificate's time is over.
    pub valid_until: Option<Timestamp>,
    /// Version of its program.
    pub version: String,
    /// Time from question to answer.
    pub round_trip: Duration,
    /// How far this machine's clock is ahead of the member's, in milliseconds; half a round trip is uncertain.
    pub clock_ahead_ms: i64,
}

/// What a node shows and says of itself to be let in.
pub struct Request {
    /// The join token.
    pub token: JoinTokenId,
    /// Its secret.
    pub secret: JoinSecret,
    /// Identity of the request: repeating it is safe.
    pub request: RequestId,
    /// PKCS#10, DER.
    pub signing_request: Vec<u8>,
    /// The node's name.
    pub name: String,
    /// Host and port between nodes.
    pub address: String,
    /// The newest version of a cluster that the node's program supports.
    pub cluster_version_max: u32,
}

/// A node that was let in.
pub struct Admitted {
    /// Its identity from now on.
    pub node: NodeId,
    /// Who let it in.
    pub by: Peer,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The authority's, PEM.
    pub authority: String,
}

impl Newcomer {
    /// For the cluster whose authority has the key with this SHA-256.
    pub fn new(cluster: ClusterId, pin: [u8; 32]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Pinned { cluster, pin, provider: Arc::clone(&provider) };
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        tls.resumption = Resumption::disabled();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }

    /// Reaches a member.
    pub async fn reach(&self, address: &str, now: impl Fn() -> Timestamp) -> Result<Door, JoinError> {
        let connected = timeout(CONNECT_MAX, self.connect(address)).await;
        let late = || unreachable(address, format!("no answer within {} seconds", CONNECT_MAX.as_secs()));
        let stream = connected.map_err(|_| late())??;
        let from = stream.get_ref().0.local_addr().map_err(|error| unreachable(address, error.to_string()))?.ip();
        let valid_until = stream.get_ref().1.peer_certificates().and_then(|chain| valid_until(chain.first()?));
        let once = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
        let connector = tower::service_fn(move |_| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(stream.ok_or_else(|| io::Error::other("the connection has ended")))
        });
        let endpoint = Endpoint::from_static("http://member").timeout(ANSWER_MAX);
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| unreachable(address, error.to_string()))?;
        let mut client = JoinClient::new(channel);
        let asked = Instant::now();
        let reply = client.greet(v1::GreetRequest {}).await.map_err(|status| failure(address, &status))?.into_inner();
        let round_trip = asked.elapsed();
        let half = i64::try_from(round_trip.as_millis() / 2).unwrap_or(0);
        Ok(Door {
            client,
            address: address.to_owned(),
            from,
            node: NodeId(reply.node),
            valid_until,
            version: reply.version,
            round_trip,
            clock_ahead_ms: now().0 - half - reply.unix_ms,
        })
    }

    async fn connect(&self, address: &str) -> Result<TlsStream<TcpStream>, JoinError> {
        let stream = TcpStream::connect(address).await.map_err(|error| unreachable(address, error.to_string()))?;
        // The verifier looks at the names itself: which node answers is not known before.
        let name = ServerName::try_from("member.narvana").expect("a DNS name");
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(|error| {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match tls {
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
                    | CertificateError::Expired
                    | CertificateError::ExpiredContext { .. },
                )) => JoinError::Clock { address: address.to_owned(), now: clock::now(), reason: error.to_string() },
                Some(rustls::Error::InvalidCertificate(why)) => {
                    let reason = match why {
                        // Our own verifier's words.
                        CertificateError::Other(rustls::OtherError(own)) => own.to_string(),
                        _ => error.to_string(),
                    };
                    JoinError::Stranger { address: address.to_owned(), reason }
                }
                _ => unreachable(address, error.to_string()),
            }
        })
    }
}

impl Door {
    /// Asks to be let in.
    pub async fn knock(mut self, request: Request) -> Result<Admitted, JoinError> {
        let asked = v1::AdmitRequest {
            token: request.token.0.as_bytes().to_vec().into(),
            secret: request.secret.expose().to_vec().into(),
            request: request.request.0.as_bytes().to_vec().into(),
            signing_request: request.signing_request.into(),
            name: request.name,
            address: request.address,
            cluster_version_max: request.cluster_version_max,
        };
        let reply = self.client.admit(asked).await.map_err(|status| failure(&self.address, &status))?.into_inner();
        let node = NodeId(reply.node);
        let by = Peer { node: self.node, address: self.address };
        Ok(Admitted { node, by, certificate: reply.certificate.to_vec(), authority: reply.authority })
    }
}

fn unreachable(address: &str, reason: String) -> JoinError {
    JoinError::Unreachable { address: address.to_owned(), reason }
}

fn failure(address: &str, status: &Status) -> JoinError {
    let (address, reason) = (address.to_owned(), reason(status));
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted => {
            JoinError::Busy { address, reason }
        }
        _ => JoinError::Refused { reason },
    }
}

/// Believes whoever shows a certificate of a node of the cluster, signed by the authority that the token names.
#[derive(Debug)]
struct Pinned {
    cluster: ClusterId,
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// An authority that is not the one.
#[derive(Debug)]
struct WrongAuthority {
    wanted: [u8; 32],
    shown: Vec<[u8; 32]>,
}

impl fmt::Display for WrongAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.shown.iter().map(hex::encode).collect();
        let shown = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
        write!(
            f,
            "the token is for the authority {}, and it shows {shown}; if the authority was rotated since the token was made, \
             make another token",
            hex::encode(self.wanted)
        )
    }
}

impl std::error::Error for WrongAuthority {}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates.iter().find(|certificate| key_pin(certificate) == Some(self.pin));
        let Some(authority) = authority else {
            let shown = intermediates.iter().filter_map(key_pin).collect();
            let wrong = WrongAuthority { wanted: self.pin, shown };
            return Err(CertificateError::Other(rustls::OtherError(Arc::new(wrong))).into());
        };
        let node = node_of(self.cluster, end_entity).ok_or(CertificateError::NotValidForName)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], &name_of(self.cluster, node), ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
