//! Programs that containers are made with, and which of their versions had holes through which one could get out.
//!
//! Distributions mend old versions without a new number, so this never says that a hole is there, only that it may be.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::checkup::{Check, Verdict};

/// Longest wait for a program that says its version.
const VERSION_WAIT_MAX: Duration = Duration::from_secs(5);

/// What had holes, and since when it has none of them.
struct Program {
    name: &'static str,
    /// The first version without them in each line of releases that was mended, in order; lines behind the last never had them.
    mended: &'static [Version],
    /// Which.
    holes: &'static str,
}

const PROGRAMS: [Program; 4] = [
    Program {
        name: "runc",
        mended: &[Version::new(1, 2, 8), Version::new(1, 3, 3), Version::new(1, 4, 0)],
        holes: "CVE-2024-21626, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
    },
    // Only of images with a virtual machine of their own, which a container's image can ask for.
    Program { name: "crun", mended: &[Version::new(1, 20, 0)], holes: "CVE-2025-24965" },
    Program {
        name: "buildah",
        mended: &[Version::new(1, 33, 12), Version::new(1, 38, 1)],
        holes: "CVE-2024-1753, CVE-2024-9407, CVE-2024-11218, while it builds",
    },
    // It builds with the buildah that is compiled into it: 5.3.2 has 1.38.1.
    Program {
        name: "podman",
        mended: &[Version::new(5, 3, 2)],
        holes: "CVE-2024-1753, CVE-2024-9407, CVE-2024-11218, while it builds",
    },
];

/// Those of them that this machine has.
pub(super) async fn look() -> Vec<Check> {
    let mut checks = Vec::new();
    for program in &PROGRAMS {
        checks.extend(version_of(program.name).await.map(|said| check(program, said)));
    }
    checks
}

/// The first line that a program says of its version; nothing when it is not there.
pub(super) async fn version_of(program: impl AsRef<OsStr>) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(VERSION_WAIT_MAX, command.output()).await.ok()?.ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn check(program: &Program, said: String) -> Check {
    let verdict = match Version::find(&said) {
        Some(version) if program.is_mended(version) => Verdict::Good,
        Some(_) => {
            let first: Vec<String> = program.mended.iter().map(Version::to_string).collect();
            Verdict::Noted(format!(
                "a container may be able to get out ({}), unless your distribution has mended it: keep it up to date, or take {}",
                program.holes,
                first.join(" or ")
            ))
        }
        None => Verdict::Noted("its version cannot be read".to_owned()),
    };
    Check { what: program.name, found: said, verdict }
}

impl Program {
    /// Whether a version is behind the one that mended its own line, or of a line behind all of them.
    fn is_mended(&self, version: Version) -> bool {
        let own_line = self.mended.iter().find(|mended| mended.line() == version.line());
        match (own_line, self.mended.last()) {
            (Some(mended), _) => version >= *mended,
            (None, last) => last.is_some_and(|last| version > *last),
        }
    }
}

/// Three numbers of a version, and whether it is one, or only on its way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    numbers: [u32; 3],
    released: bool,
}

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { numbers: [major, minor, patch], released: true }
    }

    /// Versions that get the same fixes.
    fn line(&self) -> [u32; 2] {
        [self.numbers[0], self.numbers[1]]
    }

    /// The first thing in a text that looks like one.
    fn find(text: &str) -> Option<Self> {
        let mut words = text.split(|c: char| c.is_whitespace() || c == ',').map(|word| word.trim_start_matches('v'));
        words.find_map(|word| {
            let mut numbers = word.split(['.', '+', '-', '~']).map_while(|part| part.parse().ok());
            let (major, minor) = (numbers.next()?, numbers.next()?);
            let released = !["-rc", "~rc", "-dev", "-beta"].iter().any(|mark| word.contains(mark));
            Some(Self { numbers: [major, minor, numbers.next().unwrap_or(0)], released })
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let candidate = Version { released: false, ..Version::new(1, 3, 0) };
        for (said, version) in [
            ("runc version 1.1.5+ds1", Some(Version::new(1, 1, 5))),
            ("buildah version 1.28.2 (image-spec 1.1.0-rc2, runtime-spec 1.0.2-dev)", Some(Version::new(1, 28, 2))),
            ("runc version 1.3.0-rc.1", Some(candidate)),
            ("crun v1.14", Some(Version::new(1, 14, 0))),
            ("podman version 5.3.2", Some(Version::new(5, 3, 2))),
            ("no numbers", None),
        ] {
            assert_eq!(Version::find(said), version, "{said}");
        }
    }

    #[test]
    fn what_may_have_a_hole_is_worth_a_word() {
        for (name, said, good) in [
            // Of Debian 12, which has mended it under the same number: it is said that it may be.
            ("runc", "runc version 1.1.5+ds1", false),
            ("runc", "runc version 1.1.15", false),
            ("runc", "runc version 1.2.7", false),
            ("runc", "runc version 1.2.8", true),
            ("runc", "runc version 1.2.10", true),
            // Newer than what mended the line before, and not mended.
            ("runc", "runc version 1.3.0", false),
            ("runc", "runc version 1.3.2", false),
            ("runc", "runc version 1.3.3", true),
            ("runc", "runc version 1.4.0-rc.1", false),
            ("runc", "runc version 1.4.0", true),
            ("runc", "runc version 1.10.0", true),
            ("runc", "runc version 2.0.0", true),
            ("crun", "crun version 1.8.1", false),
            ("crun", "crun version 1.20", true),
            ("buildah", "buildah version 1.28.2 (image-spec 1.1.0-rc2)", false),
            ("buildah", "buildah version 1.33.12", true),
            ("buildah", "buildah version 1.38.0", false),
            ("buildah", "buildah version 1.42.0", true),
            ("podman", "podman version 4.3.1", false),
            ("podman", "podman version 5.4.0", true),
        ] {
            let program = PROGRAMS.iter().find(|program| program.name == name).expect("it is listed");
            let verdict = check(program, said.to_owned()).verdict;
            assert_eq!(verdict == Verdict::Good, good, "{said}: {verdict:?}");
            assert!(good || matches!(&verdict, Verdict::Noted(why) if why.contains("may be") && why.contains("CVE-")));
        }
        assert!(PROGRAMS.iter().all(|program| program.mended.is_sorted()));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_has_no_version() {
        assert_eq!(version_of("narvana-no-such-program").await, None);
    }
}
