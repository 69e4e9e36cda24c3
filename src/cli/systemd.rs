//! Hands a node to systemd: writes the unit, has it started, and, as a started node, tells it when the node serves.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::environment;
use super::outcome::{Exit, failure};
use super::unit::MARK;

/// There while systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// The unit's name.
const NAME: &str = "narvana.service";

/// The service manager: the machine's for root, the user's own otherwise.
pub(super) struct Systemd {
    booted: PathBuf,
    units: PathBuf,
    systemctl: PathBuf,
    user: bool,
}

impl Systemd {
    /// The one that fits who runs this program.
    pub(super) fn of_this_user() -> anyhow::Result<Self> {
        let user = !rustix::process::geteuid().is_root();
        let units = if user {
            let config = environment::config_home();
            config.context("there is no home folder to keep the unit in: set XDG_CONFIG_HOME")?.join("systemd/user")
        } else {
            PathBuf::from("/etc/systemd/system")
        };
        Ok(Self { booted: BOOTED.into(), units, systemctl: "systemctl".into(), user })
    }

    /// Whether it is a user's own.
    pub(super) fn is_user(&self) -> bool {
        self.user
    }

    /// Refuses when systemd does not run this machine, or the unit is somebody else's. Called before anything is made.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if !self.booted.is_dir() {
            return Err(failure(
                Exit::Failed,
                "--service needs systemd, which does not run this machine\n  next: leave --service out and have whatever \
                 starts programs here start `narvana run`; it stays in the foreground and stops on SIGTERM",
            ));
        }
        let unit = self.unit();
        match fs::read_to_string(&unit) {
            Ok(text) if text.starts_with(MARK) => Ok(()),
            Ok(_) => Err(failure(
                Exit::Conflict,
                format!("{} exists and was not written by narvana; move it away first", unit.display()),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", unit.display())),
        }
    }

    /// Writes the unit and starts it, or restarts it when it runs; returns when the node serves.
    pub(super) fn install(&self, text: &str) -> anyhow::Result<()> {
        let unit = self.unit();
        self.write(&unit, text).with_context(|| format!("cannot write {}", unit.display()))?;
        self.systemctl(&["daemon-reload"])?;
        self.systemctl(&["enable", NAME])?;
        // Not `enable --now`, which leaves a running node with its old flags.
        self.systemctl(&["restart", NAME])
    }

    /// How to read the node's log.
    pub(super) fn log_command(&self) -> String {
        format!("journalctl {}--unit {NAME}", if self.user { "--user " } else { "" })
    }

    fn unit(&self) -> PathBuf {
        self.units.join(NAME)
    }

    /// A half-written unit must never be seen by systemd.
    fn write(&self, unit: &Path, text: &str) -> io::Result<()> {
        fs::create_dir_all(&self.units)?;
        let file = tempfile::NamedTempFile::new_in(&self.units)?;
        fs::write(file.path(), text)?;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644))?;
        file.persist(unit)?;
        Ok(())
    }

    fn systemctl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(&self.systemctl);
        if self.user {
            command.arg("--user");
        }
        let line = format!("systemctl {}{}", if self.user { "--user " } else { "" }, arguments.join(" "));
        let ended = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = ended.with_context(|| format!("cannot run `{line}`"))?;
        if status.success() {
            return Ok(());
        }
        Err(failure(
            Exit::Failed,
            format!(
                "`{line}` failed with {status}; the unit is {}\n  next: `{}` shows the node's log",
                self.unit().display(),
                self.log_command()
            ),
        ))
    }
}

/// Tells systemd that the node serves, when systemd started it and waits for that (sd_notify(3)).
pub(super) fn tell_ready() {
    let Some(socket) = environment::notify_socket() else { return };
    if let Err(error) = notify(socket.as_bytes(), b"READY=1") {
        tracing::warn!(%error, "systemd cannot be told that the node serves");
    }
}

fn notify(socket: &[u8], message: &[u8]) -> io::Result<()> {
    let address = match socket {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with systemd in `folder`, whose systemctl writes down what it is told and ends with `code`.
    fn machine(folder: &Path, code: u8) -> Systemd {
        let systemctl = folder.join("systemctl");
        let script = format!("#!/bin/sh\necho \"$@\" >>'{}/calls'\nexit {code}\n", folder.display());
        fs::write(&systemctl, script).expect("written");
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).expect("executable");
        Systemd { booted: folder.to_owned(), units: folder.join("units"), systemctl, user: true }
    }

    #[test]
    fn a_unit_is_written_and_started_and_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let systemd = machine(folder.path(), 0);
        for text in [format!("{MARK}\nfirst"), format!("{MARK}\nsecond")] {
            systemd.check().expect("free, or ours");
            systemd.install(&text).expect("installed");
            assert_eq!(fs::read_to_string(folder.path().join("units/narvana.service")).expect("a unit"), text);
        }
        let mode = fs::metadata(folder.path().join("units/narvana.service")).expect("a unit").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        let calls = fs::read_to_string(folder.path().join("calls")).expect("calls");
        let once = "--user daemon-reload\n--user enable narvana.service\n--user restart narvana.service\n";
        assert_eq!(calls, once.repeat(2));
    }

    #[test]
    fn a_failing_systemctl_and_a_foreign_unit_are_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let systemd = machine(folder.path(), 3);
        let error = systemd.install(MARK).expect_err("refused").to_string();
        assert!(error.contains("`systemctl --user daemon-reload` failed"), "{error}");
        assert!(error.contains("journalctl --user --unit narvana.service"), "{error}");
        fs::write(folder.path().join("units/narvana.service"), "[Unit]\n").expect("written");
        let error = systemd.check().expect_err("refused").to_string();
        assert!(error.contains("was not written by narvana"), "{error}");
    }

    #[test]
    fn a_machine_without_systemd_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let systemd = Systemd { booted: folder.path().join("absent"), ..machine(folder.path(), 0) };
        let error = systemd.check().expect_err("refused").to_string();
        assert!(error.contains("needs systemd") && error.contains("narvana run"), "{error}");
    }

    #[test]
    fn systemd_is_told_on_a_path_and_on_an_abstract_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let abstract_name = format!("narvana-test-{}", folder.path().display());
        let on_path = UnixDatagram::bind(&path).expect("bound");
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("an address");
        let on_name = UnixDatagram::bind_addr(&address).expect("bound");
        notify(path.as_os_str().as_bytes(), b"READY=1").expect("sent");
        notify(format!("@{abstract_name}").as_bytes(), b"READY=1").expect("sent");
        for socket in [on_path, on_name] {
            let mut message = [0; 16];
            let length = socket.recv(&mut message).expect("a message");
            assert_eq!(&message[..length], b"READY=1");
        }
    }
}
