//! The way in: the only calls that need no certificate.
//!
//! A caller that shows the secret of a join token is put on record as a node, through the log, so that a token is used
//! exactly as often as it says, whichever members are asked at the same time. Its certificate says what this side
//! decided; of its request only the key counts.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use narvana_proto::v1;
use narvana_proto::v1::join_server::Join;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use super::stream::Caller;
use crate::auth::{Pace, RateLimiter};
use crate::clock;
use crate::cluster::{Authority, JoinSecret, RequestedKey};
use crate::consensus::{Consensus, ProposeError};
use crate::model::{Cluster, JoinTokenId, NodeId, OLDEST_CLUSTER_VERSION, RequestId};
use crate::network::customer;
use crate::state::{self, Actor, Command, LogEntry, Outcome};

/// Wrong tokens from one address. A secret has 256 bits; this keeps the log quiet.
const GUESSES: Pace = Pace { burst: 5, every: Duration::from_secs(12) };

pub(super) struct JoinService {
    consensus: Consensus,
    guesses: RateLimiter<IpAddr>,
}

impl JoinService {
    pub(super) fn new(consensus: Consensus) -> Self {
        Self { consensus, guesses: RateLimiter::new(GUESSES) }
    }

    /// Checks all that can be checked before the token is used.
    async fn check(&self, asked: &v1::AdmitRequest) -> Result<(JoinTokenId, RequestId, RequestedKey), Status> {
        let malformed = |what: &str| Status::invalid_argument(format!("{what} has the wrong length"));
        let token = JoinTokenId(Uuid::from_slice(&asked.token).map_err(|_| malformed("the token"))?);
        let request = RequestId(Uuid::from_slice(&asked.request).map_err(|_| malformed("the request"))?);
        let key = RequestedKey::from_der(&asked.signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let view = self.consensus.linearizable().await.map_err(|error| {
            Status::unavailable(format!("the cluster cannot decide at the moment: {error}; try again"))
        })?;
        let digest = JoinSecret::digest_of(&asked.secret);
        let known = view.state.join_token(token);
        match known.is_some_and(|known| bool::from(known.digest.ct_eq(&digest))) {
            true => Ok((token, request, key)),
            false => Err(Status::unauthenticated(
                "the cluster does not know this join token; make one with `narvana token create` on a member of it",
            )),
        }
    }

    async fn propose(&self, asked: &v1::AdmitRequest, token: JoinTokenId, id: RequestId) -> Result<NodeId, Status> {
        // Whoever asks again after a lost answer may have another port and name meanwhile, and says so when it registers.
        let fingerprint = Sha256::digest(&asked.token).into();
        let entry = LogEntry {
            proposed_at: clock::now(),
            actor: Actor::Anonymous,
            request: Some(state::Request { id, fingerprint }),
            command: Command::AdmitNode {
                token,
                digest: JoinSecret::digest_of(&asked.secret),
                name: asked.name.clone(),
                address: asked.address.clone(),
                // Who does not say so is from before there was another one.
                cluster_version_max: asked.cluster_version_max.max(OLDEST_CLUSTER_VERSION),
            },
        };
        match self.consensus.propose(entry).await.map_err(|error| status(&error))?.outcome {
            Outcome::Node(node) => Ok(node),
            _ => Err(Status::already_exists("this request was something else before")),
        }
    }

    fn cluster(&self) -> Result<std::sync::Arc<Cluster>, Status> {
        let state = self.consensus.latest().state;
        state.cluster().cloned().ok_or_else(|| Status::unavailable("this node is joining itself; ask another member"))
    }
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn greet(&self, _: Request<v1::GreetRequest>) -> Result<Response<v1::GreetReply>, Status> {
        self.cluster()?;
        Ok(Response::new(v1::GreetReply {
            node: self.consensus.status().node.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            unix_ms: clock::now().0,
        }))
    }

    async fn admit(&self, request: Request<v1::AdmitRequest>) -> Result<Response<v1::AdmitReply>, Status> {
        let Some(Caller { from, .. }) = request.extensions().get().copied() else {
            return Err(Status::internal("the caller is unknown"));
        };
        let customer = customer(from);
        self.guesses.take(&customer, Instant::now()).map_err(|slow| Status::resource_exhausted(slow.to_string()))?;
        let asked = request.into_inner();
        let checked = self.check(&asked).await.inspect_err(|refused| {
            tracing::warn!(%from, reason = refused.message(), "somebody who wanted to join was refused");
        });
        // Only a wrong secret is a guess.
        if !matches!(&checked, Err(refused) if refused.code() == Code::Unauthenticated) {
            self.guesses.give_back(&customer);
        }
        let (token, request, key) = checked?;
        let node = self.propose(&asked, token, request).await?;
        // The answer may be an old one.
        let state = self.consensus.latest().state;
        if state.admission(node).is_none_or(|admission| admission.removed_at.is_some()) {
            return Err(Status::failed_precondition(format!(
                "this request was answered before with node {}, which was removed since; ask again with a token that can be used",
                state.name_of(node)
            )));
        }
        let cluster = self.cluster()?;
        let identity = (cluster.id, node);
        let (authority, authority_key) = cluster.signer();
        let signed = Authority::sign_peer(authority, authority_key, identity, &key, clock::now());
        let certificate = signed.map_err(|error| Status::internal(error.to_string()))?;
        tracing::info!(%node, name = asked.name, %from, "a node was let in");
        Ok(Response::new(v1::AdmitReply {
            node: node.0,
            certificate: certificate.into(),
            authority: cluster.trusted(),
        }))
    }
}

fn status(error: &ProposeError) -> Status {
    let words = error.to_string();
    match error {
        ProposeError::Rejected(_) => Status::failed_precondition(words),
        ProposeError::DiskFull(_) => Status::resource_exhausted(words),
        ProposeError::TooLarge { .. } => Status::invalid_argument(words),
        // Asking again is safe: the request has an identity.
        ProposeError::NoLeader { .. }
        | ProposeError::OutcomeUnknown
        | ProposeError::NotYetHere { .. }
        | ProposeError::Stopped => Status::unavailable(words),
    }
}
