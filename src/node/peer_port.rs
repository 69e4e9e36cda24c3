//! The port between nodes: what it proves to others, and how that stays fresh.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::cluster::{Authority, DataDir, Identity, NodeCertificate};
use crate::consensus::{Consensus, View};
use crate::model::{Admission, NodeId, NodeRole};
use crate::rpc::{self, Admit, Tls};
use crate::state::State;

use super::address::Address;
use super::founding::AUTHORITY_FILE;

/// How often a certificate is made anew. It is valid for thirty days, so a renewal that fails, a clock that was wrong and a
/// machine that slept are all made good by the next one.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Who may talk to this node: every node with a certificate of the cluster that was not removed, and while the Raft group
/// still needs one that was, that one. One that is not on record here came later than what this node has applied: it may
/// even be the leader that brings the rest. Its id is the index of the entry that let it in, so a lower one is of nobody.
pub(super) fn admit(view: watch::Receiver<View>) -> Admit {
    Arc::new(move |node| {
        let view = view.borrow();
        may_talk(node, view.state.admission(node).map(|admission| &**admission), view.index)
    })
}

fn may_talk(node: NodeId, admission: Option<&Admission>, applied: u64) -> Result<NodeRole, String> {
    match admission {
        Some(admission) if admission.fenced_at.is_some() => Err(format!(
            "node {node} was removed from this cluster; it can come back as a new node, in an empty data folder, with \
             `narvana join`"
        )),
        Some(admission) => Ok(admission.role),
        // The founder is on record from its first word on.
        None if node.0 > applied || node == NodeId::FOUNDER => Ok(NodeRole::VoterEligible),
        None => Err(format!(
            "this cluster never let node {node} in; its machine can come as a new node, in an empty data folder, with \
             `narvana join`"
        )),
    }
}

/// Certificate and key of this node from its admission, DER and PEM.
pub(super) const KEPT_CERTIFICATE: &str = "peer.crt";
/// See [`KEPT_CERTIFICATE`].
pub(super) const KEPT_KEY: &str = "peer.key";

/// What this node shows to others when it starts, and the authority that it trusts.
pub(super) fn first_certificates(state: &State, identity: Identity, dir: &DataDir) -> anyhow::Result<Arc<Tls>> {
    if state.cluster().is_some() {
        return certificates(state, identity);
    }
    // It was let in and has not been told anything yet.
    let read = |name: &str| dir.read(name)?.with_context(|| format!("{name} is missing from the data folder"));
    let authority = authority(&read(AUTHORITY_FILE)?)?;
    let own = NodeCertificate::kept(read(KEPT_CERTIFICATE)?, authority.clone(), &read(KEPT_KEY)?)
        .context("the key of this node's admission cannot be read")?;
    Ok(Arc::new(Tls::new(identity.cluster, &[authority], &own)?))
}

fn authority(pem: &[u8]) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem).context("the certificate of the cluster's authority cannot be read")
}

/// A new certificate of this node, and the authority that it trusts.
fn certificates(state: &State, identity: Identity) -> anyhow::Result<Arc<Tls>> {
    let cluster = state.cluster().context("the state has no cluster yet")?;
    let authority = authority(cluster.ca_certificate.as_bytes())?;
    let own = Authority::peer_certificate(
        &cluster.ca_certificate,
        &cluster.ca_key,
        (identity.cluster, identity.node),
        clock::now(),
    )
    .context("cannot make this node's certificate")?;
    Ok(Arc::new(Tls::new(identity.cluster, &[authority], &own)?))
}

/// Listens for other nodes.
pub(super) async fn bind(
    address: &Address,
    parts: impl Fn() -> rpc::Parts,
) -> anyhow::Result<(rpc::Server, SocketAddr)> {
    let options = rpc::Options { bind: address.bind(), port: address.port };
    let bound = match rpc::Server::bind(options, parts()).await {
        // The others are told of the new one.
        Err(error) if address.any_port && error.kind() == io::ErrorKind::AddrInUse => {
            rpc::Server::bind(rpc::Options { port: 0, ..options }, parts()).await
        }
        bound => bound,
    };
    let server = bound.with_context(|| {
        format!("cannot listen on port {} for other nodes; choose another --grpc-port", options.port)
    })?;
    let address = server.address();
    Ok((server, address))
}

/// Renews the certificate until told to stop. Connections that exist go on; new ones show the new one.
pub(super) async fn keep_fresh(
    consensus: Consensus,
    identity: Identity,
    tls: watch::Sender<Arc<Tls>>,
    quit: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RENEW_EVERY) => {}
            () = quit.cancelled() => return Ok(()),
        }
        let View { state, .. } = consensus.latest();
        match certificates(&state, identity) {
            Ok(renewed) => drop(tls.send_replace(renewed)),
            Err(error) => tracing::error!(error = format!("{error:#}"), "cannot renew this node's certificate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn who_may_talk() {
        let at = |millis: Option<i64>| millis.map(Timestamp);
        let admission = |removed: Option<i64>, fenced: Option<i64>| Admission {
            node: NodeId(7),
            name: "seven".to_owned(),
            address: "10.0.0.7:9090".to_owned(),
            role: NodeRole::Worker,
            token: None,
            admitted_at: Timestamp(1),
            removed_at: at(removed),
            fenced_at: at(fenced),
        };
        for (node, admission, applied, may) in [
            (7, Some(admission(None, None)), 100, Ok(NodeRole::Worker)),
            (7, Some(admission(Some(2), None)), 100, Ok(NodeRole::Worker)),
            (7, Some(admission(Some(2), Some(3))), 100, Err("was removed")),
            (101, None, 100, Ok(NodeRole::VoterEligible)),
            (100, None, 100, Err("never let")),
            (1, None, 100, Ok(NodeRole::VoterEligible)),
        ] {
            let found = may_talk(NodeId(node), admission.as_ref(), applied);
            match (&found, may) {
                (Ok(role), Ok(wanted)) => assert_eq!(*role, wanted),
                (Err(reason), Err(words)) if reason.contains(words) => {}
                _ => panic!("node {node} with {admission:?}: {found:?}, not {may:?}"),
            }
        }
    }
}
