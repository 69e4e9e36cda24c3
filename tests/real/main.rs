//! Tests against real parts: container engines and whole nodes as processes. They fail, and do not skip, when a part
//! is missing: `scripts/setup.sh --tests` installs all of them.

mod engine;
#[path = "../support/git_server.rs"]
#[expect(dead_code, reason = "shared with the tests of git, which use more of it")]
mod git_server;
mod harness;
mod node;
mod torture;
