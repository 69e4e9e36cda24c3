//! Connections to instances of other nodes.

use async_trait::async_trait;
use bytes::Bytes;
use narvana_proto::v1;
use narvana_proto::v1::tunnel_client::TunnelClient;
use narvana_proto::v1::tunnel_part::Part;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::Peers;
use super::peers::reason;
use super::wire::{Wire, part, parts};
use crate::consensus::{Peer, View};
use crate::model::{InstanceId, NodeId};
use crate::network::{self, Carries, Reach, ReachError};

/// Reaches instances through the nodes they run on.
#[derive(Clone)]
pub struct Tunnels {
    peers: Peers,
    views: watch::Receiver<View>,
}

impl Tunnels {
    /// Over these connections ([`Peers::for_traffic`]), to the addresses that the state knows.
    pub fn new(peers: Peers, views: watch::Receiver<View>) -> Self {
        Self { peers, views }
    }
}

#[async_trait]
impl Reach for Tunnels {
    async fn reach(
        &self,
        node: NodeId,
        instance: InstanceId,
        port: u16,
        carries: Carries,
    ) -> Result<Box<dyn network::Wire>, ReachError> {
        let View { index, state } = self.views.borrow().clone();
        let Some(member) = state.node(node) else {
            return Err(ReachError::Gone(format!("node {} is no member any more", state.name_of(node))));
        };
        let peer = Peer { node, address: member.peer_address() };
        let target = v1::TunnelTarget {
            instance: Bytes::copy_from_slice(instance.0.as_bytes()),
            port: port.into(),
            index,
            from_service: carries == Carries::Service,
        };
        Ok(Box::new(self.peers.tunnel(&peer, target).await?))
    }
}

impl Peers {
    /// A connection to an instance of this peer. After an error the instance has seen nothing.
    async fn tunnel(&self, peer: &Peer, target: v1::TunnelTarget) -> Result<Wire, ReachError> {
        let channel = self.channel(peer).map_err(|error| ReachError::Node(error.to_string()))?;
        let (outgoing, waiting) = parts();
        // There is room for the first one.
        let _first = outgoing.try_send(part(Part::Target(target)));
        let answer = TunnelClient::new(channel).open(ReceiverStream::new(waiting)).await;
        let incoming = answer.map_err(|status| failure(peer, &status))?;
        Ok(Wire::new(incoming.into_inner(), outgoing))
    }
}

/// What a refusal says: `entrance` makes them.
fn failure(peer: &Peer, status: &Status) -> ReachError {
    let words = format!("node {} at {}: {}", peer.node, peer.address, reason(status));
    match status.code() {
        Code::NotFound => ReachError::Gone(words),
        Code::FailedPrecondition | Code::ResourceExhausted => ReachError::Instance(words),
        _ => ReachError::Node(words),
    }
}
