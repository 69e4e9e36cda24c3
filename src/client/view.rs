//! What the command line shows of the answers.
//!
//! Only what is shown is here, and everything may be missing: an older command line understands a newer node. The full
//! answers are in `Answer::json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::model::Timestamp;

macro_rules! view {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(deserialize_with = "absent_or_null")] pub $field: $type,)*
        }
    )*};
}

/// `null` counts as missing.
fn absent_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A point in time: RFC 3339, or milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(pub Option<Timestamp>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let millis = match Value::deserialize(from)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond()),
            _ => None,
        };
        Ok(Self(millis.map(Timestamp)))
    }
}

/// An identity, which is a text or a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(match Value::deserialize(from)? {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

view! {
    /// Answer of a registration or log-in.
    SignedIn {
        /// Whose.
        email: String,
        /// Proves it from now on.
        token: String,
    }
    /// What a source is, and how it would be built.
    Detection {
        /// How.
        strategy: String,
        /// What runs in it.
        framework: String,
        /// Of the language.
        version: String,
        /// The exact one that it asks for.
        toolchain: String,
        /// By field of `build_config`.
        suggested_config: BTreeMap<String, Value>,
        /// Into which form.
        recommended_build_type: String,
        /// The default first.
        entry_points: Vec<EntryPoint>,
        /// Where programs of this kind listen.
        port: Option<u16>,
        /// From 0 to 1.
        confidence: f64,
        /// What deserves a word.
        warnings: Vec<String>,
        /// Of a repository.
        git_commit: String,
        /// Of a repository, when no reference was asked for.
        default_branch: String,
    }
    /// A program in a source.
    EntryPoint {
        /// What one calls it.
        name: String,
        /// Where it is.
        path: String,
    }
    /// The user.
    Profile {
        /// Identity.
        id: Id,
        /// Address.
        email: String,
        /// Name for people.
        name: String,
        /// Role.
        role: String,
        /// May administer the cluster.
        is_admin: bool,
    }
    /// An app.
    App {
        /// Identity.
        id: Id,
        /// Organisation.
        org_id: Id,
        /// Name.
        name: String,
        /// Free text.
        description: String,
        /// For optimistic locking.
        version: u64,
        /// When it was made.
        created_at: Moment,
        /// When it was last changed.
        updated_at: Moment,
    }
    /// A service.
    Service {
        /// Identity.
        id: Id,
        /// Name.
        name: String,
        /// Where it comes from.
        source_type: String,
        /// Repository.
        git_repo: String,
        /// Branch, tag or commit.
        git_ref: String,
        /// Flake.
        flake_uri: String,
        /// Image.
        image: String,
        /// How it is built.
        build_strategy: String,
        /// How many instances.
        replicas: u32,
        /// What it listens on.
        ports: Vec<Port>,
        /// What each instance may use.
        resources: Resources,
        /// Environment variables.
        env_vars: BTreeMap<String, String>,
        /// Services that must run before.
        depends_on: Vec<String>,
        /// How to tell that it works.
        health_check: Option<HealthCheck>,
        /// Storage that outlives its instances.
        volumes: Vec<Volume>,
        /// Labels that a node must have.
        constraints: Vec<String>,
        /// Command instead of the image's own.
        command: Vec<String>,
        /// That it must never run twice.
        exclusive: bool,
        /// Details of its build.
        build_config: BuildConfig,
        /// `new`, `deploying`, `running`, `stopped` or `failed`.
        status: String,
        /// Where it is reached.
        url: String,
        /// The name by which its app reaches it.
        internal_host: String,
        /// When it was made.
        created_at: Moment,
    }
    /// How to tell that an instance works.
    HealthCheck {
        /// `http`, `tcp` or `command`.
        r#type: String,
        /// Of `http`.
        path: String,
        /// The first port when there is none.
        port: Option<u16>,
        /// Of `command`.
        command: Vec<String>,
        /// Seconds from one to the next.
        interval_seconds: u64,
        /// Longest time of one, in seconds.
        timeout_seconds: u64,
        /// Failures in a row.
        retries: u32,
    }
    /// Storage of a service.
    Volume {
        /// Unique in its service.
        name: String,
        /// Where it is seen.
        path: String,
        /// A note.
        size: String,
    }
    /// Details of a build.
    BuildConfig {
        /// Folder of the source that is built.
        root_directory: String,
        /// Path of the Dockerfile in it.
        dockerfile: String,
        /// What is said over what is found in the source.
        entry_point: Option<String>,
        /// The same.
        build_command: Option<String>,
        /// The same.
        start_command: Option<String>,
        /// The same.
        go_version: Option<String>,
        /// The same.
        node_version: Option<String>,
        /// The same.
        python_version: Option<String>,
        /// What installs packages of Node.js.
        package_manager: Option<String>,
        /// Folder of the site that a build makes.
        output_directory: Option<String>,
        /// The nixpkgs that tools are taken from.
        nixpkgs: Option<String>,
        /// The same.
        cgo_enabled: Option<bool>,
        /// The same.
        ldflags: Option<String>,
        /// The same.
        workspace_module: Option<String>,
        /// The same.
        pre_build_commands: Vec<String>,
        /// The same.
        post_build_commands: Vec<String>,
        /// The same.
        extra_nix_packages: Vec<String>,
        /// The same.
        django_options: Value,
        /// The same.
        fastapi_options: Value,
        /// The same.
        nextjs_options: Value,
        /// The same.
        build_tags: Vec<String>,
    }
    /// A port of a service.
    Port {
        /// Inside its containers.
        container_port: u16,
        /// `tcp` or `udp`.
        protocol: String,
    }
    /// CPU and memory as text.
    Resources {
        /// Cores.
        cpu: String,
        /// With unit.
        memory: String,
    }
    /// A deployment.
    Deployment {
        /// Identity.
        id: Id,
        /// Name of its app.
        app_name: String,
        /// Its service.
        service_name: String,
        /// 1, 2, 3 … per service.
        version: u64,
        /// How far it is.
        status: String,
        /// Why it failed or what it waits for.
        reason: String,
        /// Last lines of what made it fail.
        log_tail: Vec<String>,
        /// The image that it runs.
        artifact: String,
        /// Its build.
        build_id: Id,
        /// Why it was made: `deploy`, `rollback`, `restart` or `start`.
        cause: String,
        /// The version that it repeats.
        cause_version: Option<u64>,
        /// Where it is reached.
        url: String,
        /// Its instances.
        instances: Vec<Instance>,
        /// When it was made.
        created_at: Moment,
        /// When it ended.
        finished_at: Moment,
    }
    /// An instance.
    Instance {
        /// Identity.
        id: Id,
        /// Its node.
        node_id: Id,
        /// Name of its node.
        node_name: String,
        /// Its deployment.
        deployment_id: Id,
        /// Why it is on its node.
        placement: Vec<String>,
        /// Which replica.
        slot: u32,
        /// Which try of this replica, from 0.
        attempt: u32,
        /// How far it is.
        status: String,
        /// What its health check says.
        health: String,
        /// Why.
        reason: String,
        /// Last lines it wrote.
        log_tail: Vec<String>,
        /// When it was made.
        created_at: Moment,
        /// When its process began.
        started_at: Moment,
    }
    /// A build.
    Build {
        /// Identity.
        id: Id,
        /// Its deployment.
        deployment_id: Id,
        /// Its app.
        app_id: Id,
        /// Name of its app.
        app_name: String,
        /// Its service.
        service_name: String,
        /// How far it is.
        status: String,
        /// 1, and 2 after a lost run.
        attempt: u32,
        /// The node that works on it.
        node_id: Id,
        /// Its name.
        node_name: String,
        /// Whether it was built before.
        cache: BuildCache,
        /// Why it failed.
        failure: Failure,
        /// When it was asked for.
        created_at: Moment,
        /// When it began.
        started_at: Moment,
        /// When it ended.
        finished_at: Moment,
    }
    /// How a service would be built.
    Preview {
        /// By what.
        strategy: String,
        /// Commit or digest of the source.
        revision: String,
        /// What was found in it.
        detection: Detection,
        /// The flake that would be built.
        generated_flake: String,
        /// What it reads.
        plan: Value,
        /// How many things would be fetched.
        dependencies: Option<u64>,
        /// Seconds.
        estimated_build_time: Option<u64>,
        /// What deserves a word.
        warnings: Vec<String>,
    }
    /// How a build is done.
    BuildRecipe {
        /// What was found in the source.
        detection: Detection,
        /// The files that were made for it, by their names.
        files: BTreeMap<String, String>,
    }
    /// Whether a build has to run.
    BuildCache {
        /// It takes the image of another build.
        hit: bool,
        /// That build.
        build_id: Id,
        /// Why it runs itself.
        reason: String,
    }
    /// Why a build failed.
    Failure {
        /// For programs.
        build_code: String,
        /// What happened.
        message: String,
        /// What to do about it.
        next_step: String,
        /// Last lines of the log.
        log_tail: Vec<String>,
    }
    /// An uploaded source.
    UploadedSource {
        /// Identity.
        source_id: Id,
        /// Of the archive.
        sha256: String,
        /// Of the archive.
        bytes: u64,
    }
    /// Environment variables of a service.
    EnvVars {
        /// All of them.
        variables: Vec<EnvVar>,
    }
    /// One environment variable.
    EnvVar {
        /// Name.
        key: String,
        /// Value.
        value: String,
    }
    /// Log lines.
    Logs {
        /// Newest first.
        logs: Vec<LogLine>,
        /// Nodes that hold more lines and did not give them.
        missing: Vec<MissingLogs>,
    }
    /// A node that did not give its lines.
    MissingLogs {
        /// Why, with its name.
        reason: String,
    }
    /// One log line.
    LogLine {
        /// When.
        timestamp: Moment,
        /// Which service.
        service_name: String,
        /// Which instance.
        instance_id: Id,
        /// `stdout`, `stderr` or `system`.
        stream: String,
        /// The text.
        message: String,
    }
    /// Why something is as it is.
    Explanation {
        /// Why here, why not there, what it waits for; in words, one sentence each.
        lines: Vec<String>,
    }
    /// The cluster at a glance.
    Cluster {
        /// Identity.
        cluster_id: Id,
        /// The node that answered.
        node_id: Id,
        /// Its part in the group.
        role: String,
        /// Version of its program.
        version: String,
        /// Whether a majority can decide.
        has_quorum: bool,
        /// The voters, as the node that answered sees them.
        quorum: Quorum,
        /// What goes on without a quorum.
        goes_on: Vec<String>,
        /// What waits for one.
        waits: Vec<String>,
        /// Index of the last change that it knows.
        applied_index: u64,
        /// The node that leads.
        leader: Id,
        /// The nodes that vote.
        voters: Vec<Id>,
        /// Bytes of the replicated state, encoded.
        state_bytes: u64,
        /// Size at which changes that make it grow are refused.
        state_limit_bytes: u64,
        /// Certificates of the cluster's authority, PEM.
        authority: String,
        /// Its replacement, while that goes on.
        rotation: Option<Rotation>,
        /// What the members may write.
        cluster_version: u32,
        /// The later version that members are being upgraded to.
        upgrade: Option<Upgrade>,
        /// Why consensus has stopped on the node that answered.
        failure: String,
        /// Nodes.
        nodes: Vec<Node>,
        /// What would go down with one node.
        if_lost: Vec<Loss>,
        /// Services of which something is on no node that answers.
        without_copies: Vec<String>,
        /// Who acts in this cluster's name beside it.
        rivals: Vec<Rival>,
    }
    /// Services that would go down with a node.
    Loss {
        /// The node.
        node_id: Id,
        /// How many would start elsewhere.
        back_elsewhere: usize,
        /// How many would not.
        down_for_long: usize,
        /// Some of those.
        examples: Vec<LossExample>,
    }
    /// A service that would be down for long.
    LossExample {
        /// `app/service`.
        service: String,
        /// Why.
        why: String,
    }
    /// A later version of the cluster, which some members do not support yet.
    Upgrade {
        /// The version.
        to: u32,
        /// Members that do not.
        waits_for: Vec<AwaitedProgram>,
    }
    /// A member that an upgrade waits for.
    AwaitedProgram {
        /// Identity.
        node_id: Id,
        /// Its name.
        name: String,
        /// Version of its program.
        version: String,
        /// The newest cluster version that it supports.
        cluster_version_max: Option<u32>,
    }
    /// The authority that signs the certificates of nodes.
    Authority {
        /// SHA-256 of its key.
        fingerprint: String,
        /// SHA-256 of its certificate.
        certificate_fingerprint: String,
        /// Certificates of all authorities that are trusted, PEM.
        certificates: String,
        /// Its replacement, while that goes on.
        rotation: Option<Rotation>,
    }
    /// Another authority on its way.
    Rotation {
        /// SHA-256 of the new key.
        fingerprint: String,
        /// SHA-256 of the new certificate.
        certificate_fingerprint: String,
        /// What members have to do.
        step: String,
        /// When it was begun.
        begun_at: Moment,
        /// Members that have not done it.
        waits_for: Vec<AwaitedMember>,
    }
    /// A member that a rotation waits for.
    AwaitedMember {
        /// Identity.
        node_id: Id,
        /// Its name.
        name: String,
        /// Since when it does not answer, if it does not.
        absent_since: Moment,
    }
    /// The voters, as one node sees them.
    Quorum {
        /// Voters that have to agree.
        needed: usize,
        /// Voters that answer.
        answering: usize,
        /// Those that do not.
        missing: Vec<MissingVoter>,
    }
    /// A voter that does not answer.
    MissingVoter {
        /// Identity.
        node_id: Id,
        /// Its name.
        name: String,
        /// Host and port between nodes.
        address: String,
        /// Since when it does not answer.
        since: Moment,
    }
    /// Where an instance would go.
    Move {
        /// Its app.
        app_name: String,
        /// Its service.
        service_name: String,
        /// Which replica.
        slot: u32,
        /// Whether its service is down until it runs again.
        goes_down: bool,
        /// Whether it begins with empty volumes there.
        leaves_volumes: bool,
        /// Name of the node it would go to; empty when there is none for it.
        to_node_name: String,
        /// Why there, or why nowhere.
        reasons: Vec<String>,
    }
    /// What only one node has copies of.
    OnlyCopies {
        /// Services that need them.
        services: Vec<String>,
        /// Whether the node has them, or only may.
        is_certain: bool,
    }
    /// What is left until a node is empty, or would be.
    Drain {
        /// The node.
        node_name: String,
        /// Whether it is being emptied.
        draining: bool,
        /// Whether nothing runs there.
        empty: bool,
        /// What runs there.
        instances: Vec<Departure>,
        /// Builds that run there.
        builds: usize,
    }
    /// What becomes of an instance of a node that is emptied.
    Departure {
        /// Its app.
        app_name: String,
        /// Its service.
        service_name: String,
        /// Which replica.
        slot: u32,
        /// What happens to it.
        step: String,
        /// Name of the node where its replica is to run.
        to_node_name: String,
        /// Why.
        reasons: Vec<String>,
    }
    /// An instance that would be elsewhere, or would start.
    Relocation {
        /// Its app.
        app_name: String,
        /// Its service.
        service_name: String,
        /// Which replica.
        slot: u32,
        /// Name of the node where it is; empty when it waits.
        from_node_name: String,
        /// Name of the node where it would be.
        to_node_name: String,
        /// Why.
        reasons: Vec<String>,
    }
    /// A node that was removed.
    RemovedNode {
        /// Identity.
        id: Id,
        /// Its name.
        name: String,
        /// What ran on it.
        moves: Vec<Move>,
    }
    /// A join token.
    JoinToken {
        /// Identity.
        id: Id,
        /// The token itself, when it was made just now.
        token: String,
        /// The members that it names.
        addresses: Vec<String>,
        /// What nodes that join with it may become.
        role: String,
        /// Whether it can be used.
        status: String,
        /// How many nodes may still join.
        uses_left: u32,
        /// Who made it.
        created_by: Id,
        /// Their address.
        created_by_email: String,
        /// When it was made.
        created_at: Moment,
        /// From when it is refused.
        expires_at: Moment,
    }
    /// A node.
    Node {
        /// Identity.
        id: Id,
        /// Name for people.
        hostname: String,
        /// Address.
        address: String,
        /// Port of its API.
        api_port: u16,
        /// Role.
        role: String,
        /// Whether it votes.
        voter: bool,
        /// Whether it leads.
        leader: bool,
        /// Whether it can run containers.
        healthy: bool,
        /// Why it cannot.
        unhealthy_reason: String,
        /// Since when it does not answer, if it does not.
        silent_since: Moment,
        /// Whether it takes no new instances.
        cordoned: bool,
        /// Since when it is being emptied.
        draining_since: Moment,
        /// Processor architecture.
        arch: String,
        /// Version of the program.
        version: String,
        /// The newest cluster version that it supports.
        cluster_version_max: u32,
        /// Container engine.
        engine: String,
        /// What it has.
        resources: Value,
        /// Instances on it that have not ended.
        instances: u64,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// In what it was started unlike the node that answered.
        option_differences: Vec<OptionDifference>,
    }
    /// Somebody who acts in the cluster's name and is not of it.
    Rival {
        /// Host and port between nodes, or the host alone.
        address: String,
        /// What was seen, and what to do.
        why: String,
    }
    /// An option of which two nodes have different values.
    OptionDifference {
        /// Its name.
        option: String,
        /// That of the node that answered.
        here: String,
        /// That of this one.
        there: String,
    }
}

/// What deploying a whole app answers: one deployment or several.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Deployments {
    /// Of all services, in the order of their dependencies.
    Many(Vec<Deployment>),
    /// Of the only one.
    One(Box<Deployment>),
}

impl Deployments {
    /// As a list.
    pub fn into_vec(self) -> Vec<Deployment> {
        match self {
            Self::Many(many) => many,
            Self::One(one) => vec![*one],
        }
    }
}

impl Deployment {
    /// Whether it will not change by itself any more.
    pub fn is_settled(&self) -> bool {
        matches!(self.status.as_str(), "running" | "stopped" | "failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_null_or_new_does_no_harm() {
        let json = serde_json::json!({
            "id": "d1", "version": 3, "status": "running", "reason": null, "log_tail": null, "novelty": {"a": 1},
            "created_at": "2023-11-14T22:13:20.123Z",
            "instances": [{"id": "i1", "node_id": 1, "status": "running", "health": "healthy", "started_at": 1_700_000_000_123_i64}],
        });
        let deployment = Deployment::deserialize(&json).expect("understood");
        assert_eq!(deployment.reason, "");
        assert_eq!(deployment.created_at.0, Some(Timestamp(1_700_000_000_123)));
        assert_eq!(deployment.instances[0].node_id.0, "1");
        assert_eq!(deployment.instances[0].started_at, deployment.created_at);
        assert_eq!(deployment.finished_at, Moment(None));
        assert!(deployment.is_settled());
    }

    #[test]
    fn deploying_an_app_answers_one_or_many() {
        for json in [serde_json::json!({"id": "a"}), serde_json::json!([{"id": "a"}])] {
            let deployments = Deployments::deserialize(&json).expect("understood").into_vec();
            assert_eq!(deployments[0].id.0, "a");
        }
    }
}
