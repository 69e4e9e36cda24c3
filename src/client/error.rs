//! Why a call failed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// Why a call failed, by what its caller can do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address is not one.
    #[error(
        "{address:?} is not the address of an API; give http://host:port or https://host, several separated by commas"
    )]
    Address {
        /// As given.
        address: String,
    },
    /// The token cannot stand in a header.
    #[error("the token holds characters that no token has; log in again, or check NARVANA_TOKEN")]
    Token,
    /// The file of certificates cannot be read.
    #[error("cannot read the certificates in {}; give a PEM file with --ca-cert", path.display())]
    CertificateFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The HTTP client cannot be made: bad certificates, or none on this machine.
    #[error("cannot set up TLS; give the cluster's certificate authority with --ca-cert, or install ca-certificates")]
    Tls(#[source] reqwest::Error),
    /// No node could be reached. Nothing was done.
    #[error("no node answers at {tried}")]
    Unreachable {
        /// The addresses, separated by commas.
        tried: String,
        /// What the last one said.
        source: reqwest::Error,
    },
    /// The node refused, or failed.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The connection broke after the request was sent: whether it was done is unknown.
    #[error("the connection to {from} broke before the answer was complete")]
    Broken {
        /// Which node.
        from: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A stream said nothing for too long.
    #[error("nothing came from {from} for a minute")]
    Silent {
        /// Which node.
        from: String,
    },
    /// The connection to a running command broke: it may go on.
    #[error("the connection to {from} broke ({reason}); the command may go on")]
    Cut {
        /// Which node.
        from: String,
        /// Why.
        reason: String,
    },
    /// The answer is not what this version expects.
    #[error("the answer of {from} was not understood ({reason}); is a node of this version listening there?")]
    Answer {
        /// Which node.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// The file to upload.
    #[error("cannot read {}", path.display())]
    Upload {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The error shape of the API.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// HTTP status; not part of the body.
    #[serde(skip)]
    pub status: u16,
    /// For programs: `not_found`, `conflict`, `no_quorum`, …
    pub code: String,
    /// For people.
    pub message: String,
    /// By field, usually a reason each.
    #[serde(deserialize_with = "details")]
    pub details: BTreeMap<String, Value>,
    /// What to search the node's log for.
    pub request_id: String,
}

/// Answers without details may have `null` there.
fn details<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Value>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.is_empty() {
            true => write!(f, "the node answered with HTTP status {}", self.status)?,
            false => f.write_str(&self.message)?,
        }
        for (field, reason) in &self.details {
            let reason = reason.as_str().map_or_else(|| reason.to_string(), str::to_owned);
            // A message that already names its only field would say everything twice.
            if !self.message.contains(&reason) {
                write!(f, "\n  {field}: {reason}")?;
            }
        }
        if self.status >= 500 && !self.request_id.is_empty() {
            write!(f, " (request {}, for the node's log)", self.request_id)?;
        }
        Ok(())
    }
}

impl Error {
    /// The code of a refusal; empty for every other error.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            _ => "",
        }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == "not_found"
    }

    /// Whether it may pass by itself: a node or a connection is away, or the cluster elects a leader.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Broken { .. } | Self::Silent { .. })
            || matches!(self.code(), "no_quorum" | "outcome_unknown" | "gateway")
    }

    /// Whether somebody answered under a certificate that is not trusted.
    pub fn is_untrusted(&self) -> bool {
        let first = std::error::Error::source(self);
        let mut causes = std::iter::successors(first, |cause| cause.source());
        // What the HTTP library hands on of TLS is text.
        causes.any(|cause| cause.to_string().contains("invalid peer certificate"))
    }

    /// Whether another node may do it: nothing was done, or doing it twice has the effect of once.
    pub(super) fn another_node_may_help(&self, repeatable: bool) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Broken { .. } => repeatable,
            Self::Refused(refusal) => match refusal.code.as_str() {
                "no_quorum" | "disk_full" => true,
                "outcome_unknown" | "gateway" => repeatable,
                _ => false,
            },
            _ => false,
        }
    }

    /// How much it says when every node failed.
    pub(super) fn weight(&self, is_read: bool) -> u8 {
        match (self, self.code()) {
            (Self::Broken { .. }, _) | (_, "outcome_unknown" | "gateway") if !is_read => 3,
            (_, "no_quorum" | "disk_full") => 2,
            (Self::Refused(_), _) => 1,
            _ => 0,
        }
    }

    /// Reads the body of an answer whose status is not a success.
    pub(super) fn from_body(status: u16, body: &[u8]) -> Self {
        let mut refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
        refusal.status = status;
        if refusal.code.is_empty() {
            // Not our shape: a proxy in between, perhaps.
            refusal.code = match status {
                401 => "unauthorized",
                403 => "forbidden",
                404 => "not_found",
                409 => "conflict",
                413 => "too_large",
                429 => "rate_limited",
                // Its node did not answer it.
                502..=504 => "gateway",
                _ => "internal_error",
            }
            .to_owned();
        }
        Self::Refused(Box::new(refusal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_message_and_every_field() {
        let body = br#"{"code":"invalid_request","message":"the service is not valid","details":{"name":"is empty"},"request_id":"r1"}"#;
        let error = Error::from_body(400, body);
        assert_eq!(error.to_string(), "the service is not valid\n  name: is empty");
        assert_eq!(error.code(), "invalid_request");
        let error =
            Error::from_body(500, br#"{"code":"internal_error","message":"broken","details":null,"request_id":"r2"}"#);
        assert_eq!(error.to_string(), "broken (request r2, for the node's log)");
    }

    #[test]
    fn an_answer_of_someone_else_still_has_a_code() {
        let error = Error::from_body(404, b"<html>");
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "the node answered with HTTP status 404");
        assert_eq!(Error::from_body(502, b"").code(), "gateway");
        assert_eq!(Error::from_body(500, b"").code(), "internal_error");
    }
}
