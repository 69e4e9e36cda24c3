//! How an engine gets into a registry.

use crate::model::Secret;

/// User and password for a registry on this machine's loopback that speaks plain HTTP.
#[derive(Clone, Debug)]
pub struct LocalLogin {
    /// The user.
    pub user: String,
    /// The password, as text.
    pub password: Secret,
}
