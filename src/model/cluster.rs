//! The cluster itself.

use serde::{Deserialize, Serialize};

use super::{ClusterId, Secret, Timestamp};

/// What is true of the cluster as a whole. Written once, by `init`.
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
    /// What writers may emit: raised only when every member understands it.
    pub cluster_version: u32,
    /// When `init` ran.
    pub created_at: Timestamp,
}
