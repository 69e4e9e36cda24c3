//! Traffic: how requests from outside reach instances, and how services of an app reach each other across nodes.
//!
//! Comes in: connections of clients and the [`RouteTable`](crate::decide::route_table::RouteTable) through a watch
//! channel; connections of containers and the [`Discovery`](crate::decide::discovery::Discovery) of each app. Goes out:
//! requests and bytes to instances, and an [`IngressHandle`] that answers what is open where, so that a
//! rollout can drain an instance before it stops it. Instances of other nodes are reached through them ([`Reach`], which
//! `rpc` implements). What any server of connections needs against hostile clients
//! ([`Watched`], [`Crowd`]) stands here too; the API uses it. Deliberately absent: who is healthy and which host belongs to
//! whom (`decide`), TLS and certificates, DNS.

mod crowd;
mod error;
mod framing;
mod ingress;
mod reach;
mod relay;

pub use crowd::{Crowd, Entered, customer};
pub use error::Error;
pub use framing::{Flaw, Verdict, Watched};
pub use ingress::{Ingress, IngressHandle, IngressNumbers, InstanceNumbers, Limits, Options};
pub use reach::{Carries, Reach, ReachError, Wire};
pub use relay::{Discoveries, Relay};
