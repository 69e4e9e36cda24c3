//! What each part of a node is told: from the configuration, the machine and the state.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use sha2::{Digest, Sha256};

use crate::auth::Tokens;
use crate::cluster::Identity;
use crate::config::{NodeConfig, cluster_versions, test_setting};
use crate::consensus::{self, Consensus};
use crate::model::{ClusterId, Cpu, Incarnation, Lease, Memory, NodeResources, Secret, format_duration};
use crate::network::IngressHandle;
use crate::rpc::{SharedOption, SharedOptions};
use crate::state::NodeFacts;
use crate::{api, build, decide, engine};

use super::api_certificate::ApiCertificate;
use super::machine;

/// What is on record of a node's engine until it has looked for one.
pub(super) const LOOKING: &str = "this node has just started and is looking for its container engine";

pub(super) fn consensus_options(config: &NodeConfig) -> consensus::Options {
    let mut options = consensus::Options::of_threshold(config.health_threshold);
    // Tests of crashes while a snapshot is made do not write ten thousand entries first.
    if let Some(entries) = test_setting("NARVANA_SNAPSHOT_ENTRIES").and_then(|text| text.parse().ok()) {
        options.snapshot_entries = entries;
        options.keep_entries = entries / 2;
    }
    options
}

pub(super) fn api_options(
    config: &NodeConfig,
    consensus: &Consensus,
    certificate: Arc<ApiCertificate>,
    setup_token: &str,
    ingress: Option<&IngressHandle>,
) -> anyhow::Result<api::Options> {
    let state = consensus.latest().state;
    let cluster = state.cluster().context("the state has no cluster: the data folder is incomplete")?;
    certificate.make(cluster)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(api::Options {
        bind: config.api.0,
        port: config.api.1,
        allow_plain_http: config.allow_plain_http,
        tls: Some(Arc::new(tls)),
        tokens: Tokens::new(config.jwt_secret.clone(), config.jwt_expiry),
        setup_token: Some(Secret::new(setup_token)).filter(|token| !token.expose().is_empty()),
        allow_loopback_sources: config.allow_loopback_sources,
        ingress_port: ingress.map(|ingress| ingress.address().port()),
        decide: decide_options(config),
        ..api::Options::default()
    })
}

pub(super) fn node_facts(
    config: &NodeConfig,
    host: String,
    identity: Identity,
    incarnation: Incarnation,
    resources: NodeResources,
    (api_port, grpc_port): (u16, u16),
    ingress: Option<&IngressHandle>,
) -> NodeFacts {
    NodeFacts {
        id: identity.node,
        name: config.name.clone(),
        address: host,
        api_port,
        grpc_port,
        ingress_http_port: ingress.map_or(0, |ingress| ingress.address().port()),
        arch: machine::architecture().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_version_max: *cluster_versions().end(),
        engine: Err(LOOKING.to_owned()),
        resources,
        labels: config.labels.clone(),
        incarnation,
    }
}

/// Tells what this node runs from what other nodes of this machine run.
pub(super) fn scope(identity: Identity) -> String {
    format!("{}-{}", identity.cluster, identity.node)
}

/// Where to look for the engine. `scope` tells what this node runs from what other nodes of this machine run.
pub(super) fn engine_options(config: &NodeConfig, folder: &Path, scope: String) -> engine::Options {
    engine::Options {
        engine: config.engine.clone(),
        podman_socket: config.podman_socket.clone(),
        docker_host: config.docker_host.clone(),
        ..engine::Options::new(folder.to_owned(), scope, config.runtime_dir.clone())
    }
}

pub(super) fn build_options(
    config: &NodeConfig,
    cluster: ClusterId,
    lease: Lease,
    resources: NodeResources,
) -> build::Options {
    build::Options {
        cluster,
        lease,
        work_dir: config.build_dir.clone(),
        timeout: config.build_timeout,
        // Builds leave the node itself room to answer.
        cpu: config.build_cpu.unwrap_or_else(|| Cpu::from_millis(resources.cpu.millis * 9 / 10)),
        memory: config.build_memory.unwrap_or(Memory { bytes: resources.memory.bytes / 2 }),
        allow_loopback: config.allow_loopback_sources,
        arch: machine::architecture(),
        nix: build::NixOptions {
            substituters: config.nix_substituters.clone(),
            trust_flakes: config.trust_flakes,
            nixpkgs: config.nixpkgs.clone(),
            kept: config.data_dir.join("nix"),
        },
    }
}

/// What this node was started with that decides for the whole cluster.
pub(super) fn shared_options(config: &NodeConfig, ClusterId(cluster): ClusterId) -> SharedOptions {
    let own = |option, value| SharedOption { option, value, is_secret: false };
    // Tells keys apart and says nothing of them: of another cluster even that is another one.
    let key = config.jwt_secret.as_ref().map(|secret| {
        let digest = Sha256::new().chain_update(cluster.as_bytes()).chain_update(secret.expose()).finalize();
        hex::encode(&digest[..8])
    });
    SharedOptions::new(vec![
        own("worker-max-concurrency", config.builds_max.to_string()),
        own("scheduler-max-retries", config.rollout_attempts.to_string()),
        own("scheduler-deployment-timeout", format_duration(config.deployment_timeout)),
        own("scheduler-health-threshold", format_duration(config.health_threshold)),
        own("jwt-expiry", format_duration(config.jwt_expiry)),
        own("allow-loopback-sources", config.allow_loopback_sources.to_string()),
        own("nixpkgs", config.nixpkgs.clone()),
        SharedOption { option: "jwt-secret", value: key.unwrap_or_else(|| "none".to_owned()), is_secret: true },
    ])
}

/// The same for the leader, which decides, and the API, which explains.
pub(super) fn decide_options(config: &NodeConfig) -> decide::Options {
    decide::Options {
        builds_per_node: config.builds_max,
        rollout_attempts: config.rollout_attempts,
        room_deadline: config.deployment_timeout,
        cluster_version_max: *cluster_versions().end(),
        ..decide::Options::default()
    }
}
