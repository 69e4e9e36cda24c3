//! The port between nodes: what it proves to others, and how that stays fresh.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::cluster::{Authority, Identity};
use crate::consensus::{Consensus, View};
use crate::rpc::Tls;
use crate::state::State;

/// Two thirds of the life of a certificate. A start makes a new one too.
const RENEW_AFTER: Duration = Duration::from_secs(20 * 24 * 60 * 60);

/// Where to listen. A node whose address for others is this machine's own is reached from this machine only.
pub(super) fn bind_address(advertise: &str) -> IpAddr {
    match advertise.parse::<IpAddr>() {
        Ok(own) if own.is_loopback() => own,
        _ if advertise == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// A new certificate of this node, and the authority that it trusts.
pub(super) fn certificates(state: &State, identity: Identity) -> anyhow::Result<Arc<Tls>> {
    let cluster = state.cluster().context("the state has no cluster: the data folder is incomplete")?;
    let authority = CertificateDer::from_pem_slice(cluster.ca_certificate.as_bytes())
        .context("the certificate of the cluster's authority cannot be read")?;
    let own = Authority::peer_certificate(
        &cluster.ca_certificate,
        &cluster.ca_key,
        (identity.cluster, identity.node),
        clock::now(),
    )
    .context("cannot make this node's certificate")?;
    Ok(Arc::new(Tls::new(identity.cluster, &[authority], &own)?))
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
            () = tokio::time::sleep(RENEW_AFTER) => {}
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

    #[test]
    fn a_node_that_others_cannot_reach_listens_for_nobody_else() {
        for (advertise, bind) in [
            ("127.0.0.1", "127.0.0.1"),
            ("localhost", "127.0.0.1"),
            ("::1", "::1"),
            ("192.0.2.7", "0.0.0.0"),
            ("2001:db8::7", "::"),
            ("node-one.example.org", "0.0.0.0"),
        ] {
            assert_eq!(bind_address(advertise).to_string(), bind, "{advertise}");
        }
    }
}
