//! What is wrong with this machine: looked at from outside, with and without a node, and changing nothing.
//!
//! Every check stands alone: what it cannot find out it says, and the others go on.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Resource, geteuid, getrlimit};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::process::Command;
use tokio::time::timeout;

use crate::client::{self, Client};
use crate::clock;
use crate::cluster::{DataDir, Identity, key_pin};
use crate::config::NodeConfig;
use crate::consensus::Peer;
use crate::rpc::Newcomer;

use super::checkup::{Check, Checkup, Verdict, clock, container_engine, disk_space, disk_speed, member};
use super::endpoints::Endpoints;
use super::founding::AUTHORITY_FILE;
use super::joining::{DOORS, doors_in};
use super::preflight;
use super::running::engine_options;

/// Longest wait for a program that says its version.
const VERSION_WAIT_MAX: Duration = Duration::from_secs(5);
/// Open files with which a busy node runs out.
const FILES_NOTED: u64 = 8_192;
/// Where engines keep images and containers unless they are told otherwise.
const ENGINE_FOLDERS: [(&str, &str); 2] =
    [("space for podman", "/var/lib/containers"), ("space for docker", "/var/lib/docker")];
/// What the limits of instances need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Programs that keep clocks right, as the kernel names their processes.
const TIME_KEEPERS: [&str; 5] = ["chronyd", "ntpd", "openntpd", "ntpsec", "systemd-timesyn"];

/// Programs that containers are made with, and the first version of each without a hole through which one got out.
///
/// runc: CVE-2024-21626, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881. buildah: CVE-2024-1753, CVE-2024-9407.
const MENDED: [(&str, Version, &str); 2] = [
    ("runc", Version([1, 2, 8]), "CVE-2024-21626 and CVE-2025-31133"),
    ("buildah", Version([1, 38, 0]), "CVE-2024-1753 and CVE-2024-9407"),
];

/// Looks at everything.
pub async fn examine(config: &NodeConfig) -> anyhow::Result<Checkup> {
    let folder = &config.data_dir;
    let mut checks = vec![system(), limits(), cgroups(Path::new("/sys/fs/cgroup")), time_keeper(), users()];
    // Looking for an engine may leave a socket.
    let scratch = tempfile::tempdir()?;
    checks.push(container_engine(engine_options(config, scratch.path(), "doctor".to_owned())).await);
    for (program, mended, holes) in MENDED {
        checks.extend(version_of(program).await.map(|said| escape(program, &said, mended, holes)));
    }
    checks.push(git(version_of("git").await));
    let engines = ENGINE_FOLDERS.into_iter().filter(|(_, path)| Path::new(path).exists());
    checks.extend(engines.map(|(what, path)| disk_space(what, Path::new(path))));
    match DataDir::identity(folder) {
        Ok(Some(identity)) => checks.extend(node(config, identity).await),
        Ok(None) => {
            let found = format!("none in {}", folder.display());
            checks.push(Check { what: "node", found, verdict: Verdict::Good });
            checks.push(preflight::ports(config, (Ipv4Addr::UNSPECIFIED.into(), config.grpc_port)));
        }
        Err(error) => {
            checks.push(Check {
                what: "node",
                found: "unreadable".to_owned(),
                verdict: Verdict::Bad(error.to_string()),
            });
        }
    }
    Ok(Checkup(checks))
}

/// A node that is there, running or not.
async fn node(config: &NodeConfig, identity: Identity) -> Vec<Check> {
    let folder = &config.data_dir;
    let mut checks = vec![owner(folder), disk_space("free space", folder), disk_speed(folder).await];
    let running = Endpoints::of_running(folder);
    let what = format!("{} of cluster {}", identity.node, identity.cluster);
    checks.push(match &running {
        Some(endpoints) => {
            let found = format!("{what}, process {}", endpoints.pid);
            Check { what: "node", found, verdict: serves(endpoints).await }
        }
        None => {
            let verdict = Verdict::Noted("it does not run: `narvana run`, or `systemctl start narvana`".to_owned());
            Check { what: "node", found: what, verdict }
        }
    });
    let mut others = doors_in(&std::fs::read(folder.join(DOORS)).unwrap_or_default());
    match &running {
        // Its own port shows whether its certificate is good.
        Some(endpoints) => others.insert(0, Peer { node: identity.node, address: endpoints.grpc.clone() }),
        None => checks.push(preflight::ports(config, (Ipv4Addr::UNSPECIFIED.into(), config.grpc_port))),
    }
    for Peer { address, .. } in others {
        checks.extend(peer(folder, identity, &address).await);
    }
    checks
}

async fn serves(endpoints: &Endpoints) -> Verdict {
    let options = client::Options { addresses: vec![endpoints.api.clone()], ..client::Options::default() };
    let answer = match Client::new(&options) {
        Ok(client) => client.ready().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(_) => Verdict::Good,
        Err(error) => Verdict::Bad(format!("{error}; look at its log, and at `narvana status`")),
    }
}

/// Whether a member answers between nodes, who it is, and what its clock says.
async fn peer(folder: &Path, identity: Identity, address: &str) -> Vec<Check> {
    let pem = std::fs::read(folder.join(AUTHORITY_FILE)).unwrap_or_default();
    let pin = CertificateDer::from_pem_slice(&pem).ok().and_then(|authority| key_pin(&authority));
    let Some(newcomer) = pin.and_then(|pin| Newcomer::new(identity.cluster, pin).ok()) else {
        let verdict = Verdict::Bad(format!("{AUTHORITY_FILE} in the data folder cannot be read"));
        return vec![Check { what: "member", found: address.to_owned(), verdict }];
    };
    match newcomer.reach(address, clock::now).await {
        Ok(door) => vec![member(&door), clock(door.clock_ahead_ms)],
        Err(error) => {
            let verdict = Verdict::Bad(format!("{error}; see `narvana status`, and whether a firewall is between"));
            vec![Check { what: "member", found: address.to_owned(), verdict }]
        }
    }
}

fn system() -> Check {
    let name = rustix::system::uname();
    let words = [name.sysname(), name.release(), name.machine()].map(|word| word.to_string_lossy().into_owned());
    Check { what: "system", found: words.join(" "), verdict: Verdict::Good }
}

fn limits() -> Check {
    let limit = getrlimit(Resource::Nofile).current;
    let verdict = match limit {
        Some(files) if files < FILES_NOTED => Verdict::Noted(format!(
            "a busy node opens more: raise it to {FILES_NOTED} (`LimitNOFILE=` of the unit, `ulimit -n`)"
        )),
        _ => Verdict::Good,
    };
    let found = limit.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
    Check { what: "open files", found, verdict }
}

fn cgroups(mount: &Path) -> Check {
    let what = "cgroups";
    let Ok(controllers) = std::fs::read_to_string(mount.join("cgroup.controllers")) else {
        let verdict = Verdict::Noted(
            "limits work with root only: boot with systemd.unified_cgroup_hierarchy=1 for version 2".to_owned(),
        );
        return Check { what, found: "version 1".to_owned(), verdict };
    };
    let missing = CONTROLLERS.into_iter().filter(|name| !controllers.split_whitespace().any(|have| have == *name));
    let missing: Vec<&str> = missing.collect();
    let verdict = match missing.as_slice() {
        [] => Verdict::Good,
        missing => Verdict::Noted(format!("{} cannot be limited: the controllers are not enabled", missing.join(", "))),
    };
    Check { what, found: "version 2".to_owned(), verdict }
}

fn time_keeper() -> Check {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut names = processes.filter_map(|process| std::fs::read_to_string(process.path().join("comm")).ok());
    let keeper = names.find(|name| TIME_KEEPERS.contains(&name.trim_end()));
    let (found, verdict) = match keeper {
        Some(name) => (name.trim_end().to_owned(), Verdict::Good),
        None => {
            let advice = "nothing seems to keep the clock right: install chrony, unless the machine's host does it";
            ("nobody".to_owned(), Verdict::Noted(advice.to_owned()))
        }
    };
    Check { what: "keeper of the clock", found, verdict }
}

/// Containers without root need numbers of users of their own.
fn users() -> Check {
    let what = "user";
    if geteuid().is_root() {
        return Check { what, found: "root".to_owned(), verdict: Verdict::Good };
    }
    let number = geteuid().as_raw().to_string();
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&number)).then(|| name.to_owned())
    });
    let name = name.unwrap_or_else(|| number.clone());
    let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let has_range = ranges.lines().any(|line| line.split(':').next().is_some_and(|of| of == name || of == number));
    let verdict = match has_range {
        true => Verdict::Good,
        false => Verdict::Noted(format!(
            "Podman without root needs numbers for users: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}`"
        )),
    };
    Check { what, found: name, verdict }
}

fn owner(folder: &Path) -> Check {
    let what = "data folder";
    let found = folder.display().to_string();
    let verdict = match std::fs::metadata(folder) {
        Err(error) => Verdict::Bad(error.to_string()),
        Ok(about) if about.uid() != geteuid().as_raw() => {
            Verdict::Noted(format!("it belongs to user {}: ask as that user, or as root", about.uid()))
        }
        Ok(about) if about.permissions().mode() & 0o077 != 0 => {
            Verdict::Noted(format!("others can look into it, and it holds keys: `chmod 700 {found}`"))
        }
        Ok(_) => Verdict::Good,
    };
    Check { what, found, verdict }
}

fn git(said: Option<String>) -> Check {
    let (found, verdict) = match said {
        Some(said) => (said, Verdict::Good),
        None => ("none".to_owned(), Verdict::Noted("services from git cannot be built here: install git".to_owned())),
    };
    Check { what: "git", found, verdict }
}

/// Up to three numbers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u32; 3]);

impl Version {
    /// The first thing in a text that looks like one.
    fn find(text: &str) -> Option<Self> {
        let mut words = text.split(|c: char| c.is_whitespace() || c == ',').map(|word| word.trim_start_matches('v'));
        words.find_map(|word| {
            let mut numbers = word.split(['.', '+', '-', '~']).map_while(|part| part.parse().ok());
            let (major, minor) = (numbers.next()?, numbers.next()?);
            Some(Self([major, minor, numbers.next().unwrap_or(0)]))
        })
    }
}

/// Distributions mend old versions without a new number, so this never says that a hole is there.
fn escape(program: &'static str, said: &str, mended: Version, holes: &str) -> Check {
    let Version([major, minor, patch]) = mended;
    let verdict = match Version::find(said) {
        Some(version) if version < mended => Verdict::Noted(format!(
            "before {major}.{minor}.{patch} a container could get out ({holes}), unless your distribution has mended it: keep it up to date"
        )),
        Some(_) => Verdict::Good,
        None => Verdict::Noted("its version cannot be read".to_owned()),
    };
    Check { what: program, found: said.to_owned(), verdict }
}

/// The first line that a program says of its version; nothing when it is not there.
async fn version_of(program: impl AsRef<OsStr>) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(VERSION_WAIT_MAX, command.output()).await.ok()?.ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("runc version 1.1.5+ds1", Some(Version([1, 1, 5]))),
            ("buildah version 1.28.2 (image-spec 1.1.0-rc2, runtime-spec 1.0.2-dev)", Some(Version([1, 28, 2]))),
            ("runc version 1.3.0-rc.1", Some(Version([1, 3, 0]))),
            ("crun v1.14", Some(Version([1, 14, 0]))),
            ("no numbers", None),
        ] {
            assert_eq!(Version::find(said), version, "{said}");
        }
    }

    #[test]
    fn an_old_program_is_worth_a_word_and_a_new_one_is_not() {
        let verdict = |said| escape("runc", said, Version([1, 2, 8]), "CVE-2024-21626").verdict;
        assert!(matches!(verdict("runc version 1.1.5+ds1"), Verdict::Noted(why) if why.contains("CVE-2024-21626")));
        assert_eq!(verdict("runc version 1.2.8"), Verdict::Good);
        assert_eq!(verdict("runc version 1.10.0"), Verdict::Good);
    }

    #[test]
    fn controllers_that_are_missing_are_named() {
        let mount = tempfile::tempdir().expect("a folder");
        assert_eq!(cgroups(mount.path()).found, "version 1");
        std::fs::write(mount.path().join("cgroup.controllers"), "cpuset cpu io pids\n").expect("writes");
        assert!(matches!(cgroups(mount.path()).verdict, Verdict::Noted(why) if why.starts_with("memory cannot")));
        std::fs::write(mount.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").expect("writes");
        assert_eq!(cgroups(mount.path()).verdict, Verdict::Good);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_has_no_version() {
        assert_eq!(version_of("narvana-no-such-program").await, None);
    }
}
