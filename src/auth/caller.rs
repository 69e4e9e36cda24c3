//! The person behind a request, and the state as of one moment in which they look things up.

use std::sync::Arc;

use crate::model::{Org, OrgId, Role, Session, SettingKey, Timestamp, User};
use crate::state::{Actor, State};

use super::{Error, Tokens};

/// Somebody who is logged in, with the state they see. The state itself is out of reach: only loaders lead to its rows.
#[derive(Clone)]
pub struct Caller(pub(super) Arc<Sight>);

/// What a caller looks at.
pub(super) struct Sight {
    pub(super) state: State,
    pub(super) user: Arc<User>,
    session: Arc<Session>,
}

impl Caller {
    /// Whose token this is. It counts only while its session and its user exist in this state.
    pub fn authenticate(state: State, tokens: &Tokens, token: &str, now: Timestamp) -> Result<Self, Error> {
        let cluster = state.cluster().ok_or(Error::Unauthenticated("this node has no cluster yet"))?;
        let claims = tokens.verify(cluster, token, now)?;
        let session = state
            .session(claims.sid)
            .filter(|session| session.user == claims.sub && session.expires_at > now)
            .cloned()
            .ok_or(Error::Unauthenticated("the session has ended"))?;
        let user = state.user(claims.sub).cloned().ok_or(Error::Unauthenticated("the user does not exist any more"))?;
        Ok(Self(Arc::new(Sight { state, user, session })))
    }

    /// The same person in a newer state, if their session still stands.
    pub fn again(&self, state: State, now: Timestamp) -> Result<Self, Error> {
        let ended = Error::Unauthenticated("the session has ended");
        let session = state.session(self.0.session.id).filter(|session| session.expires_at > now).cloned();
        let user = state.user(self.0.user.id).cloned();
        match (session, user) {
            (Some(session), Some(user)) => Ok(Self(Arc::new(Sight { state, user, session }))),
            _ => Err(ended),
        }
    }

    /// Their account.
    pub fn user(&self) -> &User {
        &self.0.user
    }

    /// Their log-in.
    pub fn session(&self) -> &Session {
        &self.0.session
    }

    /// Who is recorded as having asked for a change.
    pub fn actor(&self) -> Actor {
        Actor::User(self.0.user.id)
    }

    /// Nodes and settings are changed by administrators of the cluster only.
    pub fn require_admin(&self) -> Result<(), Error> {
        if self.0.user.is_admin {
            return Ok(());
        }
        Err(Error::Forbidden("only an administrator of the cluster may do this".to_owned()))
    }

    /// An organisation they belong to, in which they have at least this role.
    pub fn org(&self, role: Role, id: OrgId) -> Result<Arc<Org>, Error> {
        let missing = || Error::NotFound(format!("organisation {id}"));
        let org = self.0.state.org(id).cloned().ok_or_else(missing)?;
        self.require_role(role, id).map_err(|error| error.unwrap_or_else(missing))?;
        Ok(org)
    }

    /// What they may do in an organisation they belong to; `None` when they do not.
    pub fn role_in(&self, org: OrgId) -> Option<Role> {
        self.0.state.role(org, self.0.user.id)
    }

    /// The value of a setting of the cluster, which every user may read.
    pub fn setting(&self, key: SettingKey) -> &str {
        self.0.state.setting(key)
    }

    /// `Err(None)` when the organisation is not theirs, `Err(Some(_))` when their role in it is too low.
    pub(super) fn require_role(&self, needed: Role, org: OrgId) -> Result<Role, Option<Error>> {
        let role = self.role_in(org).ok_or(None)?;
        if role < needed {
            let text = format!("this needs the role {needed} in the organisation; yours is {role}");
            return Err(Some(Error::Forbidden(text)));
        }
        Ok(role)
    }
}
