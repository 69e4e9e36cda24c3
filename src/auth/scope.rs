//! Loading one object for a caller: the only way from an id in a request to a noun.

use std::ops::Deref;
use std::sync::Arc;

use crate::decide::reuse::{Reuse, reuse};
use crate::model::{
    App, AppId, Build, BuildId, BuildRecipe, Deployment, DeploymentId, Instance, InstanceId, Node, NodeId, OrgId, Role,
    Service, ServiceId, Timestamp, UploadedSource,
};
use crate::state::{Rejection, State};

use super::caller::Sight;
use super::{Caller, Error};

/// An object that its caller may act on in the role it was loaded for. What hangs on it may be reached through it.
#[derive(Clone)]
pub struct Scoped<T> {
    row: Arc<T>,
    org: OrgId,
    sight: Arc<Sight>,
}

impl<T> Deref for Scoped<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.row
    }
}

impl<T> Scoped<T> {
    /// The organisation it belongs to.
    pub fn org(&self) -> OrgId {
        self.org
    }

    pub(super) fn new(row: Arc<T>, org: OrgId, sight: Arc<Sight>) -> Self {
        Self { row, org, sight }
    }

    fn with<U>(&self, row: &Arc<U>) -> Scoped<U> {
        Scoped { row: row.clone(), org: self.org, sight: self.sight.clone() }
    }

    pub(super) fn state(&self) -> &State {
        &self.sight.state
    }
}

/// A noun that belongs to an app, and through it to an organisation.
pub trait Owned: sealed::Row {
    /// Its id.
    type Id: Copy + std::fmt::Display;
    /// Its name in messages.
    const NOUN: &'static str;
}

mod sealed {
    use super::{AppId, Arc, Owned, State};

    /// Kept out of reach: finding a row by its bare id is for the loader alone.
    pub trait Row: Sized {
        fn find(state: &State, id: <Self as Owned>::Id) -> Option<Arc<Self>>
        where
            Self: Owned;
        fn app(&self) -> AppId;
    }
}

macro_rules! owned {
    ($($type:ty, $id:ty, $noun:literal, $find:ident;)*) => {$(
        impl Owned for $type {
            type Id = $id;
            const NOUN: &'static str = $noun;
        }
        impl sealed::Row for $type {
            fn find(state: &State, id: $id) -> Option<Arc<Self>> {
                state.$find(id).cloned()
            }
            fn app(&self) -> AppId {
                self.app
            }
        }
    )*};
}

owned! {
    Service, ServiceId, "service", service;
    Deployment, DeploymentId, "deployment", deployment;
    Build, BuildId, "build", build;
    Instance, InstanceId, "instance", instance;
}

impl Caller {
    /// The object of this id, if it is in one of the caller's organisations and they have the role there.
    pub fn load<T: Owned>(&self, role: Role, id: T::Id) -> Result<Scoped<T>, Error> {
        let missing = || Error::NotFound(format!("{} {id}", T::NOUN));
        let row = T::find(&self.0.state, id).ok_or_else(missing)?;
        let org = self.0.state.app(row.app()).ok_or_else(missing)?.org;
        self.require_role(role, org).map_err(|error| error.unwrap_or_else(missing))?;
        Ok(Scoped::new(row, org, self.0.clone()))
    }

    /// The app of this id, or of this name in one of the caller's organisations.
    pub fn app(&self, role: Role, id_or_name: &str) -> Result<Scoped<App>, Error> {
        let missing = || Error::NotFound(format!("app {id_or_name}"));
        let by_id = id_or_name.parse().ok().and_then(|id: AppId| self.0.state.app(id).cloned());
        let row = match by_id {
            Some(app) => app,
            None => self.app_by_name(id_or_name)?.ok_or_else(missing)?,
        };
        let org = row.org;
        self.require_role(role, org).map_err(|error| error.unwrap_or_else(missing))?;
        Ok(Scoped::new(row, org, self.0.clone()))
    }

    fn app_by_name(&self, name: &str) -> Result<Option<Arc<App>>, Error> {
        let state = &self.0.state;
        let memberships = state.memberships_of(self.0.user.id);
        let mut found = memberships.filter_map(|membership| state.app_by_name(membership.org, name));
        let first = found.next().cloned();
        if found.next().is_some() {
            return Err(Error::Ambiguous(format!(
                "several of your organisations have an app named {name}; use the app's id"
            )));
        }
        Ok(first)
    }

    /// The service of this name (or id) in an app.
    pub fn service(&self, role: Role, app: &str, name_or_id: &str) -> Result<Scoped<Service>, Error> {
        self.app(role, app)?.service(name_or_id)
    }

    /// A node; every user may see them all.
    pub fn node(&self, id: NodeId) -> Result<Arc<Node>, Error> {
        self.0.state.node(id).cloned().ok_or_else(|| Error::NotFound(format!("node {}", self.name_of(id))))
    }

    /// What people call a node, also one that is gone; every user may know that.
    pub fn name_of(&self, node: NodeId) -> String {
        self.0.state.name_of(node)
    }

    /// Refuses the removal of a node that has to stay.
    pub fn check_removal(&self, node: NodeId) -> Result<(), Rejection> {
        self.0.state.check_removal(node)
    }
}

impl Scoped<App> {
    /// The service of this name (or id).
    pub fn service(&self, name_or_id: &str) -> Result<Scoped<Service>, Error> {
        let by_id = || {
            let id: ServiceId = name_or_id.parse().ok()?;
            self.state().service(id).filter(|service| service.app == self.id)
        };
        let row = self.state().service_by_name(self.id, name_or_id).or_else(by_id);
        row.map(|row| self.with(row)).ok_or_else(|| Error::NotFound(format!("service {name_or_id}")))
    }

    /// Its services by name.
    pub fn services(&self) -> impl Iterator<Item = Scoped<Service>> + '_ {
        self.state().services_of(self.id).map(|row| self.with(row))
    }

    /// Its deployments, newest first.
    pub fn deployments(&self) -> impl Iterator<Item = Scoped<Deployment>> + '_ {
        self.state().deployments().rev().filter(|row| row.app == self.id).map(|row| self.with(row))
    }
}

impl Scoped<Service> {
    /// The app it belongs to.
    pub fn app(&self) -> Result<Scoped<App>, Error> {
        let row = self.state().app(self.row.app).ok_or_else(|| Error::NotFound(format!("app {}", self.row.app)))?;
        Ok(self.with(row))
    }

    /// Its deployments, newest first.
    pub fn deployments(&self) -> impl Iterator<Item = Scoped<Deployment>> + '_ {
        self.state().deployments_of(self.id).map(|row| self.with(row))
    }

    /// What was uploaded for it last.
    pub fn uploaded_source(&self) -> Option<UploadedSource> {
        self.row.source.and_then(|id| self.state().source(id)).map(|source| UploadedSource::clone(source))
    }

    /// The deployment that serves, if one does.
    pub fn serving(&self) -> Option<Scoped<Deployment>> {
        self.row.serving.and_then(|id| self.state().deployment(id)).map(|row| self.with(row))
    }
}

impl Scoped<Deployment> {
    /// Another one of its service.
    pub fn sibling(&self, id: DeploymentId) -> Option<Self> {
        let row = self.state().deployment(id).filter(|other| other.service == self.service);
        row.map(|row| self.with(row))
    }

    /// Name of the app it is of, unless that was deleted meanwhile.
    pub fn app_name(&self) -> Option<String> {
        self.state().app(self.row.app).map(|app| app.name.clone())
    }

    /// The service it is of, unless that was deleted meanwhile.
    pub fn service(&self) -> Option<Scoped<Service>> {
        self.state().service(self.row.service).map(|row| self.with(row))
    }

    /// Its instances, oldest first.
    pub fn instances(&self) -> impl Iterator<Item = Scoped<Instance>> + '_ {
        self.state().instances_of(self.id).map(|row| self.with(row))
    }

    /// Its builds, oldest first.
    pub fn builds(&self) -> impl Iterator<Item = Scoped<Build>> + '_ {
        self.state().builds_of(self.id).map(|row| self.with(row))
    }
}

impl Scoped<Build> {
    /// The deployment it is for.
    pub fn deployment(&self) -> Option<Scoped<Deployment>> {
        self.state().deployment(self.row.deployment).map(|row| self.with(row))
    }

    /// Where it is kept how it is built.
    pub fn recipe(&self) -> Option<Arc<BuildRecipe>> {
        self.state().recipe(self.id).cloned()
    }

    /// Whether it takes the result of another one, or why not; of one whose source was seen.
    pub fn reuse(&self) -> Option<Reuse> {
        reuse(self.state(), self)
    }

    /// Whether it was asked for that it runs whatever was built before.
    pub fn is_anew(&self) -> bool {
        self.state().input(self.id).is_some_and(|input| input.no_cache)
    }

    /// Name of the node that works, or worked, on it.
    pub fn node_name(&self) -> Option<String> {
        self.lease.map(|lease| self.state().name_of(lease.node))
    }
}

impl Scoped<Instance> {
    /// The deployment it runs.
    pub fn deployment(&self) -> Option<Scoped<Deployment>> {
        self.state().deployment(self.row.deployment).map(|row| self.with(row))
    }

    /// Since when its node does not answer: what is known of the instance is of before that.
    pub fn unheard_since(&self) -> Option<Timestamp> {
        let absence = self.state().absence(self.placement.node).filter(|_| !self.status.state.is_terminal());
        absence.map(|absence| absence.since)
    }

    /// Name of the node it is on, or was on.
    pub fn node_name(&self) -> String {
        self.state().name_of(self.placement.node)
    }
}
