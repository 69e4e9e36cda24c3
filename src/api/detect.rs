//! Looking at a repository before a service is made of it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::build::{InspectError, Inspected, Repository, git, tree};
use crate::decide::detect::Detection;
use crate::model::{BuildCode, Invalid, check_git_ref, check_git_repo, check_path_in_source, git_clone_url};

use super::Error;
use super::extract::Write;
use super::gate::Gate;

/// When to ask again while others look.
const BUSY_PAUSE: Duration = Duration::from_secs(10);

/// Which repository to look at.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DetectRequest {
    /// As in a service's `git_repo`.
    git_url: String,
    /// Branch, tag or commit; `main`, or the repository's default branch, when absent.
    git_ref: Option<String>,
    /// The folder in it that is looked at, as in `build_config`.
    root_directory: Option<String>,
}

/// What a source is, and how it would be built.
#[derive(Serialize, ToSchema)]
#[schema(as = Detection)]
struct DetectionView {
    /// `flake`, `dockerfile`, `auto-go`, `auto-rust`, `auto-node`, `auto-python` or `nixpacks`.
    strategy: &'static str,
    /// `generic`, `nextjs`, `express`, `react`, `fastify`, `django`, `fastapi` or `flask`.
    framework: &'static str,
    /// Version of the language (of Rust: the edition) that it asks for, or the usual one.
    version: Option<String>,
    /// The exact toolchain that it asks for, when it does.
    toolchain: Option<String>,
    /// Values for fields of `build_config` that follow from its files.
    #[schema(value_type = Object)]
    suggested_config: Value,
    /// `oci` or `pure-nix`.
    recommended_build_type: &'static str,
    /// Programs in it, the default first.
    entry_points: Vec<EntryPointView>,
    /// Where programs of this kind listen when nobody says otherwise.
    port: Option<u16>,
    /// From 0 to 1: how sure this is.
    confidence: f64,
    /// What works and deserves a word, or will not work unless something is done.
    warnings: Vec<String>,
    /// What else it could be built with.
    alternatives: Vec<AlternativeView>,
}

/// A program in a source.
#[derive(Serialize, ToSchema)]
#[schema(as = EntryPoint)]
struct EntryPointView {
    name: String,
    /// Relative to the folder that was looked at; `.` for that itself.
    path: String,
    /// Whether it is taken when nobody says otherwise.
    is_default: bool,
}

/// Another way to build the same source.
#[derive(Serialize, ToSchema)]
#[schema(as = DetectionAlternative)]
struct AlternativeView {
    strategy: &'static str,
    /// The file that says so.
    because: String,
}

/// What a repository is.
#[derive(Serialize, ToSchema)]
#[schema(as = RepositoryDetection)]
pub(super) struct InspectedView {
    #[serde(flatten)]
    detection: DetectionView,
    /// The commit that was looked at.
    git_commit: String,
    /// The branch that was looked at, when no reference was asked for.
    default_branch: Option<String>,
}

impl From<&Detection> for DetectionView {
    fn from(found: &Detection) -> Self {
        let entry_points = found.entry_points.iter().cloned();
        let alternatives = found.alternatives.iter().cloned();
        Self {
            strategy: found.strategy.as_str(),
            framework: found.framework.as_str(),
            version: found.version.clone(),
            toolchain: found.toolchain.clone(),
            suggested_config: found.suggested.iter().map(|(field, value)| (*field, value.clone())).collect(),
            recommended_build_type: found.build_type.as_str(),
            entry_points: entry_points
                .map(|it| EntryPointView { name: it.name, path: it.path, is_default: it.is_default })
                .collect(),
            port: found.port,
            confidence: f64::from(found.confidence) / 100.0,
            warnings: found.warnings.clone(),
            alternatives: alternatives
                .map(|it| AlternativeView { strategy: it.strategy.as_str(), because: it.because })
                .collect(),
        }
    }
}

/// Look at a repository
///
/// Clones it on the node that is asked, says what it is and how it would be built, and throws it away; takes as long as the clone, a
/// minute at most. When that cannot be said, the status is 422, and `details` has a `build_code` and suggestions.
#[utoipa::path(post, path = "/v1/detect", tag = "deployments", request_body = DetectRequest,
    responses((status = 200, body = InspectedView)))]
pub(super) async fn detect(
    State(gate): State<Gate>,
    Write(_change, asked): Write<DetectRequest>,
) -> Result<Json<InspectedView>, Error> {
    let DetectRequest { git_url, git_ref, root_directory } = asked;
    let reference = git_ref.filter(|reference| !reference.is_empty());
    let mut invalid = Invalid::default();
    invalid.check("git_url", check_git_repo(&git_url));
    if let Some(reference) = &reference {
        invalid.check("git_ref", check_git_ref(reference));
    }
    if let Some(folder) = &root_directory {
        invalid.check("root_directory", check_path_in_source(folder));
    }
    invalid.into_result()?;
    let named = reference.is_some();
    let repository = Repository { url: git_clone_url(&git_url), reference, folder: root_directory };
    let Inspected { detection, fetched } = gate.inspector().inspect(repository).await?;
    let branch = fetched.reference.strip_prefix("refs/heads/").filter(|_| !named);
    Ok(Json(InspectedView {
        detection: DetectionView::from(&detection),
        git_commit: fetched.commit,
        default_branch: branch.map(str::to_owned),
    }))
}

impl From<InspectError> for Error {
    fn from(error: InspectError) -> Self {
        let message = error.to_string();
        let source = |code: BuildCode, next: &str| {
            let suggestions = vec![next.to_owned()];
            Self::Source { code: code.as_str(), message: message.clone(), suggestions }
        };
        match error {
            InspectError::Busy => Self::RateLimited { message, retry_after: BUSY_PAUSE },
            InspectError::Full(_) => Self::DiskFull(message),
            InspectError::Fetch(error) => match error {
                git::Error::InvalidRepository { .. } | git::Error::AddressRefused { .. } => {
                    Self::field("git_url", message)
                }
                git::Error::InvalidRef(_) | git::Error::RefNotFound { .. } => Self::field("git_ref", message),
                git::Error::TimedOut { .. } => source(BuildCode::BuildTimeout, "try again, or look at the server"),
                git::Error::TooLarge { .. } => source(BuildCode::InvalidConfig, "make the repository smaller"),
                git::Error::AccessFailed { .. } | git::Error::CloneFailed { .. } => source(
                    BuildCode::RepositoryAccessFailed,
                    "check the address, and that the repository can be read without a password",
                ),
                git::Error::Stopped => Self::NoQuorum("this node stops; ask another one".to_owned()),
                git::Error::Program { .. } | git::Error::Disk { .. } => Self::internal(message),
            },
            InspectError::Folder(_) => Self::field("root_directory", message),
            InspectError::Tree(tree::Error::Path { .. } | tree::Error::TooLarge { .. }) => {
                source(BuildCode::InvalidConfig, "correct the repository")
            }
            // No fault of the source.
            InspectError::Unbuildable { code: BuildCode::Infrastructure, .. } => Self::NoQuorum(message),
            InspectError::Unbuildable { code, next_step, .. } => source(code, &next_step),
            InspectError::Tree(_) | InspectError::Disk { .. } => Self::internal(message),
            InspectError::Undetected(undetected) => {
                Self::Source { code: undetected.code.as_str(), message, suggestions: undetected.suggestions }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::detect::{Alternative, Answer, Contents, Listing, detect};
    use crate::model::BuildStrategy;

    /// What is described and what is kept with builds and printed by the command line is one form.
    #[test]
    fn a_detection_is_the_same_everywhere() {
        let files = [("go.mod", "module m\ngo 1.22\n"), ("main.go", "package main\n"), ("Dockerfile", "")];
        let listing = Listing::new(files.iter().map(|(path, _)| (*path).to_owned()).collect());
        let contents: Contents =
            files.iter().map(|(path, text)| ((*path).to_owned(), Ok((*text).to_owned()))).collect();
        let Answer::Found(mut found) = detect(&listing, &contents) else { panic!("it is found") };
        found.alternatives.push(Alternative { strategy: BuildStrategy::AutoGo, because: "go.mod".to_owned() });
        let described = serde_json::to_value(DetectionView::from(&*found)).expect("JSON");
        assert_eq!(described, found.to_json());
    }
}
