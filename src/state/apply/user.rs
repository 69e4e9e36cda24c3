//! Commands about people and their sessions.

use crate::model::{
    Invalid, Membership, Org, OrgId, Role, Session, SessionId, User, check_email, check_org_name, slug_from_name,
};
use crate::state::{Key, NewUser, Outcome, Rejection};

use super::{Answer, Draft, not_found};

/// Sessions of one user at most: the oldest ends when one more begins.
const SESSIONS_PER_USER_MAX: usize = 50;

impl Draft {
    pub(super) fn register_first_user(
        &mut self,
        new: &NewUser,
        org: OrgId,
        org_name: &str,
        session: &Session,
    ) -> Answer {
        let mut invalid = Invalid::default();
        invalid.check("email", check_email(&new.email));
        invalid.check("org_name", check_org_name(org_name));
        invalid.into_result()?;
        if self.state.users().next().is_some() {
            return Err(Rejection::Precondition(
                "registration is closed: the first user exists, and this version has only that one".to_owned(),
            ));
        }
        self.put(User {
            id: new.id,
            email: new.email.clone(),
            password: new.password.clone(),
            name: String::new(),
            is_admin: true,
            created_at: self.now,
        });
        self.put(Org {
            id: org,
            name: org_name.to_owned(),
            slug: slug_from_name(org_name),
            description: String::new(),
            created_at: self.now,
            updated_at: self.now,
        });
        self.put(Membership { org, user: new.id, role: Role::Owner, created_at: self.now });
        self.open_session(session)?;
        Ok(Outcome::Registered { user: new.id, org, session: session.id })
    }

    pub(super) fn open_session(&mut self, session: &Session) -> Answer {
        if self.state.user(session.user).is_none() {
            return Err(not_found("user", session.user));
        }
        let own: Vec<_> = self.state.sessions().filter(|other| other.user == session.user).cloned().collect();
        let surplus = (own.len() + 1).saturating_sub(SESSIONS_PER_USER_MAX);
        for (position, other) in own.iter().enumerate() {
            if position < surplus || other.expires_at <= self.now {
                self.delete(Key::Session(other.id));
            }
        }
        self.put(session.clone());
        Ok(Outcome::Session(session.id))
    }

    pub(super) fn close_session(&mut self, id: SessionId) -> Answer {
        // Closing one that is gone already is what the caller wanted.
        if self.state.session(id).is_some() {
            self.delete(Key::Session(id));
        }
        Ok(Outcome::Done)
    }
}
