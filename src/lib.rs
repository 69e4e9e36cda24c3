//! narvana turns a handful of Linux machines into one place to run applications.
//!
//! One binary. Every node serves the API, builds source, runs containers and routes traffic; one Raft group holds what
//! the cluster should be. The modules below are listed from the outside inwards: a module may use only what stands
//! below it in this list, never what stands above (`tests/it/layering.rs` holds this). `docs/architecture.md` is the
//! map.

#[cfg(test)]
mod simulation;

pub mod cli;
pub mod node;

pub mod agent;
pub mod api;
pub mod artifact;
pub mod auth;
pub mod backup;
pub mod build;
pub mod client;
pub mod cluster;
pub mod consensus;
pub mod control;
pub mod decide;
pub mod engine;
pub mod logs;
pub mod model;
pub mod network;
pub mod rpc;
pub mod state;
pub mod store;

// Leaves that all but the pure modules may use.
pub mod clock;
pub mod config;
pub mod handover;
#[cfg(test)]
mod host;
pub mod planted;
pub mod random;
pub mod space;
pub mod task;
pub mod telemetry;
