//! The end of a container without its engine, for one that hangs: the kernel knows whose processes they are.

use std::collections::HashSet;
use std::fs;
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills every process of the container with this id on this machine and says how many there were. The engine's own process beside
/// it, which notes how it ended, goes on.
pub(super) fn kill(id: &str) -> io::Result<usize> {
    // Ids of engines; anything shorter could be part of another path.
    if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no id of a container"));
    }
    let (mut killed, mut refused) = (HashSet::new(), None);
    loop {
        let before = killed.len();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
            // Whoever ends meanwhile is no trouble. Opened before it is looked at: the number may be another one's by then.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if !killed.contains(&pid) && groups.lines().any(|group| is_in(group, id)) {
                match pidfd_send_signal(&process, Signal::KILL) {
                    Ok(()) => killed.insert(pid),
                    Err(rustix::io::Errno::SRCH) => continue,
                    // The others all the same.
                    Err(error) => {
                        refused = Some(error.into());
                        continue;
                    }
                };
            }
        }
        // One of them may have made another one meanwhile.
        if killed.len() == before {
            return refused.map_or(Ok(killed.len()), Err);
        }
    }
}

/// Whether a control group, as `/proc` names it, is the container's: `…/<id>`, `…/docker-<id>.scope`, `…/libpod-<id>/inside`.
fn is_in(group: &str, id: &str) -> bool {
    let mut parts = group.split('/').map(|part| part.trim_end_matches(".scope"));
    parts.any(|part| part.strip_suffix(id).is_some_and(|kind| !kind.contains("conmon")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_names_its_container() {
        let id = "ab".repeat(32);
        for group in [
            format!("0::/docker/{id}"),
            format!("1:name=systemd:/system.slice/docker-{id}.scope"),
            format!("4:memory:/libpod_parent/libpod-{id}"),
            format!("0::/user.slice/user-7.slice/user@7.service/user.slice/libpod-{id}.scope/container/init"),
        ] {
            assert!(is_in(&group, &id), "{group}");
        }
        let other = "cd".repeat(32);
        for group in [
            format!("0::/docker/{other}"),
            format!("0::/machine.slice/libpod-conmon-{id}.scope"),
            format!("0::/libpod_parent/{id}x"),
            "0::/".to_owned(),
        ] {
            assert!(!is_in(&group, &id), "{group}");
        }
        for id in ["", "ab", "../../x", &"zz".repeat(32)] {
            assert!(kill(id).is_err(), "{id}");
        }
    }
}
