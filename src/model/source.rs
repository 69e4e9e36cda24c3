//! Where services come from, and uploaded source trees.

use serde::{Deserialize, Serialize};

use super::{
    Invalid, Problem, ServiceId, SourceId, Timestamp, check_flake_uri, check_git_ref, check_git_repo, check_image,
    quoted,
};

/// Where a service comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A git repository.
    Git {
        /// Its address as the user wrote it.
        repo: String,
        /// Branch, tag or commit; the repository's default branch when empty.
        reference: String,
    },
    /// A source tree uploaded by the user.
    Upload,
    /// A flake.
    Flake {
        /// Its reference.
        uri: String,
    },
    /// An image that exists.
    Image {
        /// Its reference.
        image: String,
    },
    /// A database managed by the platform.
    Database {
        /// Which kind.
        kind: String,
        /// Which version of it.
        version: String,
    },
}

impl Source {
    /// The `source_type` of the API.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Git { .. } => "git",
            Self::Upload => "upload",
            Self::Flake { .. } => "flake",
            Self::Image { .. } => "image",
            Self::Database { .. } => "database",
        }
    }

    /// Whether an artifact has to be built from it.
    pub fn needs_build(&self) -> bool {
        !matches!(self, Self::Image { .. })
    }

    /// Every rule of a source, each by the name of its field in the API.
    pub(super) fn check(&self, invalid: &mut Invalid) {
        match self {
            Self::Git { repo, reference } => {
                invalid.check("git_repo", check_git_repo(repo));
                if !reference.is_empty() {
                    invalid.check("git_ref", check_git_ref(reference));
                }
            }
            Self::Upload => {}
            Self::Flake { uri } => invalid.check("flake_uri", check_flake_uri(uri)),
            Self::Image { image } => invalid.check("image", check_image(image)),
            Self::Database { kind, version } => invalid.check("database", check_database(kind, version)),
        }
    }
}

/// A kind of database and one of its versions.
pub fn check_database(kind: &str, version: &str) -> Result<(), Problem> {
    let versions: &[&str] = match kind {
        "postgres" => &["14", "15", "16", "17"],
        "mysql" => &["8.0", "8.4"],
        "mariadb" => &["10", "10.11", "11", "11.4"],
        "mongodb" => &["6.0", "7.0"],
        "redis" => &["6", "7", "7.0", "7.2"],
        "sqlite" => &["3"],
        _ => {
            return Err(Problem::new(format!(
                "type must be postgres, mysql, mariadb, mongodb, redis or sqlite, got {}",
                quoted(kind)
            )));
        }
    };
    if versions.contains(&version) {
        return Ok(());
    }
    Err(Problem::new(format!("version of {kind} must be one of {}, got {}", versions.join(", "), quoted(version))))
}

/// That a source tree was uploaded for a service. The bytes lie in the artifact store under their digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadedSource {
    /// Identity.
    pub id: SourceId,
    /// For which service.
    pub service: ServiceId,
    /// SHA-256 of the archive, lower-case hex; also its name in the artifact store.
    pub sha256: String,
    /// Size of the archive.
    pub bytes: u64,
    /// When it was uploaded.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases() {
        for (kind, version) in [("postgres", "17"), ("mariadb", "10"), ("redis", "7.2"), ("sqlite", "3")] {
            assert_eq!(check_database(kind, version), Ok(()));
        }
        assert!(check_database("postgres", "13").is_err());
        assert!(check_database("oracle", "1").is_err());
    }
}
