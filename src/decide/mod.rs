//! What should happen next: pure functions from the replicated state to plans with reasons.
//!
//! Comes in: a [`Situation`] (state, time, what the leader heard, options) and a source of ids. Goes out: a [`Plan`] of
//! commands for the leader, actions for a node's agent, routes for its ingress, and explanations for people. The same
//! functions serve the leader, the questions "why is it pending" and the tests. Deliberately absent: doing anything.

pub mod address;
pub(crate) mod alone;
mod builds;
mod cluster_version;
pub mod detect;
pub mod discovery;
pub mod dockerfile;
pub mod drain;
pub mod explain;
pub mod fetching;
#[cfg(test)]
mod fixture;
pub mod flake_lock;
pub mod generate;
pub mod isolation;
pub mod layers;
pub mod leftovers;
pub mod liveness;
mod lost;
pub mod members;
mod plan;
pub mod probe;
pub mod rebalance;
pub mod reconcile;
pub mod reuse;
mod rollout;
pub mod route_table;
mod routes;
pub mod schedule;
mod sweep;
pub mod what_if;

pub use explain::Explanation;
pub use plan::{Ids, Options, Plan, Situation, plan};
pub use routes::{entrance, routes};
pub use sweep::sweep;
