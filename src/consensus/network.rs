//! The way to other members, until there is one.

use std::future::Future;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{OptionalSend, RaftNetworkFactory};

use crate::store::{LeaderId, Member, SnapshotFile, TypeConfig, Vote};

type Snapshot = openraft::Snapshot<LeaderId, u64, Member, SnapshotFile>;

/// Reaches nobody. A group of one never asks it; a larger group makes no progress and says why.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTransport;

/// The connection to one member that is never there.
pub struct NoConnection {
    target: u64,
    address: String,
}

impl NoConnection {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        Unreachable::from_string(format!(
            "node {} at {} cannot be reached: this build has no transport between nodes",
            self.target, self.address
        ))
    }
}

impl RaftNetworkFactory<TypeConfig> for NoTransport {
    type Network = NoConnection;

    async fn new_client(&mut self, target: u64, node: &Member) -> NoConnection {
        NoConnection { target, address: node.address.clone() }
    }
}

impl RaftNetworkV2<TypeConfig> for NoConnection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    // The default grants, which would let a node without connections campaign.
    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(self.unreachable().into())
    }
}
