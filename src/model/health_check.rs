//! How to tell that an instance works.

use serde::{Deserialize, Serialize};

use super::{Invalid, Port, Protocol, check_words};

/// How to tell that an instance works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What to do.
    pub probe: Probe,
    /// Time from one check to the next.
    pub interval_seconds: u32,
    /// Longest time one check may take.
    pub timeout_seconds: u32,
    /// Failures in a row that make an instance unhealthy.
    pub retries: u32,
}

/// One check of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// `GET path` answers with a status from 200 to 399.
    Http {
        /// Path and query, beginning with '/'.
        path: String,
        /// Port inside; the service's first port when absent.
        port: Option<u16>,
    },
    /// A connection is accepted.
    Tcp {
        /// Port inside; the service's first port when absent.
        port: Option<u16>,
    },
    /// A command inside the container exits with 0.
    Command {
        /// Its argument vector.
        command: Vec<String>,
    },
}

impl HealthCheck {
    /// Every rule of a check of a service that listens on these ports, each by the name of its field in the API.
    pub(super) fn check(&self, ports: &[Port], invalid: &mut Invalid) {
        if !(1..=3_600).contains(&self.interval_seconds) {
            invalid.add("health_check.interval_seconds", "must be from 1 to 3600");
        }
        if !(1..=300).contains(&self.timeout_seconds) {
            invalid.add("health_check.timeout_seconds", "must be from 1 to 300");
        }
        if !(1..=100).contains(&self.retries) {
            invalid.add("health_check.retries", "must be from 1 to 100");
        }
        let port = match &self.probe {
            Probe::Http { path, port } => {
                let safe = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
                if !safe || path.len() > 2_048 {
                    invalid.add("health_check.path", "must begin with '/' and hold only printable ASCII");
                }
                *port
            }
            Probe::Tcp { port } => *port,
            Probe::Command { command } => {
                if command.is_empty() {
                    invalid.add("health_check.command", "must have at least one word");
                }
                check_words("health_check.command", command, invalid);
                return;
            }
        };
        match port {
            None if ports.is_empty() => {
                invalid.add("health_check.port", "is required, since the service lists no ports");
            }
            Some(port) if !ports.iter().any(|p| p.container_port == port && p.protocol == Protocol::Tcp) => {
                invalid.add("health_check.port", format!("must be one of the service's TCP ports, got {port}"));
            }
            _ => {}
        }
    }
}
