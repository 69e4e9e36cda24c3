//! The state as maps: rows by their ids, and the few indexes that commands and readers look things up by.

mod rows;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::model::{
    Absence, Admission, App, AppId, Build, BuildId, BuildInput, BuildParts, BuildRecipe, BuildStatus, Cluster,
    Deployment, DeploymentId, Epoch, Instance, InstanceId, JoinToken, JoinTokenId, Membership, Memory, Node, NodeId,
    Org, OrgId, RequestId, Role, Service, ServiceId, Session, SessionId, SettingKey, SourceId, Timestamp,
    UploadedSource, User, UserId,
};

use super::record::{Change, Key, Record, RequestRecord};

pub use rows::Replacement;

/// The whole replicated state. Its maps share their structure, so that a clone costs nothing and readers, snapshots
/// and what-if runs never wait for a change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    cluster: Option<Arc<Cluster>>,
    orgs: OrdMap<OrgId, Arc<Org>>,
    memberships: OrdMap<(OrgId, UserId), Arc<Membership>>,
    users: OrdMap<UserId, Arc<User>>,
    sessions: OrdMap<SessionId, Arc<Session>>,
    apps: OrdMap<AppId, Arc<App>>,
    services: OrdMap<ServiceId, Arc<Service>>,
    sources: OrdMap<SourceId, Arc<UploadedSource>>,
    deployments: OrdMap<DeploymentId, Arc<Deployment>>,
    builds: OrdMap<BuildId, Arc<Build>>,
    recipes: OrdMap<BuildId, Arc<BuildRecipe>>,
    inputs: OrdMap<BuildId, Arc<BuildInput>>,
    instances: OrdMap<InstanceId, Arc<Instance>>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    settings: OrdMap<SettingKey, Arc<crate::model::Setting>>,
    requests: OrdMap<RequestId, Arc<RequestRecord>>,
    join_tokens: OrdMap<JoinTokenId, Arc<JoinToken>>,
    admissions: OrdMap<NodeId, Arc<Admission>>,
    absences: OrdMap<NodeId, Arc<Absence>>,
    epoch: Option<Arc<Epoch>>,

    /// Sum of the rows' encoded bytes, kept by `put` and `delete`.
    bytes: u64,

    // Indexes. Derived from the rows above by `put` and `delete`; never stored.
    users_by_email: OrdMap<String, UserId>,
    memberships_by_user: OrdSet<(UserId, OrgId)>,
    apps_by_name: OrdMap<(OrgId, String), AppId>,
    services_by_name: OrdMap<(AppId, String), ServiceId>,
    services_by_host: OrdMap<String, ServiceId>,
    deployments_by_service: OrdSet<(ServiceId, u64, DeploymentId)>,
    instances_by_deployment: OrdSet<(DeploymentId, InstanceId)>,
    sources_by_service: OrdSet<(ServiceId, SourceId)>,
    builds_by_deployment: OrdSet<(DeploymentId, BuildId)>,
    builds_by_input: OrdSet<(BuildParts, BuildId)>,
    requests_by_age: OrdSet<(Timestamp, RequestId)>,
    live_instances: OrdSet<InstanceId>,
    live_deployments: OrdSet<DeploymentId>,
    live_builds: OrdSet<BuildId>,
}

macro_rules! rows {
    ($($(#[$doc:meta])* $one:ident, $all:ident: $id:ty => $row:ty;)*) => {
        impl State {$(
            #[doc = concat!("The row of this id in `", stringify!($all), "`.")]
            pub fn $one(&self, id: $id) -> Option<&Arc<$row>> {
                self.$all.get(&id)
            }

            $(#[$doc])*
            pub fn $all(&self) -> impl DoubleEndedIterator<Item = &Arc<$row>> {
                self.$all.values()
            }
        )*}
    };
}

rows! {
    /// All organisations, oldest first.
    org, orgs: OrgId => Org;
    /// All users, oldest first.
    user, users: UserId => User;
    /// All sessions, oldest first.
    session, sessions: SessionId => Session;
    /// All apps, oldest first.
    app, apps: AppId => App;
    /// All services, oldest first.
    service, services: ServiceId => Service;
    /// All uploaded sources, oldest first.
    source, sources: SourceId => UploadedSource;
    /// All deployments, oldest first.
    deployment, deployments: DeploymentId => Deployment;
    /// All builds, oldest first.
    build, builds: BuildId => Build;
    /// All recipes of builds, those of the oldest builds first.
    recipe, recipes: BuildId => BuildRecipe;
    /// All inputs of builds, those of the oldest builds first.
    input, inputs: BuildId => BuildInput;
    /// All instances, oldest first.
    instance, instances: InstanceId => Instance;
    /// All nodes by id.
    node, nodes: NodeId => Node;
    /// The answers to requests of the last while.
    request, requests: RequestId => RequestRecord;
    /// All join tokens, oldest first, those of no use included.
    join_token, join_tokens: JoinTokenId => JoinToken;
    /// All nodes that ever were let in, by id.
    admission, admissions: NodeId => Admission;
    /// All members that do not answer, by id.
    absence, absences: NodeId => Absence;
}

impl State {
    /// The cluster, once it exists.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// How the cluster began anew, if it ever did.
    pub fn epoch(&self) -> Option<&Arc<Epoch>> {
        self.epoch.as_ref()
    }

    /// The nodes that belong to the cluster: let in and not removed.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Admission>> {
        self.admissions.values().filter(|admission| admission.removed_at.is_none())
    }

    /// What people call a node, also one that has not come up or was removed; the id of one that never was let in.
    pub fn name_of(&self, node: NodeId) -> String {
        let own = self.node(node).map(|node| node.name.clone());
        own.or_else(|| Some(self.admission(node)?.name.clone())).unwrap_or_else(|| node.to_string())
    }

    /// A service in words: `app/service`.
    pub fn path_of(&self, service: ServiceId) -> Option<String> {
        let service = self.services.get(&service)?;
        Some(format!("{}/{}", self.apps.get(&service.app)?.name, service.name))
    }

    /// What a user may do in an organisation, if anything.
    pub fn role(&self, org: OrgId, user: UserId) -> Option<Role> {
        self.memberships.get(&(org, user)).map(|membership| membership.role)
    }

    /// The organisations a user belongs to, oldest first.
    pub fn memberships_of(&self, user: UserId) -> impl Iterator<Item = &Arc<Membership>> {
        let first = (user, OrgId(uuid::Uuid::nil()));
        let last = (user, OrgId(uuid::Uuid::max()));
        self.memberships_by_user.range(first..=last).filter_map(|(user, org)| self.memberships.get(&(*org, *user)))
    }

    /// The user with this address; `email` is lower-case.
    pub fn user_by_email(&self, email: &str) -> Option<&Arc<User>> {
        self.users_by_email.get(email).and_then(|id| self.users.get(id))
    }

    /// The apps of an organisation by name.
    pub fn apps_of(&self, org: OrgId) -> impl Iterator<Item = &Arc<App>> {
        self.apps_by_name
            .range((org, String::new())..)
            .take_while(move |((of, _), _)| *of == org)
            .filter_map(|(_, id)| self.apps.get(id))
    }

    /// The app of this name in an organisation.
    pub fn app_by_name(&self, org: OrgId, name: &str) -> Option<&Arc<App>> {
        self.apps_by_name.get(&(org, name.to_owned())).and_then(|id| self.apps.get(id))
    }

    /// The service of this name in an app.
    pub fn service_by_name(&self, app: AppId, name: &str) -> Option<&Arc<Service>> {
        self.services_by_name.get(&(app, name.to_owned())).and_then(|id| self.services.get(id))
    }

    /// The service with this host label.
    pub fn service_by_host(&self, label: &str) -> Option<&Arc<Service>> {
        self.services_by_host.get(label).and_then(|id| self.services.get(id))
    }

    /// The services of an app by name.
    pub fn services_of(&self, app: AppId) -> impl Iterator<Item = &Arc<Service>> {
        self.services_by_name
            .range((app, String::new())..)
            .take_while(move |((of, _), _)| *of == app)
            .filter_map(|(_, id)| self.services.get(id))
    }

    /// The deployments of a service, newest first.
    pub fn deployments_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Deployment>> {
        let first = (service, 0, DeploymentId(uuid::Uuid::nil()));
        let last = (service, u64::MAX, DeploymentId(uuid::Uuid::max()));
        self.deployments_by_service.range(first..=last).rev().filter_map(|(_, _, id)| self.deployments.get(id))
    }

    /// The instances of a deployment, oldest first.
    pub fn instances_of(&self, deployment: DeploymentId) -> impl Iterator<Item = &Arc<Instance>> {
        let first = (deployment, InstanceId(uuid::Uuid::nil()));
        let last = (deployment, InstanceId(uuid::Uuid::max()));
        self.instances_by_deployment.range(first..=last).filter_map(|(_, id)| self.instances.get(id))
    }

    /// The builds of a deployment, oldest first: one, or two when the first was lost.
    pub fn builds_of(&self, deployment: DeploymentId) -> impl Iterator<Item = &Arc<Build>> {
        let first = (deployment, BuildId(uuid::Uuid::nil()));
        let last = (deployment, BuildId(uuid::Uuid::max()));
        self.builds_by_deployment.range(first..=last).filter_map(|(_, id)| self.builds.get(id))
    }

    /// The build whose result another one of the same organisation can take, or wait for, that is made from these parts: of those that have an
    /// image, if these count, the one with the newest, or else the first that is under way and waits for no other.
    pub fn same_build(&self, build: &Build, parts: &BuildParts, with_image: bool) -> Option<&Arc<Build>> {
        let org_of = |build: &Build| self.apps.get(&build.app).map(|app| app.org);
        let (first, last) = (BuildId(uuid::Uuid::nil()), BuildId(uuid::Uuid::max()));
        let same = || {
            let ids = self.builds_by_input.range((parts.clone(), first)..=(parts.clone(), last)).map(|(_, id)| id);
            let others = ids.filter(|id| **id != build.id).filter_map(|id| self.builds.get(id));
            let others = others.filter(|other| org_of(other) == org_of(build));
            others.filter_map(|other| Some((other, self.inputs.get(&other.id)?)))
        };
        let has_image = |other: &Build| other.status == BuildStatus::Succeeded && other.artifact.is_some();
        let made = same().filter(|(other, _)| with_image && has_image(other));
        let newest = made.max_by_key(|(other, input)| (input.made_at, other.id));
        // Nobody gets anything of one that is being cancelled.
        let runs = |other: &Build| other.status == BuildStatus::Running && !other.cancel_requested;
        let under_way = || same().find(|(other, input)| runs(other) && input.same_as.is_none());
        newest.or_else(under_way).map(|(other, _)| other)
    }

    /// The sources uploaded for a service, oldest first.
    pub fn sources_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<UploadedSource>> {
        let first = (service, SourceId(uuid::Uuid::nil()));
        let last = (service, SourceId(uuid::Uuid::max()));
        self.sources_by_service.range(first..=last).filter_map(|(_, id)| self.sources.get(id))
    }

    /// Instances that have not ended, oldest first. Costs what is alive, not what ever was.
    pub fn live_instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.live_instances.iter().filter_map(|id| self.instances.get(id))
    }

    /// Deployments that have not ended, oldest first.
    pub fn live_deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.live_deployments.iter().filter_map(|id| self.deployments.get(id))
    }

    /// Builds that have not ended, oldest first.
    pub fn live_builds(&self) -> impl Iterator<Item = &Arc<Build>> {
        self.live_builds.iter().filter_map(|id| self.builds.get(id))
    }

    /// The answer to the oldest remembered request.
    pub(super) fn oldest_request(&self) -> Option<(Timestamp, RequestId)> {
        self.requests_by_age.get_min().copied()
    }

    /// How many requests are remembered.
    pub(super) fn request_count(&self) -> usize {
        self.requests.len()
    }

    /// How many bytes the rows have in their stored form. Memory and files are a multiple of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What [`Self::bytes`] may be before commands that make it grow are refused (`max_state_size`).
    pub fn bytes_max(&self) -> u64 {
        // The check of settings lets nothing else in.
        self.setting(SettingKey::MaxStateSize).parse().map_or(u64::MAX, |size: Memory| size.bytes)
    }

    /// The value of a setting, or its default.
    pub fn setting(&self, key: SettingKey) -> &str {
        self.settings.get(&key).map_or_else(|| key.default_value(), |setting| setting.value.as_str())
    }

    /// Makes one change. Only `apply` and the store's loading of rows change a state.
    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Put(record) => self.put(record),
            Change::Delete(key) => self.delete(key),
        }
    }

    fn put(&mut self, record: Record) {
        // The old row's index entries go first, since the new one may have other names.
        self.forget(record.key());
        self.bytes += record.encoded_bytes();
        match record {
            Record::Cluster(row) => self.cluster = Some(row),
            Record::Org(row) => drop(self.orgs.insert(row.id, row)),
            Record::Membership(row) => {
                self.memberships_by_user.insert((row.user, row.org));
                self.memberships.insert((row.org, row.user), row);
            }
            Record::User(row) => {
                self.users_by_email.insert(row.email.clone(), row.id);
                self.users.insert(row.id, row);
            }
            Record::Session(row) => drop(self.sessions.insert(row.id, row)),
            Record::App(row) => {
                self.apps_by_name.insert((row.org, row.name.clone()), row.id);
                self.apps.insert(row.id, row);
            }
            Record::Service(row) => {
                self.services_by_name.insert((row.app, row.name.clone()), row.id);
                self.services_by_host.insert(row.host_label.clone(), row.id);
                self.services.insert(row.id, row);
            }
            Record::Source(row) => {
                self.sources_by_service.insert((row.service, row.id));
                self.sources.insert(row.id, row);
            }
            Record::Deployment(row) => {
                self.deployments_by_service.insert((row.service, row.version, row.id));
                if !row.status.is_terminal() {
                    self.live_deployments.insert(row.id);
                }
                self.deployments.insert(row.id, row);
            }
            Record::Build(row) => {
                if !row.status.is_terminal() {
                    self.live_builds.insert(row.id);
                }
                self.builds_by_deployment.insert((row.deployment, row.id));
                self.builds.insert(row.id, row);
            }
            Record::Instance(row) => {
                self.instances_by_deployment.insert((row.deployment, row.id));
                if !row.status.state.is_terminal() {
                    self.live_instances.insert(row.id);
                }
                self.instances.insert(row.id, row);
            }
            Record::Node(row) => drop(self.nodes.insert(row.id, row)),
            Record::Setting(row) => drop(self.settings.insert(row.key, row)),
            Record::Request(row) => {
                self.requests_by_age.insert((row.at, row.request.id));
                self.requests.insert(row.request.id, row);
            }
            Record::JoinToken(row) => drop(self.join_tokens.insert(row.id, row)),
            Record::Admission(row) => drop(self.admissions.insert(row.node, row)),
            Record::Absence(row) => drop(self.absences.insert(row.node, row)),
            Record::Epoch(row) => self.epoch = Some(row),
            Record::Recipe(row) => drop(self.recipes.insert(row.build, row)),
            Record::Input(row) => {
                if !row.parts.is_empty() {
                    self.builds_by_input.insert((row.parts.clone(), row.build));
                }
                self.inputs.insert(row.build, row);
            }
        }
    }

    fn delete(&mut self, key: Key) {
        self.forget(key);
        match key {
            Key::Cluster => self.cluster = None,
            Key::Org(id) => drop(self.orgs.remove(&id)),
            Key::Membership(org, user) => drop(self.memberships.remove(&(org, user))),
            Key::User(id) => drop(self.users.remove(&id)),
            Key::Session(id) => drop(self.sessions.remove(&id)),
            Key::App(id) => drop(self.apps.remove(&id)),
            Key::Service(id) => drop(self.services.remove(&id)),
            Key::Source(id) => drop(self.sources.remove(&id)),
            Key::Deployment(id) => drop(self.deployments.remove(&id)),
            Key::Build(id) => drop(self.builds.remove(&id)),
            Key::Instance(id) => drop(self.instances.remove(&id)),
            Key::Node(id) => drop(self.nodes.remove(&id)),
            Key::Setting(setting) => drop(self.settings.remove(&setting)),
            Key::Request(id) => drop(self.requests.remove(&id)),
            Key::JoinToken(id) => drop(self.join_tokens.remove(&id)),
            Key::Admission(id) => drop(self.admissions.remove(&id)),
            Key::Absence(id) => drop(self.absences.remove(&id)),
            Key::Epoch => self.epoch = None,
            Key::Recipe(id) => drop(self.recipes.remove(&id)),
            Key::Input(id) => drop(self.inputs.remove(&id)),
        }
    }

    /// Takes a row out of the sum and the indexes, if there is one.
    fn forget(&mut self, key: Key) {
        self.bytes -= self.record(key).map_or(0, |row| row.encoded_bytes());
        self.unindex(key);
    }

    fn unindex(&mut self, key: Key) {
        match key {
            Key::User(id) => {
                if let Some(row) = self.users.get(&id) {
                    unname(&mut self.users_by_email, &row.email, id);
                }
            }
            Key::App(id) => {
                if let Some(row) = self.apps.get(&id) {
                    unname(&mut self.apps_by_name, &(row.org, row.name.clone()), id);
                }
            }
            Key::Service(id) => {
                if let Some(row) = self.services.get(&id) {
                    unname(&mut self.services_by_name, &(row.app, row.name.clone()), id);
                    unname(&mut self.services_by_host, &row.host_label, id);
                }
            }
            Key::Source(id) => {
                if let Some(row) = self.sources.get(&id) {
                    self.sources_by_service.remove(&(row.service, row.id));
                }
            }
            Key::Deployment(id) => {
                self.live_deployments.remove(&id);
                if let Some(row) = self.deployments.get(&id) {
                    self.deployments_by_service.remove(&(row.service, row.version, row.id));
                }
            }
            Key::Build(id) => {
                self.live_builds.remove(&id);
                if let Some(row) = self.builds.get(&id) {
                    self.builds_by_deployment.remove(&(row.deployment, row.id));
                }
            }
            Key::Instance(id) => {
                self.live_instances.remove(&id);
                if let Some(row) = self.instances.get(&id) {
                    self.instances_by_deployment.remove(&(row.deployment, row.id));
                }
            }
            Key::Input(id) => {
                if let Some(row) = self.inputs.get(&id) {
                    self.builds_by_input.remove(&(row.parts.clone(), id));
                }
            }
            Key::Request(id) => {
                if let Some(row) = self.requests.get(&id) {
                    self.requests_by_age.remove(&(row.at, id));
                }
            }
            Key::Membership(org, user) => {
                self.memberships_by_user.remove(&(user, org));
            }
            Key::Cluster
            | Key::Org(_)
            | Key::Session(_)
            | Key::Node(_)
            | Key::Setting(_)
            | Key::JoinToken(_)
            | Key::Admission(_)
            | Key::Absence(_)
            | Key::Epoch
            | Key::Recipe(_) => {}
        }
    }
}

/// Takes a name out of an index, unless it is another row's by now: when rows come from a snapshot, the one that has the
/// name now may come before the one that had it goes.
fn unname<K: Ord + Clone, V: PartialEq + Clone>(index: &mut OrdMap<K, V>, name: &K, id: V) {
    if index.get(name) == Some(&id) {
        index.remove(name);
    }
}
