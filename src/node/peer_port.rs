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
use crate::model::{Admission, COME_BACK, Cluster, NodeId, NodeRole, Timestamp};
use crate::rpc::{self, Admit, Tls};
use crate::state::{Actor, Command, LogEntry, State};

use super::address::Address;
use super::api_certificate::ApiCertificate;
use super::founding::AUTHORITY_FILE;

/// How often it is looked whether a certificate is due, by the clock on the wall: a machine that slept, and a clock that was
/// set, are found out soon.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// Pause before a renewal that failed is tried again.
const FAILED_PAUSE: Duration = Duration::from_secs(30);
/// Pause before the leader is told again that this node has taken a step of the authority's rotation.
const TOLD_PAUSE: Duration = Duration::from_secs(1);

/// Who may talk to this node: every node with a certificate of the cluster that was not removed, and while the Raft group
/// still needs one that was, that one. One that is not on record here came later than what this node has applied: it may
/// even be the leader that brings the rest. Its id is the index of the entry that let it in, so a lower one is of nobody.
pub(crate) fn admit(view: watch::Receiver<View>) -> Admit {
    Arc::new(move |node| {
        let view = view.borrow();
        may_talk(
            node,
            view.state.admission(node).map(|admission| &**admission),
            view.index,
            view.state.epoch().is_none(),
        )
    })
}

fn may_talk(node: NodeId, admission: Option<&Admission>, applied: u64, first_epoch: bool) -> Result<NodeRole, String> {
    match admission {
        Some(admission) if admission.fenced_at.is_some() => Err(admission.farewell()),
        Some(admission) => Ok(admission.role),
        // The founder is on record from its first word on; what begins anew does so with a node on record.
        None if node.0 > applied || (first_epoch && node == NodeId::FOUNDER) => Ok(NodeRole::VoterEligible),
        None => Err(format!("this cluster never let node {node} in; {COME_BACK}")),
    }
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
    if let Some(cluster) = state.cluster() {
        return certificates(cluster, identity);
    }
    // It was let in and has not been told anything yet.
    let read = |name: &str| dir.read(name)?.with_context(|| format!("{name} is missing from the data folder"));
    let authorities = authorities(&read(AUTHORITY_FILE)?)?;
    // That which signed comes first.
    let signer = authorities.first().context("the file of the cluster's authority is empty")?.clone();
    let own = NodeCertificate::kept(read(KEPT_CERTIFICATE)?, signer, &read(KEPT_KEY)?)
        .context("the key of this node's admission cannot be read")?;
    anyhow::ensure!(
        !own.has_expired(clock::now()),
        "the certificate with which node {} was let in has expired, and it never heard of the cluster since: {COME_BACK}. If the \
         clock of this machine is wrong, set it instead",
        identity.node
    );
    Ok(Arc::new(Tls::new(identity.cluster, &authorities, &own)?))
}

/// The certificates of authorities in PEM.
pub(super) fn authorities(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.context("the certificate of the cluster's authority cannot be read")
}

/// A new certificate of this node, and the authorities that it trusts.
fn certificates(cluster: &Cluster, identity: Identity) -> anyhow::Result<Arc<Tls>> {
    let authorities = authorities(cluster.trusted().as_bytes())?;
    let (authority, key) = cluster.signer();
    let own = Authority::peer_certificate(authority, key, (identity.cluster, identity.node), clock::now(), life())
        .context("cannot make this node's certificate")?;
    Ok(Arc::new(Tls::new(identity.cluster, &authorities, &own)?))
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

/// Keeps what this node shows, and whom it trusts.
pub(super) struct Fresh {
    pub(super) consensus: Consensus,
    pub(super) identity: Identity,
    pub(super) dir: Arc<DataDir>,
    /// To the port between nodes.
    pub(super) tls: watch::Sender<Arc<Tls>>,
    /// To the API.
    pub(super) api: Arc<ApiCertificate>,
}

/// Whose certificates a node shows, and which it trusts.
#[derive(PartialEq, Eq)]
struct Authorities {
    signer: String,
    trusted: String,
}

impl Authorities {
    fn of(cluster: &Cluster) -> Self {
        Self { signer: cluster.signer().0.to_owned(), trusted: cluster.trusted() }
    }
}

impl Fresh {
    /// Makes certificates anew when they are due or the authority changes, until told to stop. Connections that exist go on; new
    /// ones show the new one.
    pub(super) async fn keep(self, quit: CancellationToken) -> Result<(), Infallible> {
        let mut views = self.consensus.watch();
        // What was shown so far was made when the node was let in, or of what its state was at the last checkpoint.
        let mut due = Due::of(clock::now(), life());
        let mut made_from = None;
        loop {
            let cluster = views.borrow_and_update().state.cluster().cloned();
            let mut pause = None;
            if let Some(cluster) = &cluster {
                let now = clock::now();
                let wanted = Authorities::of(cluster);
                if due.is_over(now) || made_from.as_ref() != Some(&wanted) {
                    match self.make(cluster) {
                        Ok(()) => (due, made_from) = (Due::of(now, life()), Some(wanted)),
                        Err(error) => {
                            tracing::warn!(
                                error = format!("{error:#}"),
                                "cannot renew this node's certificates; trying again"
                            );
                            pause = Some(FAILED_PAUSE);
                        }
                    }
                }
                if pause.is_none() && !self.tell(cluster).await {
                    pause = Some(TOLD_PAUSE);
                }
            }
            let wait = pause.unwrap_or_else(|| due.renew_at.since(clock::now()).min(LOOK_EVERY));
            let differs = |view: &View| !is_same(view.state.cluster(), cluster.as_ref());
            tokio::select! {
                () = quit.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
                changed = views.wait_for(differs) => if changed.is_err() { return Ok(()) },
            }
        }
    }

    fn make(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let made = certificates(cluster, self.identity)?;
        self.api.make(cluster)?;
        self.dir.write(AUTHORITY_FILE, cluster.trusted().as_bytes())?;
        self.tls.send_replace(made);
        tracing::debug!("this node has new certificates");
        Ok(())
    }

    /// Says that this node has taken the step of a rotation that it is asked for. False when nobody heard it. First it makes sure
    /// that it knows of the step after a power cut too: the others may go on at once, and it has to find them then.
    async fn tell(&self, cluster: &Cluster) -> bool {
        let node = self.identity.node;
        let Some(rotation) = cluster.rotation.as_ref().filter(|rotation| !rotation.done.contains(&node)) else {
            return true;
        };
        if let Err(error) = self.consensus.note_committed().await {
            tracing::warn!(%error, "cannot keep how far the authority's rotation is");
            return false;
        }
        let command = Command::NoteAuthority { node, step: rotation.step, begun_at: rotation.begun_at };
        let entry = LogEntry { proposed_at: clock::now(), actor: Actor::Node(node), request: None, command };
        let told = self.consensus.propose(entry).await;
        if let Err(error) = &told {
            tracing::info!(%error, "cannot say that this node is ready for the next step of the authority's rotation");
        }
        told.is_ok()
    }
}

/// Cheap, and wrong only in that two that are equal may not be the same.
fn is_same(one: Option<&Arc<Cluster>>, other: Option<&Arc<Cluster>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
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
        for (node, admission, first_epoch, may) in [
            (7, Some(admission(None, None)), true, Ok(NodeRole::Worker)),
            (7, Some(admission(Some(2), None)), true, Ok(NodeRole::Worker)),
            (7, Some(admission(Some(2), Some(3))), true, Err("was removed")),
            (101, None, true, Ok(NodeRole::VoterEligible)),
            (100, None, true, Err("never let")),
            (1, None, true, Ok(NodeRole::VoterEligible)),
            (1, None, false, Err("never let")),
        ] {
            let found = may_talk(NodeId(node), admission.as_ref(), 100, first_epoch);
            match (&found, may) {
                (Ok(role), Ok(wanted)) => assert_eq!(*role, wanted),
                (Err(reason), Err(words)) if reason.contains(words) => {}
                _ => panic!("node {node} with {admission:?}: {found:?}, not {may:?}"),
            }
        }
    }
}
