//! Sources without a flake of their own: one is written for them, locked and built like any other.
//!
//! Nothing of the source is evaluated, and nothing of it runs with a network: what is fetched, by its hash, is fetched by Nix. So nobody has to be
//! trusted for it as for a flake (`--trust-flakes`): addresses are all that a lock file can say, as a source from git or a Dockerfile can.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::fence::NOBODY;
use super::program::Nix;
use super::{FLAKE, LOCK, Said, garbled, url_of};
use crate::build::job::{Failure, Job, Made};
use crate::build::recipe::Document;
use crate::build::tree;
use crate::decide::detect::Detection;
use crate::decide::flake_lock::LOCK_BYTES_MAX;
use crate::decide::generate::{Dependency, Generated, Hash, Lookup, Recipe, SOURCE, TOOLCHAIN, Toolchain, Unplanned};
use crate::model::BuildCode;
use crate::task::blocking;

const PLAN: &str = "plan.json";
/// What a toolchain says of itself is two lines.
const ABOUT_BYTES_MAX: u64 = 4_096;
/// Files that are fetched at once to learn their hashes.
const FETCHES_MAX: usize = 8;
/// A hash as Nix writes it has 51 letters.
const HASH_BYTES_MAX: u64 = 256;
/// What counts of pip's answer is a few hundred bytes for each wheel.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How it begins.
const HASH: &str = "sha256-";

/// What `nix store prefetch-file --json` says.
#[derive(Deserialize)]
struct Fetched {
    hash: String,
}

/// Something that was found out of what never changes, and is right if what is built with it can be built.
struct Learned {
    /// What it is kept as.
    key: String,
    text: String,
}

/// What was learned and is the same for every build of this node: what a reference to nixpkgs meant, and hashes of what never changes.
#[derive(Clone)]
struct Kept(PathBuf);

impl Job {
    /// Writes the flake of a recipe around the source, builds it, and stores an image of what comes out.
    pub(in crate::build) async fn generated(
        &self,
        recipe: Recipe,
        found: Option<&Detection>,
        files: &Path,
        lines: &mpsc::Sender<String>,
    ) -> Result<Made, Failure> {
        if self.deployment.spec.build.config.text("nixpkgs").is_some() && !self.options.nix.trust_flakes {
            let message = "the service names a nixpkgs of its own (build_config.nixpkgs), and this node evaluates no flakes of others";
            let next_step = "leave it out, have the operator name it for the cluster (the setting nixpkgs), or start a node with --trust-flakes";
            return Err(Failure::new(BuildCode::Infrastructure, message, next_step));
        }
        let files = files.to_owned();
        let folder = blocking(move || around(&files)).await.map_err(|error| disk(&error))?;
        let flake = folder.clone();
        self.with_nix(&folder, lines, async move |nix| self.in_nix(recipe, found, &flake, nix).await).await
    }

    async fn in_nix(
        &self,
        recipe: Recipe,
        found: Option<&Detection>,
        folder: &Path,
        nix: &Nix<'_>,
    ) -> Result<Made, Failure> {
        // The log is best effort, and its reader outlives this work.
        let say = async |line: String| drop(nix.lines.send(line).await);
        for note in &recipe.notes {
            say(format!("Warning: {note}.")).await;
        }
        let nixpkgs = &self.nixpkgs;
        let lock = self.lock_of(nix, nixpkgs).await?;
        let toolchain = self.toolchain(&recipe, folder, nix, &lock).await?;
        say(format!("Toolchain: {} {}, of {nixpkgs}.", recipe.language(), toolchain.version)).await;
        if let Some(warning) = recipe.warning(&toolchain) {
            say(format!("Warning: {warning}.")).await;
        }
        let answer = self.answer(&recipe, folder, nix, &toolchain, &lock).await?;
        let unplanned = |why: Unplanned| Failure::new(why.code, why.message, why.next_step);
        let before = recipe.notes.len();
        let recipe = recipe.settle(answer.as_ref().map_or("", |answer| &answer.text)).map_err(unplanned)?;
        for note in &recipe.notes[before..] {
            say(format!("Warning: {note}.")).await;
        }
        let hashes = self.hashes(nix, &toolchain, &recipe.dependencies).await?;
        let by_place = hashes.iter().map(|(place, it)| (place.clone(), it.text.clone())).collect();
        let files = recipe.files(nixpkgs, &toolchain, &by_place);
        self.keep_recipe(&document(found, &files, &lock)).await;
        write(folder, files, lock).await?;
        let built = self.nix_build(nix, folder, None, Said::Source(&recipe.dependencies)).await;
        // Only who builds with them knows whether they are of what the lock file names.
        let learned = hashes.into_iter().map(|(_, it)| it).chain(answer.filter(|_| recipe.is_locked())).collect();
        self.kept().settle(learned, built.is_ok()).await;
        self.image_of(nix, &built?, recipe.port()).await
    }

    /// What the toolchain says of itself, which is the same for all that are built with it.
    async fn toolchain(
        &self,
        recipe: &Recipe,
        folder: &Path,
        nix: &Nix<'_>,
        lock: &[u8],
    ) -> Result<Toolchain, Failure> {
        let nixpkgs = &self.nixpkgs;
        let (kept, files) = (self.kept(), recipe.first_files(nixpkgs));
        let key = format!("{}.tools", digest([lock, files.flake.as_bytes(), recipe.toolchains().as_bytes()].concat()));
        let known = kept.get(&key, ABOUT_BYTES_MAX).await.and_then(|text| String::from_utf8(text).ok());
        let read = |text: &str| Toolchain::read(text).filter(|it| recipe.can_be_had_with(it));
        if let Some(toolchain) = known.as_deref().and_then(read) {
            return Ok(toolchain);
        }
        write(folder, files, lock.to_owned()).await?;
        let about = self.nix_build(nix, folder, Some(TOOLCHAIN), Said::Tools).await?;
        let about = blocking(move || io::read_to_string(fs::File::open(about)?.take(ABOUT_BYTES_MAX)));
        let about = about.await.map_err(|error| disk(&error))?;
        let toolchain = read(&about).ok_or_else(|| {
            let message =
                format!("{} of {nixpkgs} does not say what it is, or where it fetches from", recipe.language());
            Failure::new(BuildCode::Infrastructure, message, "name another one with --nixpkgs")
        })?;
        kept.put(key, about.into_bytes()).await;
        Ok(toolchain)
    }

    /// What a reference to nixpkgs means from now on for this node: the lock file of a flake that has it as its only input.
    async fn lock_of(&self, nix: &Nix<'_>, nixpkgs: &str) -> Result<Vec<u8>, Failure> {
        let kept = self.kept();
        let name = format!("{}.lock", digest(nixpkgs));
        if let Some(lock) = kept.get(&name, LOCK_BYTES_MAX).await.filter(|lock| is_json(lock)) {
            return Ok(lock);
        }
        // The log is best effort, and its reader outlives this work.
        let _ = nix.lines.send(format!("Looking up {nixpkgs}.")).await;
        let text = Recipe::only_nixpkgs(nixpkgs);
        let home = nix.room.home.clone();
        let folder = blocking(move || {
            let folder = home.join("lock");
            DirBuilder::new().mode(0o700).create(&folder)?;
            put(&folder.join(FLAKE), text.as_bytes())?;
            chown(&folder, Some(NOBODY), Some(NOBODY))?;
            Ok::<_, io::Error>(folder)
        });
        let folder = folder.await.map_err(|error| disk(&error))?;
        let reference = format!("path:{}", url_of(&folder));
        let ended = nix.evaluate(&["flake", "lock"], &[reference.as_ref()], true).await?;
        if !ended.success {
            let said = ended.error.unwrap_or_default();
            let message = format!("nixpkgs cannot be had from {nixpkgs}: {said}");
            let next_step = "see to it that this node reaches it, or name another one with --nixpkgs";
            return Err(Failure::new(BuildCode::Infrastructure, message, next_step));
        }
        let read = blocking(move || tree::read_inside(&folder, LOCK, LOCK_BYTES_MAX)).await;
        let lock = read.ok().flatten().filter(|lock| is_json(lock)).ok_or_else(|| {
            let message = format!("Nix did not say what {nixpkgs} is");
            Failure::new(BuildCode::Infrastructure, message, "install a version of Nix from 2.8 on, and deploy again")
        })?;
        kept.put(name, lock.clone()).await;
        Ok(lock)
    }

    /// What the package manager answers, if it has to be asked: what exactly would be installed here.
    async fn answer(
        &self,
        recipe: &Recipe,
        folder: &Path,
        nix: &Nix<'_>,
        toolchain: &Toolchain,
        lock: &[u8],
    ) -> Result<Option<Learned>, Failure> {
        let Some(lookup) = &recipe.lookup else { return Ok(None) };
        let (requirements, constraints) = (lookup.requirements.join("\n"), lookup.constraints.join("\n"));
        let asked =
            [&toolchain.version, &recipe.toolchains(), &requirements, &constraints].map(String::as_str).join("\0");
        let key = format!("{}.answer", digest([lock, asked.as_bytes()].concat()));
        if recipe.is_locked()
            && let Some(known) = self.kept().get(&key, ANSWER_BYTES_MAX).await
            && let Ok(text) = String::from_utf8(known)
            && recipe.clone().settle(&text).is_ok()
        {
            return Ok(Some(Learned { key, text }));
        }
        write(folder, recipe.first_files(&self.nixpkgs), lock.to_owned()).await?;
        // The log is best effort, and its reader outlives this work.
        let _ = nix
            .lines
            .send(format!("Asking pip which wheels fit, of {} that are named.", lookup.requirements.len()))
            .await;
        let own = nix.room.home.join("lookup");
        let files = [("requirements.txt", requirements), ("constraints.txt", constraints)];
        let paths = files.each_ref().map(|(name, _)| own.join(name));
        let written = blocking(move || {
            DirBuilder::new().mode(0o755).create(&own)?;
            files.into_iter().try_for_each(|(name, text)| put(&own.join(name), text.as_bytes()))
        });
        written.await.map_err(|error| disk(&error))?;
        let pip = OsString::from(format!("path:{}#pip", url_of(folder)));
        let options = ["--dry-run", "--ignore-installed", "--only-binary", ":all:", "--quiet", "--no-input"];
        let options =
            ["--", "install"].into_iter().chain(options).chain(["--no-cache-dir", "--disable-pip-version-check"]);
        let options = options.chain(["--report", "-", "--requirement"]).map(OsStr::new);
        let about: Vec<&OsStr> = [pip.as_os_str()].into_iter().chain(options).collect();
        let about = [&about[..], &[paths[0].as_ref(), OsStr::new("--constraint"), paths[1].as_ref()]].concat();
        let ended = nix.evaluate(&["run", "--no-update-lock-file"], &about, true).await?;
        let cannot = |code, why: String, next_step: &str| {
            Failure::new(code, format!("pip cannot say which wheels are needed: {why}"), next_step)
        };
        if !ended.success {
            let said = ended.error.unwrap_or_else(|| "it says nothing of why".to_owned());
            let next_step = "see in the build log whether this node reaches the index, and has a wheel of each for this Python: source distributions are not taken";
            return Err(cannot(BuildCode::DependencyMissing, said, next_step));
        }
        let text = Lookup::essence(&ended.stdout).ok_or_else(|| {
            let next_step = "name a nixpkgs with pip 23 or newer with --nixpkgs";
            cannot(BuildCode::Infrastructure, "its answer cannot be read".to_owned(), next_step)
        })?;
        Ok(Some(Learned { key, text }))
    }

    /// Fetches what no lock file has a hash of. What is fetched is in the store then, and found there when it is built.
    async fn hashes(
        &self,
        nix: &Nix<'_>,
        toolchain: &Toolchain,
        dependencies: &[Dependency],
    ) -> Result<Vec<(String, Learned)>, Failure> {
        let kept = self.kept();
        let learn = |it: &Dependency, sum: &str| {
            let (kept, place, name) = (kept.clone(), it.place.clone(), it.name.clone());
            let url = toolchain.url(&it.at).expect("what has no hash is in a registry that its toolchain names");
            let key = format!("{}.hash", digest(format!("{url}\n{sum}")));
            async move {
                let known = kept.get(&key, HASH_BYTES_MAX).await.and_then(|text| String::from_utf8(text).ok());
                if let Some(hash) = known.filter(|hash| hash.starts_with(HASH)) {
                    return Ok((place, Learned { key, text: hash }));
                }
                let args = ["store", "prefetch-file", "--json", "--name", &name];
                let ended = nix.evaluate(&args, &[url.as_ref()], true).await?;
                if !ended.success {
                    let said = ended.error.unwrap_or_default();
                    let message = format!("{url} cannot be fetched: {said}");
                    let next_step = "correct the lock file, or commit the folder vendor/, and deploy again";
                    return Err(Failure::new(BuildCode::DependencyMissing, message, next_step));
                }
                let Fetched { hash } = serde_json::from_slice(&ended.stdout).map_err(|error| garbled(&error))?;
                Ok((place, Learned { key, text: hash }))
            }
        };
        let unknown: Vec<_> = dependencies
            .iter()
            .filter_map(|it| match &it.hash {
                Hash::Known(_) => None,
                Hash::Sum(sum) => Some(learn(it, sum)),
            })
            .collect();
        if !unknown.is_empty() {
            // The log is best effort, and its reader outlives this work.
            let _ = nix.lines.send(format!("Looking at {} files of modules.", unknown.len())).await;
        }
        stream::iter(unknown).buffered(FETCHES_MAX).try_collect().await
    }

    fn kept(&self) -> Kept {
        Kept(self.options.nix.kept.clone())
    }
}

/// Makes the folder of the flake, with the source in it.
fn around(files: &Path) -> io::Result<PathBuf> {
    let folder = files.with_file_name("flake");
    DirBuilder::new().mode(0o755).create(&folder)?;
    fs::rename(files, folder.join(SOURCE))?;
    Ok(folder)
}

/// What is kept of how it is built.
fn document(found: Option<&Detection>, files: &Generated, lock: &[u8]) -> Document {
    let lock = String::from_utf8_lossy(lock).into_owned();
    let files = [(FLAKE, files.flake.clone()), (PLAN, files.plan.clone()), (LOCK, lock)];
    let files = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    Document::new(found.map(Detection::to_json).unwrap_or_default(), files)
}

async fn write(folder: &Path, Generated { flake, plan }: Generated, lock: Vec<u8>) -> Result<(), Failure> {
    let folder = folder.to_owned();
    let written = blocking(move || {
        let files = [(FLAKE, flake.as_bytes()), (PLAN, plan.as_bytes()), (LOCK, &lock)];
        files.into_iter().try_for_each(|(name, text)| put(&folder.join(name), text))
    });
    written.await.map_err(|error| disk(&error))
}

/// Writes a file that everybody may read, whatever mask this program has.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}

impl Kept {
    /// Keeps what turned out to be right, and forgets what may not have been.
    async fn settle(&self, learned: Vec<Learned>, is_right: bool) {
        for Learned { key, text } in learned {
            let path = self.0.join(&key);
            match (is_right, blocking(move || path.exists()).await) {
                (true, false) => self.put(key, text.into_bytes()).await,
                (false, true) => self.forget(&key).await,
                _ => {}
            }
        }
    }

    async fn forget(&self, name: &str) {
        let path = self.0.join(name);
        // What cannot be removed is found wrong again.
        let _ = blocking(move || fs::remove_file(path)).await;
    }

    async fn get(&self, name: &str, bytes_max: u64) -> Option<Vec<u8>> {
        let (folder, name) = (self.0.clone(), name.to_owned());
        // What cannot be read is found out again.
        blocking(move || tree::read_inside(&folder, &name, bytes_max)).await.ok().flatten()
    }

    async fn put(&self, name: String, text: Vec<u8>) {
        let folder = self.0.clone();
        let kept = blocking(move || {
            DirBuilder::new().mode(0o700).recursive(true).create(&folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(folder.join(name))?;
            Ok::<_, io::Error>(())
        });
        if let Err(error) = kept.await {
            tracing::debug!(%error, "what was learned for builds is not kept");
        }
    }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(text).is_ok()
}

fn digest(text: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(text))
}

fn disk(error: &io::Error) -> Failure {
    let message = format!("cannot write the flake of the build: {error}");
    Failure::new(BuildCode::Infrastructure, message, "look at the disk of this node, then deploy again")
}
