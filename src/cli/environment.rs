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

/// Whether the user wants no colour (no-color.org).
pub(super) fn no_color() -> bool {
    variable("NO_COLOR").is_some()
}

/// Where the user's configuration belongs; none without a home.
pub(super) fn config_dir() -> Option<PathBuf> {
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| home().map(|home| home.join(".config")));
    base.map(|base| base.join("narvana"))
}

/// Where the user's programs keep what they have, when the user says so.
pub(super) fn data_home() -> Option<PathBuf> {
    absolute("XDG_DATA_HOME")
}

fn absolute(name: &str) -> Option<PathBuf> {
    // The specification says that relative paths are to be ignored.
    variable(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}
