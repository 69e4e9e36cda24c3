//! The members of a made-up cluster: what they show each other, and how a target takes their messages out of its input.

use std::sync::Arc;

use narvana::cluster::{Authority, NodeCertificate, PEER_LIFE};
use narvana::consensus::Mark;
use narvana::model::{ClusterId, NodeId};
use narvana::rpc::{Hello, Tls, Witness};
use narvana::{clock, random};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;

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
