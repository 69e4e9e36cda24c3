//! Signals that no engine sends: to all of a container whose engine hangs, and to one command inside it. The kernel knows whose
//! processes they are.

use std::collections::HashSet;
use std::fs;
use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills every process of the container with this id on this machine and says how many there were. The engine's own process beside
/// it, which notes how it ended, goes on.
pub(super) fn kill(id: &str) -> io::Result<usize> {
    check(id)?;
    let (mut killed, mut refused) = (HashSet::new(), None);
    loop {
        let before = killed.len();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
            // Whoever ends meanwhile is no trouble. Opened before it is looked at: the number may be another one's by then.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if !killed.contains(&pid) && belongs(pid, id) {
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

/// Tells a process of the container that its terminal was closed. One that is not, or no longer, known here as one of the container
/// is told nothing: an engine may count its processes elsewhere.
pub(super) fn hang_up(id: &str, process: Pid) -> io::Result<()> {
    check(id)?;
    let stranger = || io::Error::new(io::ErrorKind::NotFound, "the process is none of the container's on this machine");
    let opened = pidfd_open(process, PidfdFlags::empty()).map_err(|_| stranger())?;
    if !belongs(process, id) {
        return Err(stranger());
    }
    // The second is for one that was stopped, which would not hear the first.
    for signal in [Signal::HUP, Signal::CONT] {
        match pidfd_send_signal(&opened, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Refuses what is no id of an engine: anything shorter could be part of another path.
pub(super) fn check(id: &str) -> io::Result<()> {
    if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no id of a container"))
}

pub(super) fn belongs(process: Pid, id: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    groups.lines().any(|group| is_in(group, id))
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
        hang_up(&id, rustix::process::getpid()).expect_err("it is not of that container, and left alone");
        for id in ["", "ab", "../../x", &"zz".repeat(32)] {
            assert!(kill(id).is_err() && hang_up(id, Pid::INIT).is_err(), "{id}");
        }
    }
}
