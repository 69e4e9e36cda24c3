//! How a command ended, as scripts see it.

use std::fmt;
use std::io;

use crate::{client, cluster, node, store};

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The thing does not exist.
    NotFound,
    /// Somebody else was faster, or a name is taken.
    Conflict,
    /// The cluster cannot decide anything now.
    NoQuorum,
    /// It goes on, but the wait for it has ended.
    StillRunning,
    /// The data folder is damaged, of another node or version, or of a node that was removed: starting again does not help (`EX_CONFIG`, which
    /// systemd can be told not to restart on).
    DataFolder,
    /// The user interrupted it (Ctrl-C), as shells say it.
    Interrupted,
    /// A command in an instance ended like this.
    Command(u8),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::NoQuorum => 5,
            Self::StillRunning => 6,
            Self::DataFolder => 78,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }
}

/// A failure that a command found by itself: what, why, and what to do, with its exit code.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with an exit code of its own.
pub(super) fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}

/// The exit code of an error.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if is_broken_pipe(error) {
        return Exit::Done;
    }
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if cause.is::<node::Removed>() {
            return Exit::DataFolder;
        }
        if cause.downcast_ref::<store::Error>().is_some_and(store::Error::is_unusable_folder)
            || matches!(
                cause.downcast_ref(),
                Some(cluster::Error::BadIdentity { .. } | cluster::Error::NewerIdentity { .. })
            )
        {
            return Exit::DataFolder;
        }
        if let Some(error) = cause.downcast_ref::<client::Error>() {
            return match (error.code(), error) {
                ("not_found" | "gone", _) => Exit::NotFound,
                ("conflict", _) => Exit::Conflict,
                ("no_quorum", _) => Exit::NoQuorum,
                (_, client::Error::Address { .. }) => Exit::Usage,
                _ => Exit::Failed,
            };
        }
    }
    Exit::Failed
}

/// Whoever read our output has seen enough. That is not an error.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(broken)
}

/// What to do about an error, where its message does not say.
fn next_step(error: &client::Error) -> Option<&'static str> {
    match (error.code(), error) {
        // That was the log-in.
        ("unauthorized", client::Error::Refused(refusal)) if refusal.message.contains("password") => None,
        ("unauthorized", _) => Some("log in with `narvana login`, or set NARVANA_TOKEN"),
        ("forbidden", client::Error::Refused(refusal)) if refusal.message.contains("role") => {
            Some("`narvana whoami` shows who you are; an owner of the organisation can raise your role")
        }
        ("no_quorum", _) => Some("`narvana status` shows which nodes are missing"),
        ("outcome_unknown" | "gateway", _) => Some("look whether it was done before you repeat it"),
        ("rate_limited", _) => Some("wait a moment, then repeat it"),
        (_, client::Error::Unreachable { .. }) if error.is_untrusted() => Some(
            "a node answers, with a certificate that is not trusted here: name the cluster's authority with --ca-cert (`ca.crt` in the \
             data folder of a node); after `narvana ca rotate` it is another one",
        ),
        (_, client::Error::Unreachable { .. }) => {
            Some("start a node with `narvana init` or `narvana run`, or name another one with --api")
        }
        (_, client::Error::Broken { .. }) => Some("look whether it was done before you repeat it"),
        (_, client::Error::Silent { .. }) => Some("check the network and the node, then repeat it"),
        _ => None,
    }
}

/// The error as people read it: what, each cause once, the next step.
pub(super) fn report(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        // The layers of an HTTP library help nobody; what the system said does.
        let is_http = cause.is::<reqwest::Error>();
        let cause_text = if is_http { error.root_cause() } else { cause }.to_string();
        // Libraries differ in whether a message repeats its source.
        if last != cause_text && !last.ends_with(&format!(": {cause_text}")) {
            text.push_str("\n  because: ");
            text.push_str(&cause_text);
        }
        if is_http {
            break;
        }
        last = cause_text;
    }
    let step = error.chain().find_map(|cause| next_step(cause.downcast_ref()?));
    if let Some(step) = step {
        text.push_str("\n  next: ");
        text.push_str(step);
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn refused(status: u16, code: &str) -> anyhow::Error {
        let refusal = client::Refusal { status, code: code.into(), message: "no".into(), ..client::Refusal::default() };
        client::Error::Refused(Box::new(refusal)).into()
    }

    #[test]
    fn exit_codes() {
        for (error, exit) in [
            (refused(404, "not_found"), 3),
            (refused(410, "gone"), 3),
            (refused(409, "conflict"), 4),
            (refused(503, "no_quorum"), 5),
            (refused(401, "unauthorized"), 1),
            (refused(400, "invalid_request"), 1),
            (client::Error::Address { address: "x".into() }.into(), 2),
            (failure(Exit::StillRunning, "goes on"), 6),
            (failure(Exit::Usage, "wrong"), 2),
            (failure(Exit::Interrupted, "enough"), 130),
            (store::Error::KeyMissing { path: "node.key".into() }.into(), 78),
            (store::Error::FoundDamaged { reason: "raft.redb is damaged".into() }.into(), 78),
            (store::Error::InUse { path: "raft.redb".into() }.into(), 1),
            (anyhow::anyhow!("something"), 1),
            (io::Error::from(io::ErrorKind::BrokenPipe).into(), 0),
            (io::Error::from(io::ErrorKind::NotFound).into(), 1),
        ] {
            assert_eq!(exit_of(&error).code(), exit, "{error:?}");
            let wrapped = Err::<(), _>(error).context("cannot do it").expect_err("an error");
            assert_eq!(exit_of(&wrapped).code(), exit, "{wrapped:?}");
        }
    }

    #[test]
    fn a_report_says_what_why_and_what_next() {
        let error = Err::<(), _>(refused(401, "unauthorized")).context("cannot list apps").expect_err("an error");
        assert_eq!(
            report(&error),
            "error: cannot list apps\n  because: no\n  next: log in with `narvana login`, or set NARVANA_TOKEN"
        );
        assert_eq!(report(&anyhow::anyhow!("a: b").context("a: b")), "error: a: b");
    }
}
