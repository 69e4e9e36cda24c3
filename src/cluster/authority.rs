//! The cluster's certificate authority.
//!
//! Made by `init`; its key is kept in the replicated state, sealed like everything there. A node makes the certificate
//! of its API port anew at every start, so that nothing has to be renewed on disk.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sha2::{Digest, Sha256};

use crate::model::{ClusterId, NodeId, Secret, Timestamp};

/// How long a certificate between nodes is valid; a new one is made after two thirds of it.
pub const PEER_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a server certificate is valid. Longer than any node runs without a restart for an upgrade.
const SERVER_LIFE: Duration = Duration::from_secs(397 * 24 * 60 * 60);
/// Ending of the names of the port between nodes.
const PEER_NAMES: &str = ".narvana";
/// How long the authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);
/// Certificates count from an hour ago, since clocks differ.
const BACKDATED_MS: i64 = 3_600_000;

/// A new authority.
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: Secret,
}

/// A request for a certificate that cannot be granted.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// It is no such request, or whoever made it does not have the key.
    #[error("the signing request cannot be used: {0}")]
    Request(rcgen::Error),
    /// The authority failed.
    #[error("the cluster's authority cannot sign: {0}")]
    Authority(#[from] rcgen::Error),
}

/// A key for a node that is about to join, and the request to have it signed.
pub struct SigningRequest {
    /// The private key, PEM.
    pub key: Secret,
    /// PKCS#10, DER.
    pub request: Vec<u8>,
}

impl SigningRequest {
    /// A new key.
    pub fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        Ok(Self { request: request.der().to_vec(), key: Secret::new(key.serialize_pem()) })
    }
}

/// The key of a signing request that somebody sent, who has shown to have its private half.
pub struct RequestedKey(CertificateSigningRequestParams);

impl RequestedKey {
    /// Takes a request (PKCS#10, DER) with a key of the kind that nodes make.
    pub fn from_der(request: &[u8]) -> Result<Self, SigningError> {
        let request = CertificateSigningRequestDer::from(request);
        let request = CertificateSigningRequestParams::from_der(&request).map_err(SigningError::Request)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(SigningError::Request(rcgen::Error::UnsupportedSignatureAlgorithm));
        }
        Ok(Self(request))
    }
}

/// What one end of a connection needs for TLS.
pub struct NodeCertificate {
    /// Its certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: PrivateKeyDer<'static>,
}

fn validity(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let at = |ms: i64| time_of(ms / 1_000);
    params.not_before = at(now.0 - BACKDATED_MS);
    params.not_after = at(now.plus(life).0);
}

fn time_of(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

impl Authority {
    /// Makes one for a new cluster.
    pub fn new(cluster: ClusterId, now: Timestamp) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("narvana cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: Secret::new(key.serialize_pem()) })
    }

    /// A certificate for the API of a node: for its identity, its names and the addresses people use on its machine.
    pub fn server_certificate(
        certificate: &str,
        key: &Secret,
        (cluster, node): (ClusterId, NodeId),
        names: &[&str],
        now: Timestamp,
    ) -> Result<NodeCertificate, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let identity = format!("spiffe://{cluster}/node/{node}");
        params.subject_alt_names.push(SanType::URI(Ia5String::try_from(identity)?));
        let local = ["localhost", "127.0.0.1", "::1"];
        // A name of the port between nodes would let this port pass for another node's.
        for name in local.iter().chain(names).filter(|name| !name.ends_with(PEER_NAMES)) {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(Ia5String::try_from(*name)?),
            });
        }
        params.distinguished_name = common_name(node);
        validity(&mut params, now, SERVER_LIFE);
        sign(certificate, key, params)
    }

    /// A certificate for the port between nodes, DER, for the key of somebody else's request. Nothing else of the request
    /// counts: what the certificate says is decided here.
    pub fn sign_peer(
        certificate: &str,
        key: &Secret,
        (cluster, node): (ClusterId, NodeId),
        requested: &RequestedKey,
        now: Timestamp,
    ) -> Result<Vec<u8>, SigningError> {
        let params = peer_params((cluster, node), now, PEER_LIFE)?;
        let signed = params.signed_by(&requested.0.public_key, &issuer(certificate, key)?)?;
        Ok(signed.der().to_vec())
    }

    /// A certificate for the port between nodes, valid for `life`: it says which node this is, to those it calls and to those
    /// that call it.
    pub fn peer_certificate(
        certificate: &str,
        key: &Secret,
        (cluster, node): (ClusterId, NodeId),
        now: Timestamp,
        life: Duration,
    ) -> Result<NodeCertificate, rcgen::Error> {
        sign(certificate, key, peer_params((cluster, node), now, life)?)
    }
}

impl NodeCertificate {
    /// From what a node kept of its admission: its certificate, the authority's (DER) and its own key (PEM).
    pub fn kept(own: Vec<u8>, authority: CertificateDer<'static>, key: &[u8]) -> Result<Self, pem::Error> {
        Ok(Self { chain: vec![own.into(), authority], key: PrivateKeyDer::from_pem_slice(key)? })
    }

    /// Whether its time is over.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        let since_epoch = Duration::from_millis(u64::try_from(now.0).unwrap_or(0));
        let [own, authority, ..] = &self.chain[..] else { return false };
        let Ok(own) = webpki::EndEntityCert::try_from(own) else { return false };
        let Ok(authority) = webpki::anchor_from_trusted_cert(authority) else { return false };
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let (time, authorities) = (UnixTime::since_unix_epoch(since_epoch), [authority]);
        let usage = webpki::KeyUsage::client_auth();
        let verified = own.verify_for_usage(algorithms, &authorities, &[], time, usage, None, None);
        matches!(verified, Err(webpki::Error::CertExpired { .. }))
    }
}

/// When a certificate's time is over, to the second. Nothing of it is verified.
pub fn valid_until(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(Timestamp(read.validity().not_after.timestamp().checked_mul(1_000)?))
}

/// The usual fingerprint of each certificate in PEM, as `openssl x509 -fingerprint -sha256` prints it: by this people compare what two
/// machines have. Another certificate of the same key has another one.
pub fn fingerprints(certificates: &str) -> Vec<String> {
    let read = CertificateDer::pem_slice_iter(certificates.as_bytes()).filter_map(Result::ok);
    let print = |certificate: CertificateDer<'_>| {
        let bytes = Sha256::digest(&certificate).into_iter().map(|byte| format!("{byte:02X}"));
        bytes.collect::<Vec<_>>().join(":")
    };
    read.map(print).collect()
}

/// [`key_pin`] of an authority's certificate in PEM.
pub fn pin_of(certificate: &str) -> Option<[u8; 32]> {
    key_pin(&CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?)
}

/// SHA-256 of the key of a certificate: by this an authority is recognised before anything is believed.
pub fn key_pin(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let key = webpki::EndEntityCert::try_from(certificate).ok()?.subject_public_key_info();
    Some(Sha256::digest(&key).into())
}

fn peer_params(
    (cluster, node): (ClusterId, NodeId),
    now: Timestamp,
    life: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(node);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(peer_name(cluster, node))?));
    validity(&mut params, now, life);
    Ok(params)
}

fn common_name(node: NodeId) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("narvana node {node}"));
    name
}

fn issuer(certificate: &str, key: &Secret) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
    Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(&String::from_utf8_lossy(key.expose()))?)
}

/// The name in a node's certificate for the port between nodes. It is never looked up: whoever connects knows the address
/// and asks for this name, so that only this node can answer.
pub fn peer_name(cluster: ClusterId, node: NodeId) -> String {
    format!("node-{node}.{cluster}{PEER_NAMES}")
}

/// Makes a key and has the authority sign it.
fn sign(certificate: &str, key: &Secret, params: CertificateParams) -> Result<NodeCertificate, rcgen::Error> {
    let own = KeyPair::generate()?;
    let signed = params.signed_by(&own, &issuer(certificate, key)?)?;
    let authority = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| rcgen::Error::PemError(error.to_string()))?;
    Ok(NodeCertificate {
        chain: vec![signed.der().clone(), authority],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der())),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::ServerName;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_fingerprint_is_the_one_that_openssl_prints() {
        let certificate = "-----BEGIN CERTIFICATE-----
MIIBbzCCARWgAwIBAgIUMsNT8RZ8G2WPKKrOU/PClNRpiskwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBbjAgFw0yNjExMzAyMDExMDFaGA8yMTI2MTEwNjIwMTEwMVow
DDEKMAgGA1UEAwwBbjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPzH0vziOKSp
6ssciBUmvh3AxQ2H6XJfLN/vdBFjS/SKlW5PlnOIvEMOTtxuyTCzq0DOIMO9rqZo
k13wjLxhGQajUzBRMB0GA1UdDgQWBBQN37lVmCBbP6RiguuNnEfjLzsOdzAfBgNV
HSMEGDAWgBQN37lVmCBbP6RiguuNnEfjLzsOdzAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0gAMEUCIALxgWGEH2fsmBgq6un5zp0meV7Kc07b3LNJrlD71WRC
AiEAr2owGdnPJXQivylp1Rto/RjM5B6LlRENAzBscciHCXk=
-----END CERTIFICATE-----
";
        let printed = "D1:2B:A6:2B:66:20:2E:28:DE:A3:C7:9F:76:17:C9:8D:B0:11:B1:C1:56:76:0D:54:8A:AC:8B:BB:66:87:18:5B";
        assert_eq!(fingerprints(certificate), [printed]);
        assert_eq!(fingerprints(&certificate.repeat(2)), [printed; 2], "of both, while one replaces the other");
        assert_eq!(fingerprints("no certificate"), [""; 0]);
    }

    #[test]
    fn a_certificate_between_nodes_is_valid_for_its_life() {
        let now = crate::clock::now();
        let cluster = ClusterId(Uuid::from_u128(1));
        let authority = Authority::new(cluster, now).expect("makes an authority");
        let identity = (cluster, NodeId::FOUNDER);
        let own = Authority::peer_certificate(&authority.certificate, &authority.key, identity, now, PEER_LIFE);
        let own = own.expect("signs");
        assert!(!own.has_expired(now) && !own.has_expired(now.plus(PEER_LIFE - Duration::from_secs(2))));
        assert!(own.has_expired(now.plus(PEER_LIFE + Duration::from_secs(2))));
        let until = valid_until(&own.chain[0]).expect("a certificate").0;
        assert!((until - now.plus(PEER_LIFE).0).abs() <= 1_000, "{until}");
        assert_eq!(valid_until(&CertificateDer::from(vec![0; 9])), None);
    }

    #[test]
    fn a_server_certificate_is_good_for_its_names_under_its_authority_only() {
        let now = crate::clock::now();
        let cluster = ClusterId(Uuid::from_u128(1));
        let authority = Authority::new(cluster, now).expect("makes an authority");
        let server = Authority::server_certificate(
            &authority.certificate,
            &authority.key,
            (cluster, NodeId::FOUNDER),
            &["node-one.example.org", "192.0.2.7", &peer_name(cluster, NodeId(2))],
            now,
        )
        .expect("signs");
        let verify = |authority: &Authority, name: &str| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).expect("PEM")).expect("a root");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("roots");
            let name = ServerName::try_from(name.to_owned()).expect("a name");
            verifier.verify_server_cert(&server.chain[0], &[], &name, &[], UnixTime::now()).is_ok()
        };
        for name in ["localhost", "127.0.0.1", "node-one.example.org", "192.0.2.7"] {
            assert!(verify(&authority, name), "{name}");
        }
        assert!(!verify(&authority, "other.example.org"));
        assert!(!verify(&authority, &peer_name(cluster, NodeId(2))), "it was asked for, and is another node's");
        assert!(!verify(&Authority::new(cluster, now).expect("another"), "localhost"));
    }
}
