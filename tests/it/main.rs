//! Tests that need more than one module, all in this process.

mod api_detect;
mod api_errors;
mod api_server;
mod api_services;
mod api_streams;
mod api_support;
mod api_walk;
mod cli;
mod cli_client;
mod detect;
mod documents;
#[path = "../support/git_server.rs"]
#[expect(dead_code, reason = "other tests have other servers")]
mod git_server;
mod hostile;
mod layering;
mod scheduling;
