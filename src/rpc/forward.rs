//! What other members ask of the leader, and whether this node is there.

use narvana_proto::v1;
use narvana_proto::v1::forward_server::Forward;
use tonic::{Request, Response, Status};

use super::caller::{member, status};
use crate::consensus::Receiver;

pub(super) struct ForwardService {
    receiver: Receiver,
}

impl ForwardService {
    pub(super) fn new(receiver: Receiver) -> Self {
        Self { receiver }
    }
}

#[tonic::async_trait]
impl Forward for ForwardService {
    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeReply>, Status> {
        let reply = self.receiver.propose(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| status(&error))
    }

    async fn read_index(&self, request: Request<v1::ReadIndexRequest>) -> Result<Response<v1::ReadIndexReply>, Status> {
        Ok(Response::new(self.receiver.read_index(member(&request)?).await))
    }

    async fn roll_call(&self, _: Request<v1::RollCallRequest>) -> Result<Response<v1::RollCallReply>, Status> {
        Ok(Response::new(v1::RollCallReply {}))
    }
}
