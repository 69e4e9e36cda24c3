//! REST for people and tools: one file per resource, wire types, errors, and the server.
//!
//! In come HTTP requests on one port, plain or TLS. A handler gets a [`crate::auth::Caller`] and through it the objects
//! the caller may act on; it answers from the replicated state as of one index, or proposes one command and answers from
//! the state that has it. Out go JSON, event streams, and the OpenAPI document that is generated from these handlers.
//!
//! Absent on purpose: rules about values (`model`), what a change means (`state`), who may do what (`auth`), and the
//! pages for browsers (`web`). Wire types live here and nowhere else; secrets, hashes and keys have none.

#[cfg(test)]
mod access;
mod app;
mod authority;
mod backup;
mod bookmark;
mod build;
mod build_config;
mod census;
mod change;
mod config;
mod connection;
mod context;
mod deploy;
mod deployment;
mod detect;
mod docs;
mod dotenv;
mod drain;
mod env;
mod error;
mod exec;
mod explain;
mod extract;
mod finish;
mod gate;
mod health;
mod instance;
mod join_token;
mod json;
mod log;
mod log_stream;
mod node;
mod node_action;
mod openapi;
mod options;
mod org;
mod page;
mod preview;
mod rebalance;
mod replica;
mod router;
mod server;
mod service;
mod service_action;
mod service_input;
mod service_output;
mod session;
mod setting;
mod source;
mod source_host;
mod sse;
mod status;
mod user;
mod watch;

use error::Error;

pub use context::Peer;
pub use dotenv::parse as parse_dotenv;
pub use options::{Options, Parts};
pub use router::router;
pub use server::{Server, StartError};
