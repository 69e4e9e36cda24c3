//! What other members ask of the leader, whether this node is there, and what is said to those that were left behind.

use narvana_proto::v1;
use narvana_proto::v1::forward_server::Forward;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::caller::{Member, member, process, status};
use super::stream::Caller;
use super::{Refusal, Witness};
use crate::consensus::{Consensus, Receiver};
use crate::model::{COME_BACK, Origin};

pub(super) struct ForwardService {
    receiver: Receiver,
    consensus: Consensus,
    witness: Witness,
}

impl ForwardService {
    pub(super) fn new(consensus: Consensus, witness: Witness) -> Self {
        Self { receiver: consensus.receiver(), consensus, witness }
    }
}

#[tonic::async_trait]
impl Forward for ForwardService {
    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeReply>, Status> {
        let caller = member(&request)?;
        let reply = self.receiver.propose(request.into_inner(), caller).await;
        reply.map(Response::new).map_err(|error| status(&error))
    }

    async fn read_index(&self, request: Request<v1::ReadIndexRequest>) -> Result<Response<v1::ReadIndexReply>, Status> {
        Ok(Response::new(self.receiver.read_index(member(&request)?).await))
    }

    /// The caller has a certificate of the cluster's authority and is, as far as this node knows, a member: what it says of
    /// the cluster counts when it is newer than what is known here.
    async fn leave_behind(
        &self,
        request: Request<v1::LeaveBehindRequest>,
    ) -> Result<Response<v1::LeaveBehindReply>, Status> {
        let caller = member(&request)?;
        let from = request.extensions().get::<Caller>().map(|caller| caller.from);
        let v1::LeaveBehindRequest { epoch, origin } = request.into_inner();
        // Only the words that are known: what another machine sends is not repeated.
        let how = origin.parse::<Origin>().map_or("begun anew", Origin::as_str);
        let own = self.consensus.latest().state.epoch().map_or(0, |own| own.number);
        if epoch <= own {
            let from = from.map_or_else(|| format!("node {caller}"), |from| from.to_canonical().to_string());
            let why = format!(
                "node {caller} says that the cluster was {how} without this node, as epoch {epoch}; this node belongs to epoch \
                 {own}, which is not older, so both go on under one name: stop one of the two clusters"
            );
            self.witness.rivals().note(caller, &from, why);
            return Err(Status::failed_precondition(format!(
                "this node belongs to epoch {own} of the cluster, which is not older than epoch {epoch}"
            )));
        }
        let from = self.consensus.latest().state.name_of(caller);
        self.witness.end(Refusal::end(format!(
            "this node was left behind: its cluster was {how} without it and goes on from node {from}; {COME_BACK}"
        )));
        Ok(Response::new(v1::LeaveBehindReply {}))
    }

    async fn roll_call(&self, request: Request<v1::RollCallRequest>) -> Result<Response<v1::RollCallReply>, Status> {
        let Member { node, run } = process(&request)?;
        let v1::RollCallRequest { holds, shared_options } = request.into_inner();
        if let Some(holds) = holds {
            self.witness.note(node, run, holds.into(), Instant::now());
        }
        self.witness.shared_options().note(node, &shared_options);
        let run = self.witness.own().run.0.as_bytes().to_vec().into();
        let shared_options = self.witness.shared_options().told();
        Ok(Response::new(v1::RollCallReply { run, shared_options, ..self.receiver.roll_call(node) }))
    }
}
