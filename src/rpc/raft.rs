//! Raft's messages: who sends them is checked here, what they mean is `consensus`'s.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use narvana_proto::v1;
use narvana_proto::v1::raft_server::Raft;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::caller::{Member, check_ballot, may_lead, member, process, status, takes_part};
use super::{Admit, Refusal, Witness};
use crate::consensus::Receiver;

pub(super) struct RaftService {
    receiver: Receiver,
    admit: Admit,
    witness: Witness,
    stop: CancellationToken,
}

impl RaftService {
    pub(super) fn new(receiver: Receiver, admit: Admit, witness: Witness, stop: CancellationToken) -> Self {
        Self { receiver, admit, witness, stop }
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<v1::AppendReply, Status>> + Send>>;

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let Member { node: caller, run } = process(&request)?;
        let (admit, witness) = (self.admit.clone(), self.witness.clone());
        let (refuse, refused) = mpsc::channel(1);
        // The stream may be open for days: a node that is removed meanwhile, or whose place was taken, is not heard any more.
        let requests = request.into_inner().scan(refuse, move |refuse, request| {
            let heard = request.and_then(|request| {
                may_lead(caller, admit(caller).map_err(Refusal::end)?)?;
                witness.is_current(caller, run)?;
                takes_part(&witness)?;
                check_ballot(request.ballot, caller)?;
                Ok(request)
            });
            // There is room for the only refusal.
            let heard = heard.map_err(|refusal| drop(refuse.try_send(refusal)));
            std::future::ready(heard.ok())
        });
        let requests = requests.take_until(self.stop.clone().cancelled_owned());
        let replies = self.receiver.append(requests).map(|reply| reply.map_err(|error| status(&error)));
        let refusal = stream::unfold(refused, async |mut refused| Some((Err(refused.recv().await?), refused)));
        // A stream that is open would keep the server from stopping.
        Ok(Response::new(Box::pin(replies.chain(refusal).take_until(self.stop.clone().cancelled_owned()))))
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteReply>, Status> {
        let caller = member(&request)?;
        check_ballot(request.get_ref().ballot, caller)?;
        let reply = self.receiver.vote(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| status(&error))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotPart>>,
    ) -> Result<Response<v1::SnapshotReply>, Status> {
        let caller = member(&request)?;
        let mut parts = request.into_inner();
        let head = parts.message().await?;
        if let Some(v1::snapshot_part::Part::Head(head)) = head.as_ref().and_then(|part| part.part.as_ref()) {
            check_ballot(head.ballot, caller)?;
        }
        // One that breaks off has no end, which is what tells it from a whole one.
        let rest =
            parts.take_while(|part| std::future::ready(part.is_ok())).filter_map(|part| std::future::ready(part.ok()));
        let parts = stream::iter(head).chain(rest).take_until(self.stop.clone().cancelled_owned());
        let reply = self.receiver.snapshot(Box::pin(parts)).await;
        reply.map(Response::new).map_err(|error| status(&error))
    }

    async fn transfer(&self, request: Request<v1::TransferRequest>) -> Result<Response<v1::TransferReply>, Status> {
        let caller = member(&request)?;
        check_ballot(request.get_ref().ballot, caller)?;
        let reply = self.receiver.transfer(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| status(&error))
    }
}
