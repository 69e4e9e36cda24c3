//! A node that runs: everything it is made of, and the order in which that starts and stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::{join, join_all};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{self, Agent, EngineState, Exec, LocalExec};
use crate::artifact::{ArtifactStore, Fetcher, Holdings};
use crate::build::{self, Builder, Inspector};
use crate::cluster::{DataDir, Identity};
use crate::config::{IngressPort, NodeConfig};
use crate::consensus::{self, Consensus, Mark, View};
use crate::control::{self, Control};
use crate::decide::route_table::RouteTable;
use crate::engine::Engine;
use crate::logs::{self, LogStore};
use crate::model::{Incarnation, Lease, NodeId};
use crate::network::{self, Ingress, IngressHandle, Relay};
use crate::rpc::{self, FarExec, FarLogs, Hello, OpenTunnels, PeerBlobs, Peers, Tls, Tunnels, Witness};
use crate::space::Space;
use crate::state::{Actor, Command, LogEntry};
use crate::store::{self, SealKey, Store};
use crate::task::{OnError, Supervisor};
use crate::telemetry::Metrics;
use crate::{api, clock, random};

use super::address::Address;
use super::api_certificate::ApiCertificate;
use super::drain::IngressDrain;
use super::endpoints::Endpoints;
use super::founding::SETUP_TOKEN_FILE;
use super::guard::GuardProcess;
use super::options::{
    LOOKING, api_options, build_options, consensus_options, decide_options, engine_options, node_facts, scope,
    shared_options,
};
use super::removal::Membership;
use super::{
    copies, discovery, engine_search, introduction, joining, left_behind, machine, memory, peer_port, registration,
    registry, removal, room, routes, tidy,
};

/// The folder in the data folder that holds copies of what was built and uploaded.
pub(super) const ARTIFACTS: &str = "artifacts";

/// How long requests to an instance may take to end before its process is asked to.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long a process may take to end after it was asked to.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

/// Longest wait for that look.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// How long a node that knows its cluster waits for a leader before it starts without one. An election takes a second or
/// two, and until the wait is over this node's ingress does not serve.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);

/// What a node consists of, in the order in which it stops.
struct Parts {
    api: Supervisor,
    control: Supervisor,
    build: Supervisor,
    agent: Supervisor,
    registry: Supervisor,
    ingress: Supervisor,
    engine: Supervisor,
    logs: Supervisor,
    peer: Supervisor,
}

/// A node that runs.
pub struct Running {
    dir: Arc<DataDir>,
    endpoints: Endpoints,
    setup_token: String,
    membership: Membership,
    fatal: CancellationToken,
    consensus: Consensus,
    engine: watch::Receiver<Option<Arc<dyn Engine>>>,
    parts: Parts,
    grace: Duration,
}

impl Running {
    /// Starts the node of the data folder and returns when it serves.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Self> {
        let (dir, identity) = DataDir::open(&config.data_dir)?;
        let dir = Arc::new(dir);
        tracing::info!(node = %identity.node, cluster = %identity.cluster, "starting: {}", config.summary());
        room::tend(&Space::of(dir.path()));
        let fatal = CancellationToken::new();
        let incarnation: Incarnation = random::id();
        let (consensus, tls, peers, witness) = start_consensus(&config, &dir, identity, incarnation, &fatal).await?;
        let membership = Membership::new(Arc::clone(&dir), identity, consensus.clone(), witness.refused())?;
        // What it was told before, it need not be told again.
        end_if_removed(&membership, &config, &dir, identity).await?;
        let space = consensus.space().clone();
        let artifacts = ArtifactStore::open(space.at(dir.path().join(ARTIFACTS))).await?;
        let logs_part = Supervisor::new("logs", fatal.clone());
        let logs =
            LogStore::open(space.at(dir.path().join("logs")), logs::Options::default(), logs_part.clone()).await?;
        // First, since an engine takes a third of a second to say what it is.
        let (found, engine) = watch::channel::<Option<Arc<dyn Engine>>>(None);
        let engine_part = Supervisor::new("engine", fatal.clone());
        let engine_state = EngineState::new(LOOKING);
        let search = engine_search::search(
            engine_options(&config, dir.path(), scope(identity)),
            found,
            engine_state.clone(),
            engine_part.clone(),
        );
        engine_part.spawn("engine search", OnError::StopNode, search);
        let agent_part = Supervisor::new("agent", fatal.clone());
        let exec = LocalExec::new(identity.node, consensus.watch(), engine.clone(), agent_part.clone());
        // Nodes that start together wait for each other, so the port is open before this one waits.
        let peer_part = Supervisor::new("node port", fatal.clone());
        let mut address = Address::of(&config, &dir, None)?;
        let tunnels = OpenTunnels::default();
        let traffic = Peers::for_traffic(tls.subscribe(), witness.clone());
        // However many connections services have to each other, visitors get through.
        let of_services = Peers::for_traffic(tls.subscribe(), witness.clone());
        let (peer_server, peer_port) = peer_port::bind(&address, || rpc::Parts {
            consensus: consensus.clone(),
            artifacts: artifacts.clone(),
            tls: tls.subscribe(),
            admit: peer_port::admit(consensus.watch()),
            node: identity.node,
            logs: logs.clone(),
            exec: exec.clone(),
            tunnels: tunnels.clone(),
            witness: witness.clone(),
        })
        .await?;
        address.port = peer_port.port();
        address.keep(&dir)?;
        peer_server.run(&peer_part);
        let keep =
            memory::keep(identity.node, witness.clone(), consensus.clone(), Arc::clone(&dir), peer_part.stopping());
        peer_part.spawn("memory of others", OnError::Log, keep);
        let api_certificate = Arc::new(ApiCertificate::new(identity, [config.name.clone(), address.host.clone()]));
        let fresh = peer_port::Fresh {
            consensus: consensus.clone(),
            identity,
            dir: Arc::clone(&dir),
            tls,
            api: Arc::clone(&api_certificate),
        };
        peer_part.spawn("node certificate", OnError::Log, fresh.keep(peer_part.stopping()));
        introduction::begin(&consensus, &membership, &witness, &peer_part).await;
        let certain = first_state(&consensus, &membership, identity.node, &address).await?;
        if membership.ended().is_some() {
            // Nobody is heard any more. And two engine searches would run one Podman service.
            join(peer_part.stop(STOP_GRACE), engine_part.stop(STOP_GRACE)).await;
            end_if_removed(&membership, &config, &dir, identity).await?;
        }

        let part = |name| Supervisor::new(name, fatal.clone());
        let (api_part, ingress_part) = (part("api"), part("ingress"));
        let (control_part, build_part) = (part("control"), part("build"));
        let registry_part = part("registry");

        let blobs = PeerBlobs::new(identity.node, peers.clone(), consensus.watch());
        let fetcher = Fetcher::new(artifacts.clone(), Arc::new(blobs.clone()));
        let holdings = Holdings::new(identity.node, artifacts.clone(), Arc::new(blobs.clone()));
        let registry = registry::start(fetcher.clone(), &registry_part).await?;
        let resources = machine::resources(dir.path());

        let ingress = start_ingress(&config, identity.node, &consensus, traffic.clone(), &ingress_part).await?;
        let hosts = agent::Hosts::new(std::path::absolute(dir.path().join("hosts"))?);
        let (discoveries, services) = watch::channel(network::Discoveries::default());
        let names = discovery::Keeper {
            node: identity.node,
            consensus: consensus.clone(),
            engine: engine.clone(),
            relay: Relay::new(services, Arc::new(Tunnels::new(of_services, consensus.watch())), ingress_part.clone()),
            discoveries,
            hosts: hosts.clone(),
        };
        ingress_part.spawn("service discovery", OnError::StopNode, names.keep(ingress_part.stopping()));
        let setup_token = tokio::fs::read_to_string(dir.path().join(SETUP_TOKEN_FILE)).await.unwrap_or_default();
        let server = api::Server::bind(
            api::Options {
                shared_options: witness.shared_options().clone(),
                rivals: witness.rivals().clone(),
                ..api_options(&config, &consensus, api_certificate, &setup_token, ingress.as_ref())?
            },
            api::Parts {
                consensus: consensus.clone(),
                logs: logs::Library::new(
                    logs.clone(),
                    identity.node,
                    Arc::new(FarLogs::new(traffic.clone(), consensus.watch())),
                ),
                exec: Exec::new(exec, Arc::new(FarExec::new(traffic, consensus.watch()))),
                artifacts: holdings.clone(),
                metrics: Metrics::default(),
                inspector: Inspector::new(
                    config.build_dir.clone(),
                    space.clone(),
                    config.allow_loopback_sources,
                    fetcher.clone(),
                    config.nixpkgs.clone(),
                    build_part.clone(),
                ),
            },
        )
        .await?;
        let api_address = server.address();

        let ports = (api_address.port(), peer_port.port());
        let facts = node_facts(&config, address.host, identity, incarnation, resources, ports, ingress.as_ref());
        let registered = certain && registration::register(&consensus, &facts).await?;
        let keep =
            registration::keep(consensus.clone(), facts, registered, engine_state.clone(), engine_part.stopping());
        engine_part.spawn("registration", OnError::StopNode, keep);

        let watch = removal::watch(membership.clone(), control_part.stopping());
        control_part.spawn("membership", OnError::StopNode, watch);
        let tell = left_behind::tell(consensus.clone(), peers, witness.rivals().clone(), control_part.stopping());
        control_part.spawn("left behind", OnError::Log, tell);

        let lease = Lease { node: identity.node, incarnation };
        let tidy = tidy::keep_tidy(consensus.clone(), logs.clone(), registry.images().clone(), logs_part.stopping());
        logs_part.spawn("tidy", OnError::Log, tidy);
        let copies = copies::keep(identity.node, consensus.clone(), registry.images().clone(), logs_part.stopping());
        logs_part.spawn("copies", OnError::Log, copies);

        logs_part.spawn("disk space", OnError::Log, room::watch(space, consensus.clone(), logs_part.stopping()));

        let builder = Builder::new(
            build_options(&config, identity.cluster, lease, resources),
            build::Parts {
                consensus: consensus.clone(),
                engine: engine.clone(),
                logs: logs.clone(),
                artifacts: fetcher,
                holdings,
                registry: registry.clone(),
                supervisor: build_part.clone(),
            },
        )
        .context("cannot prepare the folder for builds")?;
        build_part.spawn("builder", OnError::StopNode, builder.run());
        let guard = GuardProcess::new(dir.path(), identity, engine.clone());
        let guard = guard.context("cannot write to the data folder what the node's guard reads")?;
        let agent = Agent::new(
            agent::Options {
                cluster: identity.cluster,
                node: identity.node,
                stop_grace: STOP_GRACE,
                drain_max: DRAIN_MAX,
            },
            agent::Parts {
                consensus: consensus.clone(),
                engine: engine.clone(),
                logs,
                registry,
                guard: Arc::new(guard),
                hosts,
                drain: Arc::new(IngressDrain { ingress: ingress.clone(), tunnels }),
                supervisor: agent_part.clone(),
            },
            engine_state,
        );
        agent_part.spawn("agent", OnError::StopNode, agent.run());
        let control = Control::new(
            control::Options {
                decide: decide_options(&config),
                health_threshold: config.health_threshold,
                ..control::Options::default()
            },
            consensus.clone(),
        );
        control_part.spawn("control", OnError::StopNode, control.run(control_part.stopping()));

        server.run(&api_part);
        let who = (identity.node, config.name.as_str());
        let endpoints = Endpoints::new(who, api_address, peer_port, ingress.map(|ingress| ingress.address()));
        dir.write_endpoints(&serde_json::to_vec_pretty(&endpoints)?)?;
        Ok(Self {
            dir,
            endpoints,
            setup_token,
            membership,
            fatal,
            consensus,
            engine,
            parts: Parts {
                api: api_part,
                control: control_part,
                build: build_part,
                agent: agent_part,
                registry: registry_part,
                ingress: ingress_part,
                engine: engine_part,
                logs: logs_part,
                peer: peer_part,
            },
            grace: config.shutdown_timeout,
        })
    }

    /// Where it listens.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// What a first registration from another machine has to show.
    pub fn setup_token(&self) -> &str {
        &self.setup_token
    }

    /// Returns when the cluster knows whether this node can run containers.
    ///
    /// # Errors
    /// Why it cannot, or not yet: it gets no work until that has changed.
    pub async fn takes_work(&self) -> Result<(), String> {
        let own = NodeId(self.endpoints.node_id);
        let engine = |view: &View| view.state.node(own).map(|node| node.engine.clone().map(drop));
        let looked = |view: &View| engine(view).is_some_and(|engine| engine != Err(LOOKING.to_owned()));
        let mut views = self.consensus.watch();
        // A search that takes longer is on record as one, and goes on.
        drop(tokio::time::timeout(LOOK_MAX, views.wait_for(looked)).await);
        let engine = engine(&views.borrow());
        engine.unwrap_or_else(|| Err("the cluster has not heard of it yet".to_owned()))
    }

    /// Returns when a part that the node cannot do without has failed.
    pub async fn failed(&self) {
        self.fatal.cancelled().await;
    }

    /// The end of a node that is no member any more: it hears, serves and decides nothing from here on, while what runs here ends,
    /// which may take a minute.
    async fn leave(&self) {
        let Parts { api, control, build, agent, registry, ingress, engine: _, logs: _, peer } = &self.parts;
        let at_once = [api, control, build, registry, ingress, peer].map(|part| part.stop(self.grace));
        let what_runs = async {
            // It would start and report what is no longer this node's.
            agent.stop(STOP_GRACE).await;
            // Also of one whose place another process took: what it began runs here, and mostly the other one is elsewhere.
            self.membership.clean_up(self.engine.clone(), STOP_GRACE).await;
        };
        join(join_all(at_once), what_runs).await;
    }

    /// Stops everything in order: nobody gets in, nothing is decided, builds end, containers go on, what is open
    /// finishes, the store is closed last.
    pub async fn stop(self) -> anyhow::Result<()> {
        let failed = self.fatal.is_cancelled();
        let unlisted = self.dir.remove_endpoints();
        if !failed {
            self.consensus.step_aside().await;
        }
        if self.membership.ended().is_some() {
            self.leave().await;
        }
        let Parts { api, control, build, agent, registry, ingress, engine, logs, peer } = &self.parts;
        for part in [api, control, build, agent, registry, ingress, engine, logs, peer] {
            part.stop(self.grace).await;
        }
        let closed = self.consensus.shutdown().await;
        if let Some(version @ store::Error::Unsupported(_)) = self.consensus.damage() {
            return Err(anyhow::Error::new(version).context("the node stopped because of the version of its program"));
        }
        if let Some(damage) = self.consensus.damage() {
            return Err(anyhow::Error::new(damage).context("the node stopped because its data folder is damaged"));
        }
        closed.context("cannot close the store properly")?;
        unlisted?;
        if let Some(error) = self.membership.farewell().filter(|_| failed) {
            return Err(error);
        }
        if failed {
            let reason = self.consensus.status().failure;
            anyhow::bail!(
                "the node stopped because a part of it failed: {}",
                reason.as_deref().unwrap_or("see the log")
            );
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Refuses to start a node that is no member any more, when what it ran has ended, or cannot be ended.
async fn end_if_removed(
    membership: &Membership,
    config: &NodeConfig,
    dir: &DataDir,
    identity: Identity,
) -> anyhow::Result<()> {
    if let Some(removed) = membership.ended() {
        let engine = engine_options(config, dir.path(), scope(identity));
        removal::clean_up(membership, &removed, engine, STOP_GRACE).await;
    }
    membership.farewell().map_or(Ok(()), Err)
}

async fn start_consensus(
    config: &NodeConfig,
    dir: &DataDir,
    identity: Identity,
    run: Incarnation,
    fatal: &CancellationToken,
) -> anyhow::Result<(Consensus, watch::Sender<Arc<Tls>>, Peers, Witness)> {
    let options = store::Options {
        folder: dir.path().to_owned(),
        cluster: identity.cluster,
        node: identity.node,
        key: SealKey::load(&dir.path().join(store::KEY_FILE))?,
        fatal: fatal.clone(),
    };
    let store = tokio::task::spawn_blocking(|| Store::open_existing(options)).await??;
    let known = store.machine().view().borrow().state.clone();
    let tls = watch::Sender::new(peer_port::first_certificates(&known, identity, dir)?);
    let supervisor = Supervisor::new("consensus", fatal.clone());
    let witness = Witness::new(Hello { run, began: Mark::found(&store.log()) }, memory::read(dir)?);
    let witness = witness.with_shared_options(shared_options(config, identity.cluster));
    let peers = Peers::new(tls.subscribe(), witness.clone());
    let options = consensus::Options { doors: joining::doors(dir)?, ..consensus_options(config) };
    let consensus = Consensus::start(identity.node, options, store, Arc::new(peers.clone()), supervisor).await?;
    witness.heed(peer_port::admit(consensus.watch()));
    Ok((consensus, tls, peers, witness))
}

/// The state to begin with: with everything that was acknowledged anywhere before this. A cluster that cannot decide at
/// the moment keeps nobody from starting: what is known here is served, and the rest follows. Says which of both it is.
///
/// A node that was never told anything says where it is: it may be elsewhere than it said when it was let in.
async fn first_state(
    consensus: &Consensus,
    membership: &Membership,
    node: NodeId,
    address: &Address,
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        let refusal = match (consensus.linearizable().await, consensus.damage()) {
            (Ok(_), _) => return Ok(true),
            (Err(_), Some(damage)) => return Err(damage.into()),
            (Err(consensus::ReadError::Stopped), None) => {
                anyhow::bail!(consensus.status().failure.unwrap_or_else(|| "consensus has stopped".to_owned()))
            }
            (Err(error), None) => error,
        };
        if membership.ended().is_some() {
            return Ok(false);
        }
        let knows_nothing = consensus.latest().state.cluster().is_none();
        if begun.elapsed() > LEADER_WAIT_MAX && !knows_nothing {
            tracing::warn!(
                voters = %consensus.quorum(),
                "the cluster cannot decide at the moment; starting with what is known here"
            );
            return Ok(false);
        }
        tracing::info!(
            reason = %refusal,
            voters = %consensus.quorum(),
            %address,
            "waiting for the cluster, which has to reach this node at its address"
        );
        if knows_nothing {
            let command = Command::ReaddressNode { node, address: address.to_string() };
            let entry = LogEntry { proposed_at: clock::now(), actor: Actor::Node(node), request: None, command };
            // It counts when the state comes.
            let _said = consensus.propose(entry).await;
        }
    }
}

async fn start_ingress(
    config: &NodeConfig,
    node: NodeId,
    consensus: &Consensus,
    traffic: Peers,
    part: &Supervisor,
) -> anyhow::Result<Option<IngressHandle>> {
    let port = match config.ingress_http_port {
        IngressPort::Off => return Ok(None),
        IngressPort::Auto => 0,
        IngressPort::Fixed(port) => port,
    };
    let (tables, table) = watch::channel(Arc::new(RouteTable::default()));
    part.spawn("routes", OnError::StopNode, routes::follow(consensus.watch(), tables, node, part.stopping()));
    let options = network::Options { address: config.ingress_host, port, ..network::Options::default() };
    let ingress = Ingress::bind(options, table, Arc::new(Tunnels::new(traffic, consensus.watch())))
        .await
        .context("the ingress cannot listen; choose another --ingress-http-port, or 0 for none")?;
    let handle = ingress.handle();
    ingress.run(part);
    Ok(Some(handle))
}
