//! People and their log-ins.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{SessionId, Timestamp, UserId};

/// A person with an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Identity.
    pub id: UserId,
    /// Lower-cased address, unique in the cluster.
    pub email: String,
    /// How the password is checked.
    pub password: PasswordHash,
    /// Name for people, may be empty.
    pub name: String,
    /// May administer the cluster: nodes, settings, users.
    pub is_admin: bool,
    /// When the account was made.
    pub created_at: Timestamp,
}

/// An argon2id hash in PHC form, with its parameters. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

/// One log-in. A token is valid only while its session is in the state, so that deleting the session revokes it at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Identity; the token's `sid`.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it is refused and may be swept.
    pub expires_at: Timestamp,
}
