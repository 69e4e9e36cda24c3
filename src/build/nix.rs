//! A flake, the repository's own or one that is generated for it (`generated`), built by Nix, and an image of what came out.
//!
//! Nix is the machine's own. It evaluates in a fence (`fence`), where nothing of the machine is but programs and the store; a daemon of Nix
//! that belongs to this build (`store`) keeps and builds things for it, in Nix's sandbox. Of the result and all that it needs an image is
//! made (`image`), which any member runs like any other: no distribution is in it, and no Nix is needed to run it.

mod fence;
mod generated;
mod image;
mod program;
mod proxy;
mod ration;
mod room;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde::Deserialize;
use tokio::sync::mpsc;

use self::fence::Fence;
use self::program::{Ended, Nix};
use self::proxy::Proxy;
use self::ration::Ration;
use self::room::Room;
use self::store::Store;
use super::job::{Failure, Job, Made, SPACE_LOOK_EVERY, names_in, shown_names, shown_root};
use super::tree;
use crate::decide::fetching::{Reach, hosts};
use crate::decide::flake_lock::{LOCK_BYTES_MAX, check_flake_lock};
use crate::decide::generate::Dependency;
use crate::decide::layers::{StorePath, is_store_path};
use crate::model::BuildCode;
use crate::space::{Space, Use};
use crate::task::blocking;

pub use self::fence::{BUBBLEWRAP as FENCE_MAKER, FenceOptions, enter_fence};
pub use self::program::Options;
pub(super) use self::ration::remove_left_behind;

/// Where Nix keeps what it makes.
const STORE: &str = "/nix/store";
const FLAKE: &str = "flake.nix";
const LOCK: &str = "flake.lock";
/// A flake is a page or two.
const FLAKE_BYTES_MAX: u64 = 1 << 20;

/// What Nix says when it is not set up on the machine, whatever it builds.
const OF_THE_NODE: [&str; 4] = [
    "the group '",
    "this system does not support the kernel namespaces",
    "cannot connect to socket at '",
    "opening lock file '/nix",
];
/// Most that an image may hold.
const IMAGE_BYTES_MAX: u64 = 16 << 30;

/// What `nix build --json` says of each thing that it built.
#[derive(Deserialize)]
struct Built {
    outputs: BTreeMap<String, String>,
}

/// What `nix path-info --json` says of a path: a list in older versions, by path in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Known {
    List(Vec<Listed>),
    ByPath(BTreeMap<String, Info>),
}

#[derive(Deserialize)]
struct Listed {
    path: String,
    #[serde(flatten)]
    info: Info,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    nar_size: u64,
    references: Vec<String>,
}

impl Job {
    /// Builds the default package of the flake, and stores an image of it.
    pub(super) async fn build_flake(&self, files: &Path, lines: &mpsc::Sender<String>) -> Result<Made, Failure> {
        if !self.options.nix.trust_flakes {
            let next_step = "start a node with --trust-flakes, if all who may deploy are trusted with its networks and its Nix store";
            return Err(Failure::new(BuildCode::Infrastructure, "this node does not build flakes", next_step));
        }
        let (source, root, allow_loopback) = (files.to_owned(), self.root().to_owned(), self.options.allow_loopback);
        let folder = blocking(move || check_flake(&source, &root, allow_loopback)).await?;
        self.with_nix(files, lines, async move |nix| {
            let out = self.nix_build(nix, &folder, None, Said::Flake).await?;
            self.image_of(nix, &out, None).await
        })
        .await
    }

    /// Does something with Nix, in which `files` can be read, fenced in and with a store of its own.
    async fn with_nix(
        &self,
        files: &Path,
        lines: &mpsc::Sender<String>,
        work: impl AsyncFnOnce(&Nix<'_>) -> Result<Made, Failure>,
    ) -> Result<Made, Failure> {
        if !geteuid().is_root() {
            let message = "this node does not run as root, and so cannot have Nix build in its sandbox";
            let next_step = "build on a node that does, or deploy from a Dockerfile or an image";
            return Err(Failure::new(BuildCode::Infrastructure, message, next_step));
        }
        let source = files.to_owned();
        let room = blocking(move || Room::beside(&source)).await.map_err(|error| {
            let message = format!("cannot make the folders of the build: {error}");
            Failure::new(BuildCode::Infrastructure, message, "look at the disk of this node, then deploy again")
        })?;
        let named = self.options.nix.substituters.as_deref().map(hosts).unwrap_or_default();
        // What builds has no business on this machine, wherever sources may come from.
        let of_store = Proxy { reach: Reach { allow_loopback: false, named }, lines };
        let ration = Ration::of(&self.options, self.build.id, self.parts.supervisor.clone());
        let store = Store::open(&self.options.nix, &room, &ration).await?;
        let around = room.clone();
        let fence = blocking(move || Fence::of_evaluation(&around)).await;
        let reach = Reach { allow_loopback: self.options.allow_loopback, named: Vec::new() };
        let proxy = Proxy { reach, lines };
        let nix = Nix { room: &room, ration: &ration, fence, proxy, cpu: self.options.cpu, lines };
        let made = tokio::select! {
            made = work(&nix) => made,
            failure = store_is_full() => Err(failure),
            failure = store.serve(&of_store) => Err(failure),
        };
        // What comes of a process that was killed is said in many ways.
        made.map_err(|failure| if ration.was_exceeded() { self.too_much_memory() } else { failure })
    }

    fn too_much_memory(&self) -> Failure {
        Failure::new(
            BuildCode::BuildOom,
            format!(
                "a process of the build was killed, since all of them together used more than the {} they may",
                self.options.memory
            ),
            "make the build use less memory, or have the operator raise BUILD_MEMORY",
        )
    }

    /// Stores an image of what was built, which listens on this port when nobody says otherwise.
    async fn image_of(&self, nix: &Nix<'_>, out: &str, port: Option<u16>) -> Result<Made, Failure> {
        let closure = closure(nix, out).await?;
        let bytes: u64 = closure.iter().map(|path| path.bytes).sum();
        if bytes > IMAGE_BYTES_MAX {
            let (found, most) = (bytes >> 20, IMAGE_BYTES_MAX >> 20);
            let message = format!("the package and what it needs are {found} MiB, and an image may have {most}");
            return Err(Failure::new(BuildCode::BuildFailed, message, "make it smaller, and deploy again"));
        }
        let program = self.program(out, &closure).await?;
        self.store_closure(out, &closure, program, port, nix.lines).await
    }

    /// Builds one package of a flake, its default one or the one of this name.
    async fn nix_build(
        &self,
        nix: &Nix<'_>,
        folder: &Path,
        package: Option<&str>,
        said: Said<'_>,
    ) -> Result<String, Failure> {
        let flake = OsString::from(format!("path:{}", url_of(folder)));
        // What is not locked would be fetched before it is refused: so it is looked at first where nothing can be fetched.
        let looked = nix.evaluate(&["flake", "metadata", "--json", "--no-update-lock-file"], &[&flake], false).await?;
        if !looked.success {
            return Err(failed(looked, said));
        }
        // As long as the link is there, nothing of the result is collected.
        let link = nix.room.home.join(package.unwrap_or("result"));
        let args = ["build", "--json", "--print-build-logs", "--no-update-lock-file", "--out-link"];
        let wanted = package.map(|name| OsString::from(format!("path:{}#{name}", url_of(folder)))).unwrap_or(flake);
        let ended = nix.evaluate(&args, &[link.as_os_str(), &wanted], true).await?;
        if !ended.success {
            return Err(failed(ended, said));
        }
        let stdout = ended.stdout;
        let built: Vec<Built> = serde_json::from_slice(&stdout).map_err(|error| garbled(&error))?;
        let out = built.into_iter().next().and_then(|built| built.outputs.get("out").cloned());
        // Nothing but a path of the store is looked at: what evaluates may say anything.
        out.filter(|out| is_store_path(out)).ok_or_else(|| {
            Failure::new(
                BuildCode::InvalidConfig,
                "the default package of the flake has no output named out",
                "give packages.<system>.default one, and deploy again",
            )
        })
    }

    /// The program that an instance runs, unless its service says which.
    async fn program(&self, out: &str, closure: &[StorePath]) -> Result<Option<String>, Failure> {
        if !self.deployment.spec.command.is_empty() {
            return Ok(None);
        }
        let (bin, known) = (Path::new(out).join("bin"), closure.iter().map(|it| it.path.clone()).collect());
        let names = blocking(move || programs_in(&bin, &known)).await;
        if let Some(name) = choose(out, &names) {
            return Ok(Some(format!("{out}/bin/{name}")));
        }
        let found = match names.len() {
            0 => "the default package has no program in bin/".to_owned(),
            _ => format!("the default package has several programs: {}", shown_names(names)),
        };
        Err(Failure::new(BuildCode::InvalidConfig, found, "say what runs with the service's command, and deploy again"))
    }
}

/// The folder with the flake, whose lock file names nothing that must not be fetched. Blocks.
///
/// # Errors
/// Why it cannot be built.
pub(super) fn check_flake(files: &Path, root: &str, allow_loopback: bool) -> Result<PathBuf, Failure> {
    let bad = |message: String, next_step: &str| Failure::new(BuildCode::InvalidConfig, message, next_step);
    let bad_root = |error: tree::Error| bad(error.to_string(), "correct --root (build_config.root_directory)");
    let folder = tree::folder_inside(files, root).map_err(bad_root)?;
    let flake = tree::read_inside(&folder, FLAKE, FLAKE_BYTES_MAX).map_err(bad_root)?;
    let lock = tree::read_inside(&folder, LOCK, LOCK_BYTES_MAX).map_err(bad_root)?;
    if flake.is_none() {
        let message = format!("there is no {FLAKE} in {}; it has {}", shown_root(root), names_in(&folder));
        return Err(Failure::new(
            BuildCode::FlakeNotFound,
            message,
            "add one, say where it is with --root (build_config.root_directory), or choose another --strategy (build_strategy)",
        ));
    }
    if let Some(lock) = lock {
        check_flake_lock(&lock, allow_loopback)
            .map_err(|problem| bad(problem.0, "change that input, run `nix flake lock`, and commit flake.lock"))?;
    }
    Ok(folder)
}

/// Ends when what Nix makes leaves too little of its disk, which is the machine's.
async fn store_is_full() -> Failure {
    let mut looks = tokio::time::interval(SPACE_LOOK_EVERY);
    loop {
        looks.tick().await;
        if let Err(full) = Space::of(STORE).check(Use::Bulk) {
            let (free, needed) = (full.free >> 20, full.needed >> 20);
            let message = format!("{free} MiB are left for the Nix store ({STORE}), and a build leaves {needed} MiB");
            let next_step = "free space there (`nix-collect-garbage` while nothing is built), and deploy again";
            return Failure::new(BuildCode::Infrastructure, message, next_step);
        }
    }
}

/// The names of the programs in a folder of these store paths. A package may link to anything; what is elsewhere is not looked at.
fn programs_in(bin: &Path, known: &BTreeSet<String>) -> Vec<String> {
    let is_known = |path: &Path| known.iter().any(|known| path.starts_with(known));
    let Some(bin) = std::fs::canonicalize(bin).ok().filter(|bin| is_known(bin)) else { return Vec::new() };
    let is_program = |entry: &std::fs::DirEntry| {
        let target = std::fs::canonicalize(entry.path()).ok().filter(|target| is_known(target));
        target.and_then(|target| std::fs::metadata(target).ok()).is_some_and(|about| about.is_file())
    };
    let entries = std::fs::read_dir(bin).into_iter().flatten().flatten().filter(is_program);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// Whose words an error of Nix is about.
#[derive(Clone, Copy)]
enum Said<'a> {
    /// Of a flake of the source's author.
    Flake,
    /// Of a source, built by a flake of ours from these.
    Source(&'a [Dependency]),
    /// Of what it is built with.
    Tools,
}

/// Why Nix did not do it.
fn failed(ended: Ended, about: Said<'_>) -> Failure {
    let said = ended.error.unwrap_or_else(|| "Nix says nothing of why".to_owned());
    if OF_THE_NODE.iter().any(|words| said.starts_with(words)) {
        let next_step = "set up Nix on this node so that it can build in its sandbox, and deploy again";
        return Failure::new(BuildCode::Infrastructure, said, next_step);
    }
    if let Said::Tools = about {
        let next_step = "see whether this node reaches that nixpkgs and its cache, or name another one with --nixpkgs";
        return Failure::new(BuildCode::Infrastructure, format!("the tools cannot be had: {said}"), next_step);
    }
    let is_of = |it: &&Dependency| said.contains(&format!("-{}.drv'", it.name));
    let next_step = if let Said::Source(dependencies) = about {
        if let Some(missing) = dependencies.iter().find(is_of) {
            let message = format!("{} cannot be fetched as the lock file names it: {said}", missing.place);
            let next_step = "see in the build log whether this node does not reach it, or gets something else; correct the lock file, and deploy again";
            return Failure::new(BuildCode::DependencyMissing, message, next_step);
        }
        "read the build log, correct the source and deploy again"
    } else if said.contains("lock file") || said.contains("cannot fetch input") {
        "run `nix flake lock` and commit flake.lock: a build takes in nothing that is not locked"
    } else if said.starts_with("getting status of '/") {
        "put what the flake needs into the source: a build finds nothing else of the machine"
    } else {
        "read the build log, correct the flake and deploy again"
    };
    Failure::new(BuildCode::BuildFailed, said, next_step)
}

/// The only program, or the one that is called like the package.
fn choose<'a>(out: &str, names: &'a [String]) -> Option<&'a str> {
    if let [only] = names {
        return Some(only);
    }
    // `/nix/store/<32 letters>-<name>-<version>`.
    let (_, full) = out.rsplit('/').next()?.split_once('-')?;
    let is_called = |name: &&String| full == name.as_str() || full.strip_prefix(name.as_str()).is_some_and(is_version);
    names.iter().find(is_called).map(String::as_str)
}

fn is_version(rest: &str) -> bool {
    rest.strip_prefix('-').is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

async fn closure(nix: &Nix<'_>, out: &str) -> Result<Vec<StorePath>, Failure> {
    let ended = nix.ask_store(&["path-info", "--recursive", "--json"], &[out.as_ref()]).await?;
    if !ended.success {
        let said = ended.error.unwrap_or_default();
        return Err(Failure::new(
            BuildCode::Infrastructure,
            format!("Nix does not say what {out} needs: {said}"),
            "deploy again",
        ));
    }
    let known: Known = serde_json::from_slice(&ended.stdout).map_err(|error| garbled(&error))?;
    let path = |path: String, info: Info| {
        let references = info.references.into_iter().collect();
        StorePath { path, bytes: info.nar_size, references }
    };
    Ok(match known {
        Known::List(list) => list.into_iter().map(|listed| path(listed.path, listed.info)).collect(),
        Known::ByPath(all) => all.into_iter().map(|(name, info)| path(name, info)).collect(),
    })
}

fn garbled(error: &serde_json::Error) -> Failure {
    Failure::new(
        BuildCode::Infrastructure,
        format!("Nix answers what cannot be read: {error}"),
        "install a version of Nix from 2.8 on, and deploy again",
    )
}

/// A path inside a flake reference, where some characters mean something.
fn url_of(folder: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let escaped = folder.as_os_str().as_bytes().iter().map(|byte| match plain(byte) {
        true => char::from(*byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_only_one_or_the_one_with_the_name() {
        let out = "/nix/store/y2nfhbqzqbv0vggdn06g8m8p9k64zpm6-web-server-1.0";
        let choose = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            super::choose(out, &names).map(str::to_owned)
        };
        assert_eq!(choose(&["anything"]).as_deref(), Some("anything"));
        assert_eq!(choose(&["a", "web", "web-server"]).as_deref(), Some("web-server"));
        assert_eq!(choose(&["a", "b"]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn paths_are_one_part_of_a_reference() {
        assert_eq!(url_of(Path::new("/a b/c?d#e%f/ü")), "/a%20b/c%3Fd%23e%25f/%C3%BC");
    }

    #[test]
    fn both_ways_to_describe_paths_are_read() {
        let info = r#""narSize":7,"references":["/nix/store/b"],"valid":true"#;
        for text in [format!(r#"[{{"path":"/nix/store/a",{info}}}]"#), format!(r#"{{"/nix/store/a":{{{info}}}}}"#)] {
            let known: Known = serde_json::from_str(&text).expect("reads");
            let size = match known {
                Known::List(list) => list[0].info.nar_size,
                Known::ByPath(all) => all["/nix/store/a"].nar_size,
            };
            assert_eq!(size, 7);
        }
    }
}
