//! Members in one process, each with its own store and port.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::*;
use crate::agent::LocalExec;
use crate::artifact::ArtifactStore;
use crate::cluster::{Authority, PEER_LIFE};
use crate::consensus::{self, Consensus, Mark, Peer, RaftRole};
use crate::logs::{self, LogStore};
use crate::model::{ClusterId, SettingKey};
use crate::state::{Actor, Command, LogEntry};
use crate::store::{self, KEY_FILE, SealKey, Store};
use crate::task::Supervisor;
use crate::{clock, random};

/// Longest wait for a condition.
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) struct Cluster {
    id: ClusterId,
    authority: Authority,
}

pub(super) struct Member {
    folder: TempDir,
    pub(super) peer: Peer,
    pub(super) consensus: Consensus,
    pub(super) artifacts: ArtifactStore,
    pub(super) logs: LogStore,
    exec: LocalExec,
    pub(super) tunnels: OpenTunnels,
    pub(super) witness: Witness,
    pub(super) tls: watch::Receiver<Arc<Tls>>,
    server: Supervisor,
    fatal: CancellationToken,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let id = random::id();
        Self { id, authority: Authority::new(id, clock::now()).expect("an authority") }
    }

    pub(super) fn tls(&self, node: NodeId) -> watch::Receiver<Arc<Tls>> {
        let (certificate, key) = (&self.authority.certificate, &self.authority.key);
        let own =
            Authority::peer_certificate(certificate, key, (self.id, node), clock::now(), PEER_LIFE).expect("signs");
        let root = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
        let tls = Tls::new(self.id, &[root], &own).expect("certificates");
        // The sender may go: what it sent stays.
        watch::Sender::new(Arc::new(tls)).subscribe()
    }

    pub(super) async fn member(&self, number: u64, options: consensus::Options, admit: Admit) -> Member {
        let member = self.starting(number, options, admit).await;
        member.witness.take_part();
        member
    }

    /// One whose part in the group runs elsewhere: its port answers whatever happens there.
    pub(super) async fn member_on(&self, threads: &Handle, number: u64, options: consensus::Options) -> Member {
        let member = self.starting_on(threads, number, options, everybody()).await;
        member.witness.take_part();
        member
    }

    /// One that has not introduced itself yet.
    pub(super) async fn starting(&self, number: u64, options: consensus::Options, admit: Admit) -> Member {
        self.starting_on(&Handle::current(), number, options, admit).await
    }

    async fn starting_on(&self, threads: &Handle, number: u64, options: consensus::Options, admit: Admit) -> Member {
        let node = NodeId(number);
        let folder = tempfile::tempdir().expect("folder");
        let fatal = CancellationToken::new();
        let store = Store::open(store::Options {
            folder: folder.path().to_owned(),
            cluster: self.id,
            node,
            key: SealKey::create(&folder.path().join(KEY_FILE)).expect("key"),
            fatal: fatal.clone(),
        })
        .expect("opens");
        let tls = self.tls(node);
        let supervisor = Supervisor::new("consensus", fatal.clone());
        let witness = stranger(Mark::found(&store.log()));
        let peers = Peers::new(tls.clone(), witness.clone());
        let consensus = threads.spawn(Consensus::start(node, options, store, Arc::new(peers), supervisor)).await;
        let consensus = consensus.expect("does not panic").expect("starts");
        let server = Supervisor::new("node port", fatal.clone());
        let artifacts = ArtifactStore::open(folder.path().join("artifacts")).await.expect("opens");
        let writers = Supervisor::new("logs", fatal.clone());
        let logs = LogStore::open(folder.path().join("logs"), logs::Options::default(), writers).await.expect("opens");
        let exec = LocalExec::new(node, consensus.watch(), watch::channel(None).1, server.clone());
        let tunnels = OpenTunnels::default();
        let parts = Parts {
            consensus: consensus.clone(),
            artifacts: artifacts.clone(),
            tls: tls.clone(),
            admit,
            node,
            logs: logs.clone(),
            exec: exec.clone(),
            tunnels: tunnels.clone(),
            witness: witness.clone(),
        };
        let address = serve(parts, &server).await;
        let peer = Peer { node, address: address.to_string() };
        Member { folder, witness, peer, consensus, artifacts, logs, exec, tunnels, tls, server, fatal }
    }

    /// Three voters, the first of which leads.
    pub(super) async fn three(&self, options: &consensus::Options) -> Vec<Member> {
        let mut members = Vec::new();
        for number in 1..=3 {
            members.push(self.member(number, options.clone(), everybody()).await);
        }
        let first = &members[0];
        first.consensus.initialize(&first.peer.address).await.expect("initialises");
        for member in &members[1..] {
            first.consensus.add_learner(&member.peer).await.expect("a learner");
        }
        let voters = members.iter().map(|member| member.peer.node).collect();
        first.consensus.set_voters(&voters).await.expect("three voters");
        members
    }
}

/// Listens on a free port.
async fn serve(parts: Parts, server: &Supervisor) -> SocketAddr {
    let bind = Options { bind: Ipv4Addr::LOCALHOST.into(), port: 0 };
    let port = Server::bind(bind, parts).await.expect("listens");
    let address = port.address();
    port.run(server);
    address
}

impl Member {
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether its store has stopped it.
    pub(super) fn failed(&self) -> bool {
        self.fatal.is_cancelled()
    }

    /// Is reached at another port from now on, and not at the one before.
    pub(super) async fn move_away(&mut self) {
        self.server.stop(Duration::ZERO).await;
        self.server = Supervisor::new("node port", self.fatal.clone());
        let parts = Parts {
            consensus: self.consensus.clone(),
            artifacts: self.artifacts.clone(),
            tls: self.tls.clone(),
            admit: everybody(),
            node: self.peer.node,
            logs: self.logs.clone(),
            exec: self.exec.clone(),
            tunnels: self.tunnels.clone(),
            witness: self.witness.clone(),
        };
        let address = serve(parts, &self.server).await;
        self.peer.address = address.to_string();
    }

    /// Stops to answer, as a node does that ends: at the latest after this time.
    pub(super) async fn stop_serving(&self, grace: Duration) {
        self.server.stop(grace).await;
    }

    /// Is not reached any more; itself it reaches the others.
    pub(super) async fn close(&mut self) {
        self.server.stop(Duration::ZERO).await;
    }

    /// As if its machine had lost its power: nothing more goes in or out.
    pub(super) async fn end(&self) {
        self.server.stop(Duration::ZERO).await;
        self.consensus.shutdown().await.expect("stops");
    }

    pub(super) fn domain(&self) -> String {
        self.consensus.latest().state.setting(SettingKey::ServerDomain).to_owned()
    }
}

/// Of a process that remembers nobody, and has introduced itself.
pub(super) fn witness(began: Mark) -> Witness {
    let witness = stranger(began);
    witness.take_part();
    witness
}

/// The same of one that has not yet.
pub(super) fn stranger(began: Mark) -> Witness {
    Witness::new(Hello { run: random::id(), began }, [])
}

pub(super) fn everybody() -> Admit {
    Arc::new(|_| Ok(NodeRole::VoterEligible))
}

pub(super) fn domain(value: &str) -> LogEntry {
    LogEntry {
        proposed_at: clock::now(),
        actor: Actor::System,
        request: None,
        command: Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, value.to_owned())])),
    }
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await; // poll
    }
}

/// Who leads, and knows that a majority agrees.
pub(super) fn leader(members: &[Member]) -> Option<&Member> {
    members.iter().find(|member| {
        let status = member.consensus.status();
        status.role == RaftRole::Leader && status.leader == Some(member.peer.node)
    })
}
