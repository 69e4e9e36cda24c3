//! Versions of what the members of a cluster write: into the log, into the rows of the state, and to each other.
//!
//! A cluster is at one version, which is part of its state. Programs support a range of them. What came with a version is
//! written only when the cluster is at it, and the cluster is raised to it only when every member supports it; so while
//! members are upgraded one after the other, nobody meets what it does not understand.

use std::ops::RangeInclusive;

/// A version, and what may be written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterVersion {
    /// The version. One more than the one before.
    pub number: u32,
    /// What came with it.
    pub brought: &'static str,
}

/// Every version that this program supports, oldest first. What comes new into the log gets a new one at the end, and says so
/// in `Command::since`. The first ones go when no cluster is at them any more.
pub const CLUSTER_VERSIONS: [ClusterVersion; 6] = [
    ClusterVersion { number: 1, brought: "the first" },
    ClusterVersion { number: 2, brought: "settings can be reset to their defaults (command reset_setting)" },
    ClusterVersion {
        number: 3,
        brought: "all instances of a deployment run the same image of a registry (command pin_image)",
    },
    ClusterVersion {
        number: 4,
        brought: "builds of Go and Node.js by generated flakes, what a service says over what is found in its source (fields of \
                  build_config), and more codes of failed builds",
    },
    ClusterVersion {
        number: 5,
        brought: "builds of Rust and Python by generated flakes, and recipes that are kept with builds (command keep_recipe)",
    },
    ClusterVersion {
        number: 6,
        brought: "what was built before is not built again (commands note_input and deploy_anew), more fields of build_config (those of \
                  `DETAILS` that say so), and the setting nixpkgs",
    },
];

/// The oldest version of a cluster that this program can work in.
pub const OLDEST_CLUSTER_VERSION: u32 = CLUSTER_VERSIONS[0].number;
/// The newest one.
pub const NEWEST_CLUSTER_VERSION: u32 = CLUSTER_VERSIONS[CLUSTER_VERSIONS.len() - 1].number;

/// A program cannot work in a cluster of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The program is too old.
    #[error(
        "the cluster is at cluster version {needed} or later, and this program supports up to {newest}: upgrade narvana on this \
         node to the version that the other nodes run, and start it again; nothing is lost"
    )]
    ProgramTooOld {
        /// What has to be supported.
        needed: u32,
        /// The newest that is.
        newest: u32,
    },
    /// The program is too new.
    #[error(
        "the cluster is at cluster version {found}, and this program supports none before {oldest}: start the version of narvana \
         that ran here before, and upgrade all nodes to one in between first; nothing is lost"
    )]
    ProgramTooNew {
        /// What the cluster is at.
        found: u32,
        /// The oldest that is supported.
        oldest: u32,
    },
}

/// Refuses a version that is not among those that are supported.
///
/// # Errors
/// Says which side is too old.
pub fn check_cluster_version(found: u32, supported: &RangeInclusive<u32>) -> Result<(), Unsupported> {
    if found > *supported.end() {
        return Err(Unsupported::ProgramTooOld { needed: found, newest: *supported.end() });
    }
    if found < *supported.start() {
        return Err(Unsupported::ProgramTooNew { found, oldest: *supported.start() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_no_gap_and_say_what_they_brought() {
        for (one, next) in CLUSTER_VERSIONS.iter().zip(&CLUSTER_VERSIONS[1..]) {
            assert_eq!(one.number + 1, next.number);
        }
        assert!(CLUSTER_VERSIONS.iter().all(|version| !version.brought.is_empty()));
    }

    #[test]
    fn both_versions_and_the_fix_are_named() {
        assert_eq!(check_cluster_version(3, &(3..=5)), Ok(()));
        assert_eq!(check_cluster_version(5, &(3..=5)), Ok(()));
        let old = check_cluster_version(6, &(3..=5)).expect_err("too old").to_string();
        assert!(old.contains("version 6 ") && old.contains("up to 5") && old.contains("upgrade narvana"), "{old}");
        let new = check_cluster_version(2, &(3..=5)).expect_err("too new").to_string();
        assert!(new.contains("version 2,") && new.contains("before 3") && new.contains("in between"), "{new}");
    }
}
