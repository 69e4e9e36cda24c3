//! The text of the systemd unit that runs a node. Pure: what goes where and how it is quoted.

use std::fmt::Write;
use std::time::Duration;

/// First line of every unit that `--service` wrote; a unit without it is somebody else's and is left alone.
pub(super) const MARK: &str =
    "# Written by `narvana … --service`, which replaces it; changes belong into `systemctl edit`.";

/// Time for the last writes, beyond what the node gives its parts.
const STOP_MARGIN: Duration = Duration::from_secs(60);

/// What the unit runs.
#[derive(Debug)]
pub(super) struct Unit<'a> {
    /// Absolute path of the program.
    pub(super) program: &'a str,
    /// Its arguments, as they are.
    pub(super) arguments: &'a [String],
    /// A unit of a user's own manager, not of the machine's.
    pub(super) user: bool,
    /// How long the node gives its parts to stop.
    pub(super) shutdown_timeout: Duration,
}

impl Unit<'_> {
    /// The unit file.
    pub(super) fn text(&self) -> String {
        let mut command = program(self.program);
        for argument in self.arguments {
            let _infallible = write!(command, " {}", quoted(argument));
        }
        let wanted_by = if self.user { "default.target" } else { "multi-user.target" };
        let stop_seconds = (self.shutdown_timeout + STOP_MARGIN).as_secs();
        // KillMode: a container's monitor may live in this unit's group, and the node's guard does; both must not end with the
        // node. The node ends its own Podman service, and the next start ends one that was left. Delegate: so that the engine may make
        // groups below this one. Exit code 2: the command line is wrong, and will be wrong again. 78: so is the data folder,
        // or the node was removed and has ended what it ran.
        format!(
            "{MARK}
[Unit]
Description=narvana node
Documentation=https://github.com/narvanalabs/narvana
Wants=network-online.target
After=network-online.target docker.service podman.socket

[Service]
Type=notify
ExecStart={command}
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2 78
KillMode=process
Delegate=yes
LimitNOFILE=1048576
TimeoutStopSec={stop_seconds}

[Install]
WantedBy={wanted_by}
"
        )
    }
}

/// One word of a command line. systemd splits at spaces, knows quotes and C escapes, replaces `%x` and `$X`.
fn quoted(word: &str) -> String {
    escaped(word, true)
}

/// The first word: the one in which systemd replaces no variables, so that a `$` stands for itself.
fn program(path: &str) -> String {
    escaped(path, false)
}

fn escaped(word: &str, double_dollar: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '$' if double_dollar => text.push_str("$$"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if c.is_ascii_control() => {
                let _infallible = write!(text, "\\x{:02x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_program_as_they_were_given() {
        for (word, wanted) in [
            ("--api-port=8080", "--api-port=8080"),
            ("--data-dir=/var/lib/narvana", "--data-dir=/var/lib/narvana"),
            ("", r#""""#),
            ("/srv/my apps", r#""/srv/my apps""#),
            (r#"a"b'c"#, r#""a\"b'c""#),
            (r"a\b", r#""a\\b""#),
            ("100%", r#""100%%""#),
            ("$HOME", r#""$$HOME""#),
            ("two\nlines\t\u{7}", r#""two\nlines\t\x07""#),
            (";", r#"";""#),
            ("größe", r#""größe""#),
        ] {
            assert_eq!(quoted(word), wanted);
        }
        assert_eq!(program("/opt/a $b/%n"), r#""/opt/a $b/%%n""#);
    }

    #[test]
    fn the_unit() {
        let unit = Unit {
            program: "/usr/local/bin/narvana",
            arguments: &["run".to_owned(), "--data-dir=/srv/my data".to_owned()],
            user: false,
            shutdown_timeout: Duration::from_secs(30),
        };
        let text = unit.text();
        assert!(text.starts_with(MARK));
        for line in [
            r#"ExecStart=/usr/local/bin/narvana run "--data-dir=/srv/my data""#,
            "Type=notify",
            "Restart=on-failure",
            "KillMode=process",
            "TimeoutStopSec=90",
            "WantedBy=multi-user.target",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
        assert!(Unit { user: true, ..unit }.text().contains("WantedBy=default.target"));
    }
}
