//! Apps.

use serde::{Deserialize, Serialize};

use super::{AppId, OrgId, Timestamp, UserId};

/// A named group of services that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Identity.
    pub id: AppId,
    /// The organisation that owns it.
    pub org: OrgId,
    /// Who made it.
    pub owner: UserId,
    /// Unique among the organisation's apps; a DNS label, because it becomes part of host names.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Picture, may be empty.
    pub icon_url: String,
    /// Raised by each change; a change that names an older one is refused.
    pub version: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}
