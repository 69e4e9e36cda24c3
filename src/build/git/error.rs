//! What went wrong, by what the user can do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The last lines of git that a message quotes.
const QUOTED_LINES: usize = 3;
const QUOTED_CHARS: usize = 300;

/// Why a repository was not fetched. No variant holds credentials; text of others is escaped and cut.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used: correct it.
    #[error("{repository} cannot be fetched: {reason}")]
    InvalidRepository {
        /// As typed, cut.
        repository: String,
        /// In a clause.
        reason: String,
    },
    /// The reference cannot be used: correct it.
    #[error("the git reference {0}")]
    InvalidRef(String),
    /// The host lies where users may not make this node connect to.
    #[error(
        "{host} is {address}, {reason}, which sources must not be fetched from; an operator can allow loopback and \
         link-local addresses with --allow-loopback-sources"
    )]
    AddressRefused {
        /// As in the address.
        host: String,
        /// What it was resolved to.
        address: std::net::IpAddr,
        /// "a loopback address", …
        reason: &'static str,
    },
    /// The server does not let us in, or says that there is nothing.
    #[error(
        "no access to {repository}: {cause}; check the address, and make the repository readable without a password, since \
         private ones are not supported yet"
    )]
    AccessFailed {
        /// Without credentials.
        repository: String,
        /// What the server said.
        cause: String,
    },
    /// It could not be reached or did not answer like a repository: try again, or look at the server.
    #[error("cannot clone {repository}: {cause}; check that the address is right and that this node can reach it")]
    CloneFailed {
        /// Without credentials.
        repository: String,
        /// What went wrong.
        cause: String,
    },
    /// There is no such branch, tag or commit: choose one that exists.
    #[error("{repository} has no branch, tag or commit {wanted}; {}", existing(exist))]
    RefNotFound {
        /// Without credentials.
        repository: String,
        /// What was asked for.
        wanted: String,
        /// The branches and tags that exist.
        exist: Vec<String>,
    },
    /// It took too long: try again, or use a smaller repository.
    #[error("{repository} {what} for {} s and was given up; try again, or look at the server", after.as_secs())]
    TimedOut {
        /// Without credentials.
        repository: String,
        /// "sent nothing", "was being fetched".
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// Too large to be a source.
    #[error("{repository} has more than {limit} {what}; take large files and generated ones out of the repository")]
    TooLarge {
        /// Without credentials.
        repository: String,
        /// "bytes", "files", …
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
    },
    /// The caller stopped it.
    #[error("fetching was stopped")]
    Stopped,
    /// This node has no usable git: the operator has to install one.
    #[error("cannot run git: {reason}; install git 2.37 or newer on this node")]
    Program {
        /// In a clause.
        reason: String,
    },
    /// The disk of this node.
    #[error("cannot write the source to {}", path.display())]
    Disk {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The stable code for build records and answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRepository { .. } | Self::InvalidRef(_) | Self::AddressRefused { .. } => "invalid_config",
            Self::AccessFailed { .. } => "repository_access_failed",
            Self::CloneFailed { .. } | Self::Program { .. } | Self::Disk { .. } => "clone_failed",
            Self::RefNotFound { .. } => "ref_not_found",
            Self::TimedOut { .. } => "clone_timeout",
            Self::TooLarge { .. } => "source_too_large",
            Self::Stopped => "cancelled",
        }
    }

    /// Whether the same fetch may succeed later, or on another node.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::CloneFailed { .. } | Self::TimedOut { .. } | Self::Program { .. } | Self::Disk { .. })
    }

    /// Reads what git said. Its messages are in English because it runs with the C locale.
    pub(super) fn from_git(repository: &str, stderr: &str) -> Self {
        let repository = repository.to_owned();
        let says = |texts: &[&str]| texts.iter().any(|text| stderr.contains(text));
        if says(&["could not read Username", "could not read Password", "Authentication failed", "returned error: 401"])
        {
            return Self::AccessFailed { repository, cause: "the server asks for a user name and password".to_owned() };
        }
        if says(&["returned error: 403"]) {
            return Self::AccessFailed { repository, cause: "the server refuses access (403)".to_owned() };
        }
        if says(&["returned error: 404", "returned error: 410", "' not found"]) {
            return Self::AccessFailed {
                repository,
                cause: "the server has no repository there, or hides it".to_owned(),
            };
        }
        if says(&["not our ref", "couldn't find remote ref", "unadvertised object"]) {
            return Self::RefNotFound { repository, wanted: "that was asked for".to_owned(), exist: Vec::new() };
        }
        let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("; ");
        let cause = if last.is_empty() { "git gave no reason".to_owned() } else { shown(&last, QUOTED_CHARS) };
        Self::CloneFailed { repository, cause }
    }
}

/// Whether git stopped at a redirect, which it is told not to follow.
pub(super) fn is_redirect(stderr: &str) -> bool {
    ["301", "302", "303", "307", "308"].iter().any(|code| stderr.contains(&format!("returned error: {code}")))
}

/// Quotes text of others: escaped and cut.
pub(super) fn shown(text: &str, chars: usize) -> String {
    let mut shown: String = text.chars().take(chars).flat_map(escape).collect();
    if text.chars().nth(chars).is_some() {
        shown.push('…');
    }
    shown
}

/// Control characters and those that turn the direction of text become visible; letters of all languages stay.
fn escape(c: char) -> impl Iterator<Item = char> {
    let hidden = c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let plain = (!hidden).then_some(c);
    plain.into_iter().chain(hidden.then(|| c.escape_default()).into_iter().flatten())
}

fn existing(exist: &[String]) -> String {
    const NAMED: usize = 20;
    match exist {
        [] => "look which ones exist, or push one".to_owned(),
        few if few.len() <= NAMED => format!("there are: {}", few.join(", ")),
        many => format!("there are: {} and {} more", many[..NAMED].join(", "), many.len() - NAMED),
    }
}
