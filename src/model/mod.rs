//! The nouns and their rules.
//!
//! Plain values: what an App, a Service, a Build, a Deployment, an Instance and a Node are, and what makes one
//! valid. Everything here is pure: no I/O, no clock, no randomness. These types are also the stored form of the
//! replicated state (schema version 1, pinned by golden bytes): add a field only together with a new schema version.
//! Wire types live in `api`, never here.

mod admission;
mod app;
mod build;
mod build_spec;
mod built_image;
mod cluster;
mod cluster_version;
mod dependency;
mod deployment;
mod digest;
mod duration;
mod epoch;
mod health_check;
mod id;
mod image;
mod instance;
mod invalid;
mod name;
mod node;
mod org;
mod quantity;
mod secret;
mod service;
mod setting;
mod source;
mod time;
mod user;
mod word;

pub use admission::{Absence, Admission, COME_BACK, JoinToken, NodeRole, TokenEnd};
pub use app::App;
pub use build::{Artifact, Build, BuildCode, BuildFailure, BuildInput, BuildParts, BuildRecipe, BuildStatus, Lease};
pub use build_spec::{
    BuildConfig, BuildSpec, BuildStrategy, BuildType, DETAILS, Detail, DetailField, DetailKind, Details,
    check_path_in_source,
};
pub use built_image::{BuiltImage, NotBuiltHere, Repository};
pub use cluster::{Cluster, Rotation, RotationStep};
pub use cluster_version::{
    CLUSTER_VERSIONS, ClusterVersion, NEWEST_CLUSTER_VERSION, OLDEST_CLUSTER_VERSION, Unsupported,
    check_cluster_version,
};
pub use dependency::{check_dependencies, dependency_order};
pub use deployment::{Cause, Deployment, DeploymentStatus};
pub use digest::{Digest, MalformedDigest};
pub use duration::{format_duration, parse_duration};
pub use epoch::{Epoch, Origin};
pub use health_check::{HealthCheck, Probe};
pub use id::{
    AppId, BuildId, ClusterId, DeploymentId, Incarnation, InstanceId, JoinTokenId, NodeId, OrgId, RequestId, ServiceId,
    SessionId, SourceId, UserId,
};
pub use image::{check_image, image_by_digest, image_name, is_image_by_tag, is_latest_image, is_local_image};
pub use instance::{Exit, Health, Instance, InstanceState, InstanceStatus, Placement, PortBinding, Relocation};
pub use invalid::{Invalid, Problem, quoted};
pub use name::{
    ARCHITECTURES, DOMAIN_NAME_BYTES_MAX, ENV_KEY_BYTES_MAX, ENV_VALUE_BYTES_MAX, check_app_name, check_architecture,
    check_domain, check_email, check_env, check_env_key, check_env_value, check_flake_uri, check_git_ref,
    check_git_repo, check_label_key, check_label_value, check_nixpkgs, check_node_address, check_node_name,
    check_org_name, check_org_slug, check_password, check_secret_key, check_service_name, git_clone_url,
    slug_from_name,
};
pub use node::{Drain, Node, NodeResources, peer_address};
pub use org::{Membership, Org, Role};
pub use quantity::{Cpu, Memory};
pub use secret::Secret;
pub use service::{Desired, EnvVars, Port, Protocol, RELAY_NETWORK, Resources, Service, ServiceSpec, Volume};
pub use setting::{Setting, SettingKey};
pub use source::{Source, UploadedSource, check_database};
pub use time::Timestamp;
pub use user::{PasswordHash, Session, User};

use service::{check_words, is_inner_path};
