//! The few variables that no flag stands for, and the folders that follow from them.

use std::ffi::OsString;
use std::path::PathBuf;

/// A variable, unless it is empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The password, which is never an argument, since every user of a machine sees those.
pub(super) fn password() -> Option<String> {
    variable("NARVANA_PASSWORD").and_then(|value| value.into_string().ok())
}

/// The passphrase of a backup, for the same reason.
pub(super) fn backup_passphrase() -> Option<String> {
    variable("NARVANA_BACKUP_PASSPHRASE").and_then(|value| value.into_string().ok())
}

/// Whether the user wants no colour (no-color.org).
pub(super) fn no_color() -> bool {
    variable("NO_COLOR").is_some()
}

/// Where the user's configuration belongs; none without a home.
pub(super) fn config_dir() -> Option<PathBuf> {
    config_home().map(|base| base.join("narvana"))
}

/// Where the configuration of all of the user's programs belongs; none without a home.
pub(super) fn config_home() -> Option<PathBuf> {
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")))
}

/// The socket on which systemd waits to hear that a service is ready.
pub(super) fn notify_socket() -> Option<OsString> {
    variable("NOTIFY_SOCKET")
}

/// The names of all variables that are set and not empty.
pub(super) fn names() -> Vec<String> {
    let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    set.filter_map(|(name, _)| name.into_string().ok()).collect()
}

/// Variables of ours that no flag stands for: the password and the passphrase, and what this repository's scripts read.
pub(super) const WITHOUT_FLAG: &[&str] =
    &["NARVANA_PASSWORD", "NARVANA_BACKUP_PASSPHRASE", "NARVANA_BIN", "NARVANA_PROFILE"];

/// Where the user's programs keep what they have, when the user says so.
pub(super) fn data_home() -> Option<PathBuf> {
    absolute("XDG_DATA_HOME")
}

fn absolute(name: &str) -> Option<PathBuf> {
    // The specification says that relative paths are to be ignored.
    variable(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}
