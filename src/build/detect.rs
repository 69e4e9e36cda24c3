//! What a source is: reads for `decide::detect` what that asks for.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::artifact::Fetcher;
use crate::decide::detect::{Answer, Contents, Detection, Listing, Undetected, Want, detect, detect_as};
use crate::decide::generate::{Asked, Recipe, Unplanned, generate};
use crate::model::{BuildCode, BuildRecipe, BuildStrategy};
use crate::space::{Full, Space, Use};
use crate::task::{OnError, Supervisor, blocking};

use super::archive::what_is_packed;
use super::job::{Failure, SPACE_LOOK_EVERY};
use super::preview::{Preview, Previewed, preview};
use super::recipe::{Document, RecipeError};
use super::tree::{self, Kind, Limits, Tree, folder_inside, head_inside};
use super::{git, source};

/// Repositories that are looked at on one node at once: each is a copy of all its files on the disk.
const INSPECTIONS_MAX: usize = 2;
/// Longest time to fetch one; somebody waits, the command line for 90 s.
const FETCH_MAX: Duration = Duration::from_secs(60);

/// Looks at a source that was listed, for somebody who builds it in this way if that is given. Blocks.
///
/// # Errors
/// Why it cannot be said.
pub fn detect_in(tree: &Tree, strategy: Option<BuildStrategy>) -> Result<Detection, Undetected> {
    let say = |listing: &Listing, contents: &Contents| match strategy {
        None => detect(listing, contents),
        Some(strategy) => detect_as(strategy, listing, contents),
    };
    ask(tree, |listing, contents| match say(listing, contents) {
        Answer::Found(detection) => Ok(Ok(*detection)),
        Answer::NotFound(undetected) => Ok(Err(undetected)),
        Answer::Wants(wants) => Err(wants),
    })
}

/// How a flake builds what was found in a source. Blocks.
///
/// # Errors
/// Why none does.
pub(super) fn recipe_in(tree: &Tree, asked: &Asked<'_>) -> Result<Recipe, Unplanned> {
    ask(tree, |listing, contents| generate(listing, contents, asked))
}

/// Asks until nothing more has to be read to say.
fn ask<T>(tree: &Tree, say: impl Fn(&Listing, &Contents) -> Result<T, Vec<Want>>) -> T {
    // A name that is no text is none that anything asks for.
    let files =
        tree.entries().iter().filter(|entry| entry.kind != Kind::Folder).filter_map(|entry| entry.path.to_str());
    let listing = Listing::new(files.map(str::to_owned).collect());
    let mut contents = Contents::new();
    loop {
        match say(&listing, &contents) {
            Ok(said) => return said,
            Err(wants) => contents.extend(wants.into_iter().map(|want| {
                let text = read(tree.root(), &want);
                (want.path, text)
            })),
        }
    }
}

fn read(root: &Path, want: &Want) -> Result<String, String> {
    let bytes = u64::from(want.bytes);
    let read = head_inside(root, &want.path, bytes + 1).map_err(|error| error.to_string())?;
    let mut head = read.ok_or("the link leads nowhere")?;
    if want.whole && head.len() as u64 > bytes {
        return Err(format!("it is larger than {} KiB", bytes >> 10));
    }
    head.truncate(want.bytes as usize);
    match String::from_utf8(head) {
        Err(_) if want.whole => Err("it is no text in UTF-8".to_owned()),
        Err(error) => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        Ok(text) => Ok(text),
    }
}

/// A repository to be looked at.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Where to clone it from.
    pub url: String,
    /// Branch, tag or commit; without, as [`git::fetch`] chooses.
    pub reference: Option<String>,
    /// The folder in it that is looked at; without, all of it.
    pub folder: Option<String>,
}

/// What was found in a repository.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it is.
    pub detection: Detection,
    /// What exactly was looked at.
    pub fetched: git::Fetched,
}

/// Why a repository was not looked at, or nothing was found in it.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Ask again later.
    #[error("this node looks at {INSPECTIONS_MAX} repositories already, which is the most; ask again in a moment")]
    Busy,
    /// The node has no space for it.
    #[error(transparent)]
    Full(#[from] Full),
    /// It was not fetched.
    #[error(transparent)]
    Fetch(#[from] git::Error),
    /// There is no such folder in it.
    #[error(transparent)]
    Folder(tree::Error),
    /// Its files cannot be looked at.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// It was looked at in vain.
    #[error("{}", .0.message)]
    Undetected(Undetected),
    /// It could not be built.
    #[error("{message}")]
    Unbuildable {
        /// Which kind of reason.
        code: BuildCode,
        /// The reason.
        message: String,
        /// What to do about it.
        next_step: String,
    },
    /// The node's disk failed.
    #[error("cannot keep a repository in {}: {source}", folder.display())]
    Disk {
        /// Where.
        folder: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Looks at repositories before anybody builds them, and at how they were built. Clones share the places.
#[derive(Clone)]
pub struct Inspector {
    folder: PathBuf,
    space: Space,
    allow_loopback: bool,
    artifacts: Fetcher,
    nixpkgs: String,
    places: Arc<Semaphore>,
    supervisor: Supervisor,
}

impl Inspector {
    /// `folder` is where repositories lie while they are looked at; it exists, and is emptied by whoever makes it. `nixpkgs` is that of the
    /// builder of this node.
    pub fn new(
        folder: PathBuf,
        space: Space,
        allow_loopback: bool,
        artifacts: Fetcher,
        nixpkgs: String,
        supervisor: Supervisor,
    ) -> Self {
        let places = Arc::new(Semaphore::new(INSPECTIONS_MAX));
        Self { space: space.at(&folder), folder, allow_loopback, artifacts, nixpkgs, places, supervisor }
    }

    /// How a build was done, from any node that has kept it.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub async fn recipe(&self, recipe: &BuildRecipe) -> Result<Document, RecipeError> {
        Document::read(&self.artifacts, recipe).await
    }

    /// Fetches a repository, looks at it, and throws it away. Whoever leaves ends it: its place is free, and its files are gone, a
    /// little later.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn inspect(&self, repository: Repository) -> Result<Inspected, InspectError> {
        self.in_place(async move |own, files, stop| own.look_in(files, repository, &stop).await).await
    }

    /// Fetches the source of a service and says how it would be built, as [`Self::inspect`] does.
    ///
    /// # Errors
    /// [`InspectError`].
    pub async fn preview(&self, asked: Previewed) -> Result<Preview, InspectError> {
        self.in_place(async move |own, files, stop| own.preview_in(files, asked, &stop).await).await
    }

    /// Does something with an empty folder, in one of the places.
    async fn in_place<T, W>(
        &self,
        work: impl FnOnce(Self, PathBuf, CancellationToken) -> W + Send + 'static,
    ) -> Result<T, InspectError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, InspectError>> + Send,
    {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| InspectError::Busy)?;
        let stop = self.supervisor.stopping().child_token();
        let _left = stop.clone().drop_guard();
        let (answer, answered) = oneshot::channel();
        let own = self.clone();
        self.supervisor.spawn("inspection", OnError::Log, async move {
            let found = own.in_folder(|files| work(own.clone(), files, stop)).await;
            drop(place);
            // Whoever asked may have left.
            let _left = answer.send(found);
            Ok::<(), Infallible>(())
        });
        answered.await.unwrap_or(Err(InspectError::Fetch(git::Error::Stopped)))
    }

    async fn in_folder<T, W>(&self, work: impl FnOnce(PathBuf) -> W) -> Result<T, InspectError>
    where
        W: Future<Output = Result<T, InspectError>>,
    {
        self.space.check(Use::Bulk)?;
        let disk = |source| InspectError::Disk { folder: self.folder.clone(), source };
        let within = self.folder.clone();
        let made = blocking(move || {
            let folder = tempfile::Builder::new().prefix("detect-").tempdir_in(within)?;
            std::fs::create_dir(folder.path().join("source"))?;
            Ok(folder)
        });
        let folder = made.await.map_err(disk)?;
        let found = work(folder.path().join("source")).await;
        // Many files, perhaps.
        blocking(move || folder.close()).await.map_err(disk)?;
        found
    }

    async fn look_in(
        &self,
        files: PathBuf,
        Repository { url, reference, folder }: Repository,
        stop: &CancellationToken,
    ) -> Result<Inspected, InspectError> {
        let (options, fits) = (self.git_options(), stop.child_token());
        // Nobody reads how far it is.
        let (nobody, _) = mpsc::channel(1);
        let fetch = git::fetch(&options, &url, reference.as_deref(), &files, &nobody, &fits);
        let fetched = self.watched(fetch, &fits).await??;
        let detection = blocking(move || {
            let root = folder_inside(&files, &folder.unwrap_or_default()).map_err(InspectError::Folder)?;
            let tree = what_is_packed(&root, &Limits::default())?;
            detect_in(&tree, None).map_err(InspectError::Undetected)
        });
        Ok(Inspected { detection: detection.await?, fetched })
    }

    async fn preview_in(
        &self,
        files: PathBuf,
        asked: Previewed,
        stop: &CancellationToken,
    ) -> Result<Preview, InspectError> {
        let (options, fits) = (self.git_options(), stop.child_token());
        // Nobody reads how far it is.
        let (nobody, _) = mpsc::channel(1);
        let source = (&asked.source, asked.uploaded.as_ref());
        let fetch = source::fetch(source, &self.artifacts, &options, &files, &nobody, &fits);
        let revision = self.watched(fetch, &fits).await??;
        let (allow_loopback, nixpkgs) = (self.allow_loopback, self.nixpkgs.clone());
        Ok(blocking(move || preview(&files, revision, &asked, allow_loopback, &nixpkgs)).await?)
    }

    fn git_options(&self) -> git::Options {
        git::Options { allow_loopback: self.allow_loopback, deadline: FETCH_MAX, ..git::Options::default() }
    }

    /// Fetches until it is done, or the disk has no room for it.
    async fn watched<T>(&self, fetch: impl Future<Output = T>, fits: &CancellationToken) -> Result<T, Full> {
        let mut fetch = pin!(fetch);
        let mut looks = tokio::time::interval(SPACE_LOOK_EVERY);
        let mut full = None;
        let fetched = loop {
            tokio::select! {
                fetched = &mut fetch => break fetched,
                // What is left of the disk belongs to the state. The fetch is waited for, which ends its processes.
                _ = looks.tick(), if full.is_none() => if let Err(error) = self.space.check(Use::Bulk) {
                    full = Some(error);
                    fits.cancel();
                },
            }
        };
        full.map_or(Ok(fetched), Err)
    }
}

impl From<Failure> for InspectError {
    fn from(failure: Failure) -> Self {
        Self::Unbuildable { code: failure.code, message: failure.message, next_step: failure.next_step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_looked_at_without_leaving_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(outside.path(), "module outside\ngo 1.1\n").expect("writes");
        std::os::unix::fs::symlink(outside.path(), folder.path().join("go.mod")).expect("a link");
        let look = || detect_in(&what_is_packed(folder.path(), &Limits::default()).expect("a tree"), None);
        let said = look().expect_err("it leads outside").message;
        assert!(said.starts_with("\"go.mod\" cannot be read: ") && said.contains("leads outside"), "{said}");
        std::fs::remove_file(folder.path().join("go.mod")).expect("removes");
        std::fs::write(folder.path().join("real.mod"), "module inside\ngo 1.22\n").expect("writes");
        std::os::unix::fs::symlink("real.mod", folder.path().join("go.mod")).expect("a link");
        std::fs::write(folder.path().join("main.go"), b"package main\n// \xff\n").expect("writes");
        let found = look().expect("Go");
        assert_eq!((found.strategy, found.version.as_deref()), (BuildStrategy::AutoGo, Some("1.22")));
        assert_eq!(found.entry_points.len(), 1);
    }

    #[test]
    fn a_manifest_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("package.json");
        let look = || detect_in(&what_is_packed(folder.path(), &Limits::default()).expect("a tree"), None);
        let padding = "x".repeat(1 << 20);
        for (bytes, words) in [
            (format!("{{\"name\": \"{padding}\"}}").into_bytes(), "larger than 1024 KiB"),
            (b"{\"name\": \"\xff\"}".to_vec(), "no text in UTF-8"),
        ] {
            std::fs::write(&file, bytes).expect("writes");
            let said = look().expect_err("it cannot be read").message;
            assert!(said.contains(words), "{said}");
        }
        std::fs::write(&file, "{}").expect("writes");
        look().expect("Node.js");
    }
}
