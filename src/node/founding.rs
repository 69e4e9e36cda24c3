//! What `init` makes, in an order in which dying at any line leaves a folder that the next `init` starts over in: the
//! identity, which makes a folder a node, comes last.

use std::sync::Arc;

use anyhow::Context;

use crate::cluster::{Authority, DataDir, Identity};
use crate::config::{NodeConfig, cluster_versions};
use crate::consensus::{self, Consensus};
use crate::model::{Cluster, ClusterId, NodeId, Secret};
use crate::state::{Actor, Command, LogEntry};
use crate::store::{self, SealKey, Store};
use crate::task::Supervisor;
use crate::{clock, random};

use super::address::Address;

/// File with the token that a first registration from another machine needs.
pub(super) const SETUP_TOKEN_FILE: &str = "setup-token";
/// File with the authority's certificate, for clients on other machines.
pub(super) const AUTHORITY_FILE: &str = "ca.crt";

/// Makes the key, the store, the Raft group of one member and the first entry of its log.
pub(super) async fn found(dir: &DataDir, config: &NodeConfig) -> anyhow::Result<()> {
    let identity = Identity::founder(random::id::<ClusterId>());
    let key = SealKey::create(&dir.path().join(store::KEY_FILE))?;
    let authority = Authority::new(identity.cluster, clock::now()).context("cannot make the certificate authority")?;
    dir.write(AUTHORITY_FILE, authority.certificate.as_bytes())?;
    dir.write(SETUP_TOKEN_FILE, hex::encode(random::bytes::<16>()).as_bytes())?;

    let address = Address::of(config, dir, None)?.settle()?;
    address.keep(dir)?;
    let fatal = tokio_util::sync::CancellationToken::new();
    let options = store::Options {
        folder: dir.path().to_owned(),
        cluster: identity.cluster,
        node: identity.node,
        key,
        fatal: fatal.clone(),
    };
    let store = tokio::task::spawn_blocking(|| Store::open(options)).await??;
    let supervisor = Supervisor::new("founding", fatal);
    let consensus = Consensus::start(
        NodeId::FOUNDER,
        consensus::Options::default(),
        store,
        Arc::new(consensus::NoTransport),
        supervisor,
    )
    .await?;
    consensus.initialize(&address.to_string()).await?;
    let cluster = Cluster {
        id: identity.cluster,
        token_key: Secret::new(random::bytes::<32>()),
        ca_certificate: authority.certificate,
        ca_key: authority.key,
        cluster_version: *cluster_versions().end(),
        created_at: clock::now(),
        rotation: None,
        rebalance: 0,
    };
    let entry = LogEntry {
        proposed_at: clock::now(),
        actor: Actor::System,
        request: None,
        command: Command::InitCluster(cluster),
    };
    consensus.propose(entry).await?;
    consensus.shutdown().await?;
    dir.finish_init(&identity)?;
    Ok(())
}
