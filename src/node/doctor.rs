//! What is wrong with this machine: looked at from outside, with and without a node, and changing nothing.
//!
//! Every check stands alone: what it cannot find out it says, and the others go on.

use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use rustix::process::{Resource, geteuid, getrlimit};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::build;
use crate::client::{self, Client};
use crate::clock;
use crate::cluster::{DataDir, Identity, PEER_LIFE, key_pin};
use crate::config::NodeConfig;
use crate::engine::redirecting_program;
use crate::model::Timestamp;
use crate::rpc::Newcomer;
use crate::task::blocking;

use super::checkup::{Check, Checkup, FREE_DATA, Verdict, clock, container_engine, disk_space, disk_speed, member};
use super::endpoints::Endpoints;
use super::founding::AUTHORITY_FILE;
use super::holders::Process;
use super::joining::{DOORS, doors_in};
use super::options::engine_options;
use super::{engine_storage, holes, preflight, removal};

/// A certificate that has no more than this left was not renewed when it was due; some time for trying again is allowed.
const RENEWAL_OVERDUE: Duration = PEER_LIFE.saturating_sub(Duration::from_secs(21 * 24 * 60 * 60));
/// Open files with which a busy node runs out.
const FILES_NOTED: u64 = 8_192;
/// What to do when images and containers have no room.
const FREE_ENGINE: &str = "free some, or give the engine a larger disk: without room nothing can be built or pulled";
/// What the limits of instances need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Programs that keep clocks right, as the kernel names their processes.
const TIME_KEEPERS: [&str; 5] = ["chronyd", "ntpd", "openntpd", "ntpsec", SYSTEMD_TIMESYNC];
/// That of systemd, which has notes of its own; the kernel cuts its name.
const SYSTEMD_TIMESYNC: &str = "systemd-timesyn";
/// Made by it when it has set the clock.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Looks at everything.
pub async fn examine(config: &NodeConfig) -> anyhow::Result<Checkup> {
    let folder = &config.data_dir;
    let mut checks = vec![system(), limits(), cgroups(Path::new("/sys/fs/cgroup")), time_keeper(), users()];
    // Looking for an engine may leave a socket.
    let scratch = tempfile::tempdir()?;
    checks.push(container_engine(engine_options(config, scratch.path(), "doctor".to_owned())).await);
    checks.extend(holes::look().await);
    checks.push(git(holes::version_of("git").await));
    let can_fence = holes::version_of(build::FENCE_MAKER).await.is_some();
    // Whoever looks may be somebody else than who runs the node.
    let is_root = std::fs::metadata(folder).map_or_else(|_| geteuid().is_root(), |about| about.uid() == 0);
    checks.push(nix(holes::version_of("nix").await, can_fence, is_root));
    checks.push(discovery(blocking(redirecting_program).await));
    checks.extend(engine_storage::folders().iter().map(|(what, folder)| disk_space(what, folder, FREE_ENGINE)));
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
    let mut checks = vec![owner(folder), disk_space("free space", folder, FREE_DATA), disk_speed(folder).await];
    let running = Endpoints::of_running(folder);
    let what = format!("{} of cluster {}", identity.node, identity.cluster);
    checks.push(match &running {
        Some(endpoints) => {
            let found = format!("{what}, process {}", endpoints.pid);
            Check { what: "node", found, verdict: serves(endpoints).await }
        }
        None => at_rest_in(folder, what),
    });
    match &running {
        // Its own port shows whether its certificate is good.
        Some(endpoints) => {
            let own = peer(folder, identity, &endpoints.grpc).await;
            checks.extend(own.unwrap_or_else(|error| vec![out_of_reach(&endpoints.grpc, &error, false)]));
        }
        None => checks.push(preflight::ports(config, (Ipv4Addr::UNSPECIFIED.into(), config.grpc_port))),
    }
    let others = doors_in(&std::fs::read(folder.join(DOORS)).unwrap_or_default());
    let asked = others.iter().map(|other| async { (&other.address, peer(folder, identity, &other.address).await) });
    let answers = join_all(asked).await;
    let somebody_answers = answers.iter().any(|(_, answer)| answer.is_ok());
    for (address, answer) in answers {
        checks.extend(answer.unwrap_or_else(|error| vec![out_of_reach(address, &error, somebody_answers)]));
    }
    checks
}

/// A member that does not answer. Members die, and this machine may be well all the same when others answer it.
fn out_of_reach(address: &str, error: &str, somebody_answers: bool) -> Check {
    let verdict = if somebody_answers {
        Verdict::Noted(format!("{error}; others answer: `narvana node ls` says whether it is away or was removed"))
    } else {
        Verdict::Bad(format!("{error}; see `narvana status`, and whether a firewall is between"))
    };
    Check { what: "member", found: address.to_owned(), verdict }
}

/// A node that does not say where it listens: perhaps it was told that it is no member any more.
fn at_rest_in(folder: &Path, found: String) -> Check {
    match removal::told_in(folder) {
        Some(words) => Check { what: "node", found, verdict: Verdict::Bad(words) },
        None => at_rest(found, Process::locking(&DataDir::lock_file(folder))),
    }
}

/// The same of one that is a member as far as it knows, and who has its folder.
fn at_rest(found: String, holder: Option<Process>) -> Check {
    let verdict = match holder {
        Some(process) => Verdict::Noted(format!(
            "{process} has its folder and does not serve: it is starting, stopping, or stuck; its log says which"
        )),
        None => Verdict::Noted("it does not run: `narvana run`, or `systemctl start narvana`".to_owned()),
    };
    Check { what: "node", found, verdict }
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
async fn peer(folder: &Path, identity: Identity, address: &str) -> Result<Vec<Check>, String> {
    let pem = std::fs::read(folder.join(AUTHORITY_FILE)).unwrap_or_default();
    let pin = CertificateDer::from_pem_slice(&pem).ok().and_then(|authority| key_pin(&authority));
    let Some(newcomer) = pin.and_then(|pin| Newcomer::new(identity.cluster, pin).ok()) else {
        return Err(format!("{AUTHORITY_FILE} in the data folder cannot be read"));
    };
    let door = newcomer.reach(address, clock::now).await.map_err(|error| error.to_string())?;
    Ok(vec![member(&door), certificate(door.valid_until, clock::now()), clock(door.clock_ahead_ms)])
}

/// How long the certificate of a member is good for.
fn certificate(until: Option<Timestamp>, now: Timestamp) -> Check {
    let what = "certificate";
    let Some(until) = until else {
        let verdict = Verdict::Noted("it cannot be read".to_owned());
        return Check { what, found: "shown".to_owned(), verdict };
    };
    let verdict = if until.since(now) > RENEWAL_OVERDUE {
        Verdict::Good
    } else {
        let words =
            "it should have been renewed after two thirds of its life: the log of that node says why it was not";
        Verdict::Noted(words.to_owned())
    };
    Check { what, found: format!("until {until}"), verdict }
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
    kept(keeper.as_deref().map(str::trim_end), Path::new(SYNCHRONISED).exists())
}

/// By who keeps the clock, and by whether systemd says that it did.
fn kept(keeper: Option<&str>, synchronised: bool) -> Check {
    let verdict = match keeper {
        Some(SYSTEMD_TIMESYNC) if !synchronised => {
            Verdict::Noted("it has not reached a time server yet: `timedatectl timesync-status`".to_owned())
        }
        Some(_) => Verdict::Good,
        None => Verdict::Noted(
            "nothing seems to keep the clock right: install chrony, unless the machine's host does it".to_owned(),
        ),
    };
    Check { what: "keeper of the clock", found: keeper.unwrap_or("nobody").to_owned(), verdict }
}

/// Containers without root need numbers of users and groups of their own, and namespaces of users.
fn users() -> Check {
    let number = geteuid().as_raw().to_string();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = name_of(&read("/etc/passwd"), &number).unwrap_or_else(|| number.clone());
    let has_range = |table: &str| has_range(&read(table), &name, &number);
    let may = Rootless {
        ranges: has_range("/etc/subuid") && has_range("/etc/subgid"),
        namespaces: namespaces(
            &read("/proc/sys/user/max_user_namespaces"),
            &read("/proc/sys/kernel/unprivileged_userns_clone"),
        ),
    };
    user(name, geteuid().is_root(), may)
}

/// What somebody other than root may do.
struct Rootless {
    ranges: bool,
    namespaces: bool,
}

fn user(name: String, is_root: bool, may: Rootless) -> Check {
    let verdict = match may {
        _ if is_root => Verdict::Good,
        Rootless { namespaces: false, .. } => Verdict::Noted(
            "Podman without root needs namespaces of users, which the kernel refuses: `sysctl user.max_user_namespaces \
             kernel.unprivileged_userns_clone` shows which of the two is 0"
                .to_owned(),
        ),
        Rootless { ranges: false, .. } => Verdict::Noted(format!(
            "Podman without root needs numbers for users and groups: `usermod --add-subuids 100000-165535 --add-subgids \
             100000-165535 {name}`"
        )),
        Rootless { .. } => Verdict::Good,
    };
    Check { what: "user", found: name, verdict }
}

fn name_of(passwd: &str, number: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(number)).then(|| name.to_owned())
    })
}

fn has_range(table: &str, name: &str, number: &str) -> bool {
    table.lines().any(|line| line.split(':').next().is_some_and(|of| of == name || of == number))
}

/// By two settings of the kernel, which not every kernel has.
fn namespaces(most: &str, allowed: &str) -> bool {
    most.trim() != "0" && allowed.trim() != "0"
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

fn discovery(program: Option<&str>) -> Check {
    let verdict = match program {
        Some(_) => Verdict::Good,
        None => Verdict::Noted(
            "what runs here does not find services of its app on other nodes: install iptables or nftables".to_owned(),
        ),
    };
    Check { what: "services of other nodes", found: program.unwrap_or("not found").to_owned(), verdict }
}

fn git(said: Option<String>) -> Check {
    let (found, verdict) = match said {
        Some(said) => (said, Verdict::Good),
        None => ("none".to_owned(), Verdict::Noted("services from git cannot be built here: install git".to_owned())),
    };
    Check { what: "git", found, verdict }
}

/// What a node needs that is to build flakes, its own and those of others.
fn nix(nix: Option<String>, can_fence: bool, is_root: bool) -> Check {
    let noted = |words: &str| Verdict::Noted(words.to_owned());
    let verdict = match (&nix, can_fence, is_root) {
        (None, _, _) => noted("only what has a Dockerfile can be built here: install Nix, which builds the rest"),
        (_, false, _) => {
            noted("only what has a Dockerfile can be built here: install bubblewrap, which fences in what Nix does")
        }
        (_, _, false) => noted("what has no Dockerfile is built here only by a node that runs as root"),
        (Some(_), true, true) => Verdict::Good,
    };
    Check { what: "Nix", found: nix.unwrap_or_else(|| "none".to_owned()), verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_for_nix_is_noted() {
        let known = || Some("nix (Nix) 2.8.0".to_owned());
        let verdict = |can_fence, is_root| nix(known(), can_fence, is_root).verdict;
        assert!(matches!(nix(None, true, true).verdict, Verdict::Noted(words) if words.contains("install Nix")));
        assert_eq!(verdict(true, true), Verdict::Good);
        assert!(matches!(verdict(false, true), Verdict::Noted(words) if words.contains("install bubblewrap")));
        assert!(matches!(verdict(true, false), Verdict::Noted(words) if words.contains("runs as root")));
    }

    #[test]
    fn a_certificate_that_was_not_renewed_is_noted() {
        let now = Timestamp(1_800_000_000_000);
        let left = |days: u64| certificate(Some(now.plus(Duration::from_secs(days * 24 * 60 * 60))), now);
        for days in [30, 11, 10] {
            assert_eq!(left(days).verdict, Verdict::Good, "{days}");
        }
        for days in [9, 1, 0] {
            assert!(matches!(left(days).verdict, Verdict::Noted(words) if words.contains("renewed")), "{days}");
        }
        assert_eq!(left(30).found, "until 2027-02-14T08:00:00.000Z");
        assert!(matches!(certificate(None, now).verdict, Verdict::Noted(_)));
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

    #[test]
    fn a_clock_that_nobody_keeps_is_worth_a_word() {
        for (keeper, synchronised, good) in [
            (Some("chronyd"), false, true),
            (Some("systemd-timesyn"), true, true),
            (Some("systemd-timesyn"), false, false),
            (None, false, false),
            // Left by a keeper that has ended.
            (None, true, false),
        ] {
            assert_eq!(kept(keeper, synchronised).verdict == Verdict::Good, good, "{keeper:?} {synchronised}");
        }
    }

    #[test]
    fn what_containers_without_root_lack_is_named() {
        let verdict =
            |is_root, ranges, namespaces| user("ada".to_owned(), is_root, Rootless { ranges, namespaces }).verdict;
        assert_eq!(verdict(true, false, false), Verdict::Good);
        assert_eq!(verdict(false, true, true), Verdict::Good);
        assert!(matches!(verdict(false, false, true), Verdict::Noted(why) if why.ends_with("ada`")));
        assert!(matches!(verdict(false, false, false), Verdict::Noted(why) if why.contains("max_user_namespaces")));
        assert_eq!(name_of("root:x:0:0::/root:\nada:x:1000:1000::/home/ada:", "1000").as_deref(), Some("ada"));
        assert_eq!(name_of("ada:x:10000:1000::/home/ada:", "1000"), None);
        assert!(has_range("bob:1:2\nada:100000:65536\n", "ada", "1000") && has_range("1000:1:2", "ada", "1000"));
        assert!(!has_range("adam:100000:65536", "ada", "1000") && !has_range("", "ada", "1000"));
        for (most, allowed, may) in
            [("95000\n", "1\n", true), ("95000\n", "", true), ("0\n", "", false), ("9\n", "0\n", false)]
        {
            assert_eq!(namespaces(most, allowed), may, "{most:?} {allowed:?}");
        }
    }

    #[test]
    fn a_folder_that_is_in_use_is_not_called_idle() {
        let advice = |holder| match at_rest("node 1".to_owned(), holder).verdict {
            Verdict::Noted(advice) => advice,
            other => panic!("{other:?}"),
        };
        assert!(advice(None).starts_with("it does not run"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        rustix::fs::flock(file.as_file(), rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("locked");
        let said = advice(Process::locking(file.path()));
        assert!(said.starts_with(&format!("process {} (", std::process::id())), "{said}");
    }

    #[test]
    fn a_node_that_was_removed_is_told_apart_from_one_that_does_not_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let look = || at_rest_in(folder.path(), "1 of cluster x".to_owned());
        assert!(matches!(look().verdict, Verdict::Noted(words) if words.starts_with("it does not run")));
        std::fs::write(folder.path().join("ended"), "n1 (node 1) was removed from this cluster").expect("writes");
        assert_eq!(look().verdict, Verdict::Bad("n1 (node 1) was removed from this cluster".to_owned()));
    }

    #[test]
    fn a_member_that_is_away_is_no_fault_of_a_machine_that_others_answer() {
        let verdict = |somebody_answers| out_of_reach("n2:9090", "no answer", somebody_answers).verdict;
        assert!(matches!(verdict(true), Verdict::Noted(words) if words.contains("node ls")));
        assert!(matches!(verdict(false), Verdict::Bad(words) if words.contains("firewall")));
    }
}
