//! Why a container's process ended, in words a user can act on.

use crate::engine::ContainerStatus;
use crate::model::{Exit, Memory};

/// Signals that end processes often enough to have names in a message.
const SIGNALS: [(i64, &str); 7] =
    [(1, "SIGHUP"), (2, "SIGINT"), (4, "SIGILL"), (6, "SIGABRT"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM")];

/// The exit of a container that does not run, if its process ever began.
pub(super) fn exit_of(status: &ContainerStatus) -> Option<Exit> {
    status.exit_code.map(|code| Exit { code, out_of_memory: status.oom_killed })
}

/// What happened and what to do about it.
pub(super) fn reason(status: &ContainerStatus, memory: Memory) -> String {
    if let Some(error) = &status.error {
        return format!("the container could not be started: {error}");
    }
    if status.oom_killed {
        return format!("it was killed for using more memory than the {memory} it may; raise resources.memory");
    }
    match status.exit_code {
        None => "its container never started".to_owned(),
        Some(0) => "its process ended with exit code 0; a service has to keep running".to_owned(),
        Some(126) => "its process ended with exit code 126: the command cannot be executed".to_owned(),
        Some(127) => "its process ended with exit code 127: the command was not found in the image".to_owned(),
        Some(code @ 129..=192) => {
            let number = code - 128;
            let name = SIGNALS.iter().find(|(signal, _)| *signal == number);
            let name = name.map_or_else(|| format!("signal {number}"), |(_, name)| (*name).to_owned());
            format!("its process was ended by {name} (exit code {code})")
        }
        Some(code) => format!("its process ended with exit code {code}"),
    }
}

/// What may be behind it, when the image says that it is for another processor. It is no reason to refuse the image: some say it
/// wrongly, and some machines can run others.
pub(super) fn foreign_image(image: &str, machine: &str) -> Option<String> {
    (image != machine)
        .then(|| format!("its image is for {image} and this machine is {machine}: deploy one that is for {machine}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ContainerState, Labels};

    fn ended(exit_code: Option<i64>, oom_killed: bool, error: Option<&str>) -> ContainerStatus {
        ContainerStatus {
            id: "id".to_owned(),
            name: "name".to_owned(),
            image_id: "sha256:0".to_owned(),
            labels: Labels::new(),
            state: ContainerState::Exited,
            exit_code,
            oom_killed,
            started_at: None,
            finished_at: None,
            error: error.map(str::to_owned),
            bindings: Vec::new(),
        }
    }

    #[test]
    fn each_end_has_its_words() {
        let memory = Memory::from_mebibytes(64);
        for (status, words) in [
            (ended(Some(137), true, None), "64Mi"),
            (ended(Some(137), false, None), "SIGKILL"),
            (ended(Some(160), false, None), "signal 32"),
            (ended(Some(0), false, None), "keep running"),
            (ended(Some(127), false, None), "not found"),
            (ended(Some(3), false, None), "exit code 3"),
            (ended(None, false, Some("no such file")), "no such file"),
            (ended(None, false, None), "never started"),
        ] {
            assert!(reason(&status, memory).contains(words), "{}", reason(&status, memory));
        }
        assert_eq!(foreign_image("amd64", "amd64"), None);
        assert!(foreign_image("s390x", "amd64").expect("named").contains("for s390x and this machine is amd64"));
    }
}
