//! The cluster itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::word::word_enum;
use super::{ClusterId, NodeId, Secret, Timestamp};

/// What is true of the cluster as a whole. Written by `init`, and when its authority is rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Identity.
    pub id: ClusterId,
    /// Key that signs session tokens.
    pub token_key: Secret,
    /// The certificate authority's certificate, PEM.
    pub ca_certificate: String,
    /// The certificate authority's private key, PEM.
    pub ca_key: Secret,
    /// What writers may emit (`cluster_version`): raised only when every member understands it, never lowered.
    pub cluster_version: u32,
    /// When `init` ran.
    pub created_at: Timestamp,
    /// The authority that is to follow, while the members move to it.
    pub rotation: Option<Rotation>,
    /// Instances that the leader may move once so that what runs is spread better; 0 when nobody asked, or it has begun.
    pub rebalance: u32,
}

word_enum! {
    /// What the members have to do next for another authority to follow.
    RotationStep {
        /// Trust both. Certificates are still of the old one.
        Trust = "trust",
        /// Show certificates of the new one. Both are still trusted.
        Show = "show",
    }
}

/// Another authority on its way. When all members have taken a step the next one begins, and after the last one the old
/// authority is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The new authority's certificate, PEM.
    pub certificate: String,
    /// The new authority's private key, PEM.
    pub key: Secret,
    /// When it was begun.
    pub begun_at: Timestamp,
    /// What is to be done.
    pub step: RotationStep,
    /// Members that have done it.
    pub done: BTreeSet<NodeId>,
}

impl Cluster {
    /// Certificate (PEM) and key of the authority that signs at present.
    pub fn signer(&self) -> (&str, &Secret) {
        match &self.rotation {
            Some(Rotation { step: RotationStep::Show, certificate, key, .. }) => (certificate, key),
            _ => (&self.ca_certificate, &self.ca_key),
        }
    }

    /// Certificates of all authorities that are trusted (PEM), that which signs first.
    pub fn trusted(&self) -> String {
        let signer = self.signer().0;
        let new = self.rotation.as_ref().map(|rotation| rotation.certificate.as_str());
        let others = [Some(self.ca_certificate.as_str()), new].into_iter().flatten().filter(|other| *other != signer);
        std::iter::once(signer).chain(others).collect()
    }
}
