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
use crate::cluster::{Authority, DataDir, Identity, NodeCertificate, PEER_LIFE};
use crate::config::test_setting;
use crate::consensus::{Consensus, View};
use crate::model::{NodeRole, Timestamp};
use crate::rpc::{self, Admit, Tls};
use crate::state::State;

use super::address::Address;
use super::founding::AUTHORITY_FILE;

/// How often it is looked whether a certificate is due, by the clock on the wall: a machine that slept, and a clock that was
/// set, are found out soon.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// Pause before a renewal that failed is tried again.
const FAILED_PAUSE: Duration = Duration::from_secs(30);

/// Who may talk to this node: every node with a certificate of the cluster that was not removed. One that is not on
/// record here came later than what this node has applied: it may even be the leader that brings the rest.
pub(super) fn admit(view: watch::Receiver<View>) -> Admit {
    Arc::new(move |node| match view.borrow().state.admission(node) {
        Some(admission) if admission.removed_at.is_some() => Err(format!(
            "node {node} was removed from this cluster; it can come back as a new node, in an empty data folder, with \
             `narvana join`"
        )),
        Some(admission) => Ok(admission.role),
        None => Ok(NodeRole::VoterEligible),
    })
}

/// Certificate and key of this node from its admission, DER and PEM.
pub(super) const KEPT_CERTIFICATE: &str = "peer.crt";
/// See [`KEPT_CERTIFICATE`].
pub(super) const KEPT_KEY: &str = "peer.key";

/// When a certificate that was made just now is replaced: after two thirds of its life, so that there is a third of it to
/// find out why that fails.
struct Due {
    made_at: Timestamp,
    renew_at: Timestamp,
}

impl Due {
    fn of(made_at: Timestamp, life: Duration) -> Self {
        Self { made_at, renew_at: made_at.plus(life * 2 / 3) }
    }

    /// A clock that says that it was not made yet was wrong then or is now.
    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.renew_at || now < self.made_at
    }
}

/// How long certificates between nodes are valid.
fn life() -> Duration {
    let seconds = test_setting("NARVANA_PEER_CERTIFICATE_SECONDS").and_then(|text| text.parse().ok());
    seconds.map_or(PEER_LIFE, Duration::from_secs)
}

/// What this node shows to others when it starts, and the authority that it trusts. A node whose certificate expired while
/// it was off makes a new one like any other: it has the state, and with it the authority's key. Whether it still is a
/// member is for the others to say.
pub(super) fn first_certificates(state: &State, identity: Identity, dir: &DataDir) -> anyhow::Result<Arc<Tls>> {
    if state.cluster().is_some() {
        return certificates(state, identity);
    }
    // It was let in and has not been told anything yet.
    let read = |name: &str| dir.read(name)?.with_context(|| format!("{name} is missing from the data folder"));
    let authority = authority(&read(AUTHORITY_FILE)?)?;
    let own = NodeCertificate::kept(read(KEPT_CERTIFICATE)?, authority.clone(), &read(KEPT_KEY)?)
        .context("the key of this node's admission cannot be read")?;
    anyhow::ensure!(
        !own.has_expired(clock::now()),
        "the certificate with which node {} was let in has expired, and it never heard of the cluster since: on a member, \
         `narvana node remove {0}`; then `narvana join` here with an empty data folder. If the clock of this machine is wrong, \
         set it instead",
        identity.node
    );
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
        life(),
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
    // It was made when the node started, a moment ago; or when it was let in, and then it is replaced by one of its own.
    let mut due = match consensus.latest().state.cluster() {
        Some(_) => Due::of(clock::now(), life()),
        None => Due::of(clock::now(), Duration::ZERO),
    };
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(due.renew_at.since(clock::now()).clamp(pause, LOOK_EVERY)) => {}
            () = quit.cancelled() => return Ok(()),
        }
        let (View { state, .. }, now) = (consensus.latest(), clock::now());
        pause = Duration::ZERO;
        if !due.is_over(now) {
            continue;
        }
        match certificates(&state, identity) {
            Ok(renewed) => {
                tls.send_replace(renewed);
                due = Due::of(now, life());
                tracing::debug!("this node has a new certificate");
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "cannot renew this node's certificate; trying again");
                pause = FAILED_PAUSE;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_life_and_when_the_clock_was_wrong() {
        let made = Timestamp(1_000_000);
        let due = Due::of(made, Duration::from_secs(30));
        assert!(!due.is_over(made) && !due.is_over(made.plus(Duration::from_secs(19))));
        assert!(due.is_over(made.plus(Duration::from_secs(20))));
        assert!(due.is_over(Timestamp(0)), "it was made in the future");
    }
}
