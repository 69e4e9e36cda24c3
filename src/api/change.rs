//! One request that changes something: who asks, and the identity that makes repeating it harmless.

use http::{HeaderMap, Method, Uri};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::auth::Caller;
use crate::model::RequestId;
use crate::random;
use crate::state::{Actor, Command, Outcome, Request};

use super::Error;
use super::context::Context;
use super::extract::target;
use super::gate::Gate;

/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Attempts at a change that is made anew from the newest state each time.
const ATTEMPTS_MAX: usize = 5;

/// A change in the making.
pub(super) struct Change {
    gate: Gate,
    caller: Caller,
    context: Context,
    request: Request,
}

impl Change {
    pub(super) fn new(gate: Gate, caller: Caller, context: Context, headers: &HeaderMap) -> Result<Self, Error> {
        let id = match headers.get("idempotency-key") {
            Some(value) => {
                let ok = (1..=KEY_BYTES_MAX).contains(&value.len()) && value.to_str().is_ok();
                if !ok {
                    let reason = format!("must have 1 to {KEY_BYTES_MAX} printable ASCII characters");
                    return Err(Error::field("Idempotency-Key", reason));
                }
                keyed(caller.actor(), value.as_bytes())
            }
            None => random::id(),
        };
        Ok(Self { gate, caller, context, request: Request { id, fingerprint: [0; 32] } })
    }

    /// The change with the digest of what is asked: one key for two different requests is refused.
    pub(super) fn of(mut self, method: &Method, uri: &Uri, body: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(target(method, uri));
        digest.update([0]);
        digest.update(body);
        self.request.fingerprint = digest.finalize().into();
        self
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Who asks, in the state they saw.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Makes the change; gives the answer and the caller in a state that has it. The command is not even made when this
    /// request was answered before: what it was about may have changed since.
    pub(super) async fn commit(
        &self,
        command: impl FnOnce(&Caller) -> Result<Command, Error>,
    ) -> Result<(Outcome, Caller), Error> {
        let outcome = match self.answered() {
            Some(outcome) => outcome,
            None => self.submit(command(&self.caller)?).await?,
        };
        Ok((outcome, self.gate.newest(&self.caller, &self.context)?))
    }

    /// Like [`Change::commit`], for a change that is made from what the state has: made anew when it has changed
    /// meanwhile.
    pub(super) async fn commit_anew(
        &self,
        command: impl Fn(&Caller) -> Result<Command, Error>,
    ) -> Result<(Outcome, Caller), Error> {
        if let Some(outcome) = self.answered() {
            return Ok((outcome, self.gate.newest(&self.caller, &self.context)?));
        }
        let mut caller = self.caller.clone();
        for attempt in 1.. {
            match self.submit(command(&caller)?).await {
                Ok(outcome) => return Ok((outcome, self.gate.newest(&caller, &self.context)?)),
                Err(Error::Conflict(_)) if attempt < ATTEMPTS_MAX => {
                    caller = self.gate.newest(&caller, &self.context)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Internal)
    }

    /// Makes the change and nothing more; for one after which the caller may be nobody.
    pub(super) async fn submit(&self, command: Command) -> Result<Outcome, Error> {
        let committed = self.gate.submit(self.caller.actor(), self.request, command).await?;
        self.context.saw(committed.index);
        self.context.changed();
        Ok(committed.outcome)
    }

    /// What this request was answered before.
    fn answered(&self) -> Option<Outcome> {
        let outcome = self.gate.answered(self.request)?;
        self.context.changed();
        Some(outcome)
    }
}

/// The identity of a request with a key: the same for the same person and key, on every node.
fn keyed(actor: Actor, key: &[u8]) -> RequestId {
    let who = match actor {
        Actor::User(user) => user.to_string(),
        Actor::Node(node) => format!("node {node}"),
        Actor::System => "system".to_owned(),
        Actor::Anonymous => "anonymous".to_owned(),
    };
    let digest = Sha256::new().chain_update(who).chain_update([0]).chain_update(key).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    RequestId(Uuid::from_bytes(bytes))
}
