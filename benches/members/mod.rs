//! Members of one cluster in one process: each with a store and a port between nodes of its own, put together as the program
//! does it, over mutual TLS on loopback.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use narvana::agent::LocalExec;
use narvana::artifact::ArtifactStore;
use narvana::cluster::{Authority, PEER_LIFE};
use narvana::consensus::{self, Consensus, Mark, Peer};
use narvana::logs::{self, LogStore};
use narvana::model::{ClusterId, Cpu, JoinToken, Memory, NEWEST_CLUSTER_VERSION, NodeId, NodeResources, NodeRole};
use narvana::rpc::{Hello, OpenTunnels, Options, Parts, Peers, Server, Tls, Witness};
use narvana::state::{Actor, Command, LogEntry, NodeFacts, Outcome};
use narvana::store::{self, KEY_FILE, SealKey, Store};
use narvana::task::Supervisor;
use narvana::{clock, random};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) struct Member {
    pub(crate) peer: Peer,
    pub(crate) consensus: Consensus,
    pub(crate) artifacts: ArtifactStore,
    tls: watch::Receiver<Arc<Tls>>,
    witness: Witness,
    server: Supervisor,
}

/// So many voters; the first leads.
pub(crate) async fn group(folder: &Path, members: u64) -> anyhow::Result<Vec<Member>> {
    let cluster = random::id();
    let authority = Authority::new(cluster, clock::now())?;
    let first = Member::start(folder, NodeId::FOUNDER, cluster, &authority).await?;
    first.consensus.initialize(&first.peer.address).await?;
    first.register().await?;
    let token = JoinToken {
        id: random::id(),
        digest: [7; 32],
        role: NodeRole::VoterEligible,
        uses_left: u32::try_from(members)?,
        expires_at: clock::now().plus(Duration::from_secs(600)),
        revoked: false,
        created_by: random::id(),
        created_at: clock::now(),
    };
    first.command(Command::CreateJoinToken(token.clone())).await?;
    let mut all = vec![first];
    for number in 2..=members {
        let admission = Command::AdmitNode {
            token: token.id,
            digest: token.digest,
            name: format!("n{number}"),
            address: "127.0.0.1:1".to_owned(),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
        };
        let Outcome::Node(node) = all[0].command(admission).await? else { anyhow::bail!("it is not let in") };
        let next = Member::start(folder, node, cluster, &authority).await?;
        all[0].consensus.add_learner(&next.peer).await?;
        next.register().await?;
        all.push(next);
    }
    let voters = all.iter().map(|member| member.peer.node).collect();
    all[0].consensus.set_voters(&voters).await?;
    Ok(all)
}

impl Member {
    async fn start(folder: &Path, node: NodeId, cluster: ClusterId, authority: &Authority) -> anyhow::Result<Self> {
        let folder = folder.join(node.to_string());
        std::fs::create_dir_all(&folder)?;
        let fatal = CancellationToken::new();
        let key = SealKey::create(&folder.join(KEY_FILE))?;
        let store = Store::open(store::Options { folder: folder.clone(), cluster, node, key, fatal: fatal.clone() })?;
        let tls = certified(cluster, node, authority)?;
        let witness = Witness::new(Hello { run: random::id(), began: Mark::found(&store.log()) }, []);
        let peers = Arc::new(Peers::new(tls.clone(), witness.clone()));
        let supervisor = Supervisor::new("consensus", fatal.clone());
        let consensus = Consensus::start(node, consensus::Options::default(), store, peers, supervisor).await?;
        let server = Supervisor::new("node port", fatal.clone());
        let artifacts = ArtifactStore::open(folder.join("artifacts")).await?;
        let writers = Supervisor::new("logs", fatal);
        let parts = Parts {
            consensus: consensus.clone(),
            artifacts: artifacts.clone(),
            tls: tls.clone(),
            admit: Arc::new(|_| Ok(NodeRole::VoterEligible)),
            node,
            logs: LogStore::open(folder.join("logs"), logs::Options::default(), writers).await?,
            exec: LocalExec::new(node, consensus.watch(), watch::channel(None).1, server.clone()),
            tunnels: OpenTunnels::default(),
            witness: witness.clone(),
        };
        let port = Server::bind(Options { bind: Ipv4Addr::LOCALHOST.into(), port: 0 }, parts).await?;
        let peer = Peer { node, address: port.address().to_string() };
        port.run(&server);
        witness.take_part();
        Ok(Self { peer, consensus, artifacts, tls, witness, server })
    }

    /// Connections for what is large.
    pub(crate) fn traffic(&self) -> Peers {
        Peers::for_traffic(self.tls.clone(), self.witness.clone())
    }

    pub(crate) async fn command(&self, command: Command) -> anyhow::Result<Outcome> {
        let entry = LogEntry { proposed_at: clock::now(), actor: Actor::System, request: None, command };
        Ok(self.consensus.propose(entry).await?.outcome)
    }

    async fn register(&self) -> anyhow::Result<()> {
        let address: SocketAddr = self.peer.address.parse()?;
        let large = Memory::from_mebibytes(4_096);
        let facts = NodeFacts {
            id: self.peer.node,
            name: format!("n{}", self.peer.node),
            address: address.ip().to_string(),
            api_port: 8080,
            grpc_port: address.port(),
            ingress_http_port: 0,
            arch: "amd64".to_owned(),
            version: "0.1.0".to_owned(),
            cluster_version_max: NEWEST_CLUSTER_VERSION,
            engine: Ok("none".to_owned()),
            resources: NodeResources { cpu: Cpu::from_millis(4_000), memory: large, disk: large },
            labels: BTreeMap::new(),
            incarnation: random::id(),
        };
        self.command(Command::RegisterNode(facts)).await?;
        Ok(())
    }

    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        self.server.stop(Duration::ZERO).await;
        Ok(self.consensus.shutdown().await?)
    }
}

fn certified(cluster: ClusterId, node: NodeId, authority: &Authority) -> anyhow::Result<watch::Receiver<Arc<Tls>>> {
    let (certificate, key) = (&authority.certificate, &authority.key);
    let own = Authority::peer_certificate(certificate, key, (cluster, node), clock::now(), PEER_LIFE)?;
    let root = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    // The sender may go: what it sent stays.
    Ok(watch::Sender::new(Arc::new(Tls::new(cluster, &[root], &own)?)).subscribe())
}
