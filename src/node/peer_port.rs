//! The port between nodes: what it proves to others, and how that stays fresh.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

/// How often a certificate is made anew. It is valid for thirty days, so a renewal that fails, a clock that was wrong and a
/// machine that slept are all made good by the next one.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where to listen. A node whose address for others is this machine's own is reached from this machine only.
pub(super) fn bind_address(advertise: &str) -> IpAddr {
    match advertise.parse::<IpAddr>() {
        Ok(own) if own.is_loopback() => own,
        _ if advertise == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Host and port as other nodes connect to them.
pub(super) fn address_for_others(advertise: &str, port: u16) -> String {
    match advertise.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{advertise}:{port}"),
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

    #[test]
    fn addresses_for_others_can_be_connected_to() {
        assert_eq!(address_for_others("2001:db8::7", 9090), "[2001:db8::7]:9090");
        assert_eq!(address_for_others("192.0.2.7", 9090), "192.0.2.7:9090");
        assert_eq!(address_for_others("node-one.example.org", 1), "node-one.example.org:1");
    }
}
