//! What other members ask of the leader.

use narvana_proto::v1;
use narvana_proto::v1::forward_server::Forward;
use tonic::{Request, Response, Status};

use super::Admission;
use super::caller::{caller, status};
use crate::consensus::Receiver;

pub(super) struct ForwardService {
    receiver: Receiver,
    admission: Admission,
}

impl ForwardService {
    pub(super) fn new(receiver: Receiver, admission: Admission) -> Self {
        Self { receiver, admission }
    }
}

#[tonic::async_trait]
impl Forward for ForwardService {
    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeReply>, Status> {
        caller(&request, &self.admission)?;
        let reply = self.receiver.propose(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| status(&error))
    }

    async fn read_index(&self, request: Request<v1::ReadIndexRequest>) -> Result<Response<v1::ReadIndexReply>, Status> {
        caller(&request, &self.admission)?;
        Ok(Response::new(self.receiver.read_index().await))
    }
}
