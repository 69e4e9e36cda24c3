//! A cluster founded anew from a backup: what `backup restore` makes, in an order in which dying at any line leaves a folder
//! that the next `init` or `backup restore` starts over in.

use std::collections::BTreeMap;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::backup::Restored;
use crate::cluster::{DataDir, Identity};
use crate::config::NodeConfig;
use crate::model::{NodeId, Source};
use crate::rpc::Presence;
use crate::state::{Beginning, Begun, State, begin_epoch};
use crate::store::{self, SealKey, Seed, Store};
use crate::{clock, random};

use super::address::Address;
use super::founding::{AUTHORITY_FILE, SETUP_TOKEN_FILE};
use super::recovery::who_is_there;

/// Refuses to begin while somebody answers at the address of a node that the backup knows: the restored cluster would end it.
pub(super) async fn look_for_the_old_one(backup: &Restored) -> anyhow::Result<()> {
    let address = |node: NodeId, otherwise: &str| {
        backup.state.node(node).map_or_else(|| otherwise.to_owned(), |known| known.peer_address())
    };
    let members: BTreeMap<NodeId, (String, String)> = backup
        .state
        .members()
        .map(|member| (member.node, (member.name.clone(), address(member.node, &member.address))))
        .collect();
    let addresses = members.iter().map(|(node, (_, address))| (*node, address.clone()));
    let presence = who_is_there(&backup.state, backup.summary.header.cluster, addresses).await?;
    // The authority may have been rotated since the backup: whoever is not known may be of the cluster all the same.
    let names: Vec<String> = members
        .iter()
        .filter(|(node, _)| presence.get(node).is_some_and(|presence| *presence != Presence::Nobody))
        .map(|(_, member)| member)
        .map(|(name, address)| format!("{name} ({address})"))
        .collect();
    anyhow::ensure!(
        names.is_empty(),
        "{} can be reached, and a restored cluster ends the nodes of the one before, with their containers; to try a backup use \
         `narvana backup verify` or a machine that does not reach them, to replace the cluster stop them first, or give --replace",
        names.join(" and ")
    );
    Ok(())
}

/// Makes the folder the only node of the cluster that the backup is of.
pub(super) async fn found(dir: &DataDir, config: &NodeConfig, backup: &Restored) -> anyhow::Result<()> {
    let header = &backup.summary.header;
    let address = Address::of(config, dir, None)?.settle()?;
    let beginning = Beginning::Restored { name: config.name.clone(), address: address.to_string() };
    let Begun { state, node, index } = begin_epoch(&backup.state, header.index, clock::now(), &beginning)
        .context("this backup holds nothing to begin with")?;
    let identity = Identity::joined(header.cluster, node);
    let cluster = state.cluster().context("the backup holds no cluster")?;
    dir.write(AUTHORITY_FILE, cluster.ca_certificate.as_bytes())?;
    dir.write(SETUP_TOKEN_FILE, hex::encode(random::bytes::<16>()).as_bytes())?;
    address.keep(dir)?;
    let options = store::Options {
        folder: dir.path().to_owned(),
        cluster: header.cluster,
        node,
        key: SealKey::create(&dir.path().join(store::KEY_FILE))?,
        fatal: CancellationToken::new(),
    };
    // No vote of the old cluster is of this term or a later one, as far as the backup knows; nobody of it is heard anyway.
    let seed = Seed { state, index, term: header.term + 1, address: address.to_string() };
    Store::found(options, &seed).await?;
    dir.finish_init(&identity)?;
    Ok(())
}

/// What people have to do something about when nodes are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Services whose images were built on nodes, as `app/service`.
    pub built: Vec<String>,
    /// Those of them whose source was uploaded, and is on nodes only, too.
    pub uploaded: Vec<String>,
    /// Services with volumes, as `app/service`.
    pub with_volumes: Vec<String>,
}

impl Losses {
    /// Among the services of which something runs where `gone` says; all that serve when it says so of every node.
    pub(super) fn of(state: &State, gone: impl Fn(NodeId) -> bool) -> Self {
        let mut losses = Self::default();
        for service in state.services() {
            let Some(serving) = service.serving else { continue };
            let is_hit = state
                .instances_of(serving)
                .any(|instance| !instance.status.state.is_terminal() && gone(instance.placement.node));
            if !is_hit {
                continue;
            }
            let Some(name) = state.path_of(service.id) else { continue };
            if service.spec.source.needs_build() {
                losses.built.push(name.clone());
            }
            if service.spec.source == Source::Upload {
                losses.uploaded.push(name.clone());
            }
            if !service.spec.volumes.is_empty() {
                losses.with_volumes.push(name);
            }
        }
        losses
    }

    /// Of a backup: none of its nodes is there any more.
    pub fn of_backup(backup: &Restored) -> Self {
        Self::of(&backup.state, |_| true)
    }
}
