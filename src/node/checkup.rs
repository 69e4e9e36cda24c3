//! What there is to look at on a machine: one line each, with what was found, what that means and what to do.
//!
//! `join` looks before it changes anything (`preflight`), and people ask when something is wrong (`doctor`).

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::engine;
use crate::rpc::Door;
use crate::task::{Supervisor, blocking};

/// A clock that is this far off is refused: certificates and the times of entries depend on it.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(30);
/// From here on it is worth a word.
const CLOCK_OFF_NOTED: Duration = Duration::from_secs(1);
/// A round trip from which elections and writes suffer, with the default timing.
const ROUND_TRIP_NOTED: Duration = Duration::from_millis(100);
/// A sync of the disk from which writes suffer.
const SYNC_NOTED: Duration = Duration::from_millis(50);
/// Syncs that are measured.
const SYNCS: usize = 5;
/// Free space with which a node begins.
const FREE_MIN: u64 = 1 << 30;
/// What to do when the data folder has no room.
pub(super) const FREE_DATA: &str = "free some, or choose another --data-dir";

/// Longest wait for an engine's service that was started to be looked at.
const LOOK_END_MAX: Duration = Duration::from_secs(5);

/// How one check went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "advice", rename_all = "lowercase")]
pub enum Verdict {
    /// Good.
    Good,
    /// It works; this is worth a look.
    Noted(String),
    /// A node cannot work like that.
    Bad(String),
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// What that means.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// All that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checkup(pub Vec<Check>);

impl Checkup {
    /// What is bad.
    pub fn refusal(&self) -> Option<String> {
        let bad = self.0.iter().filter_map(|check| match &check.verdict {
            Verdict::Bad(why) => Some(format!("{}: {why}", check.what)),
            _ => None,
        });
        let bad: Vec<String> = bad.collect();
        (!bad.is_empty()).then(|| bad.join("; "))
    }
}

impl fmt::Display for Checkup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |of: fn(&Check) -> usize| self.0.iter().map(of).max().unwrap_or(0);
        let (what, found) = (width(|check| check.what.len()), width(|check| check.found.chars().count()));
        for (position, check) in self.0.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            let verdict = match &check.verdict {
                Verdict::Good => "ok".to_owned(),
                Verdict::Noted(why) => format!("note: {why}"),
                Verdict::Bad(why) => format!("BAD: {why}"),
            };
            write!(f, "  {:what$}  {:found$}  {verdict}", check.what, check.found)?;
        }
        Ok(())
    }
}

pub(super) fn member(door: &Door) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let millis = door.round_trip.as_secs_f64() * 1_000.0;
    let verdict = if door.version != own {
        Verdict::Noted(format!("it runs narvana {}, this is {own}", door.version))
    } else if door.round_trip > ROUND_TRIP_NOTED {
        Verdict::Noted(
            "every write waits for a majority of voters: a node that is far away is better a worker".to_owned(),
        )
    } else {
        Verdict::Good
    };
    Check { what: "member", found: format!("node {}, {millis:.1} ms away", door.node), verdict }
}

pub(super) fn clock(ahead_ms: i64) -> Check {
    let off = Duration::from_millis(ahead_ms.unsigned_abs());
    let which = if ahead_ms < 0 { "behind" } else { "ahead" };
    let verdict = if off > CLOCK_OFF_MAX {
        Verdict::Bad("set the clock of this machine, best by NTP".to_owned())
    } else if off > CLOCK_OFF_NOTED {
        Verdict::Noted("have NTP keep the clocks together".to_owned())
    } else {
        Verdict::Good
    };
    Check { what: "clock", found: format!("{:.1} s {which}", off.as_secs_f64()), verdict }
}

/// The median time of a small synced write.
fn sync_time(folder: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[0; 4_096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[SYNCS / 2])
}

pub(super) async fn disk_speed(folder: &Path) -> Check {
    let folder = folder.to_owned();
    let (found, verdict) = match blocking(move || sync_time(&folder)).await {
        Ok(time) if time > SYNC_NOTED => (
            format!("{:.1} ms", time.as_secs_f64() * 1_000.0),
            Verdict::Noted("every write waits for it: an SSD makes a better voter".to_owned()),
        ),
        Ok(time) => (format!("{:.1} ms", time.as_secs_f64() * 1_000.0), Verdict::Good),
        Err(error) => ("none".to_owned(), Verdict::Bad(format!("cannot write to the data folder: {error}"))),
    };
    Check { what: "sync of the disk", found, verdict }
}

/// How much room there is in a folder; `advice` is for when it is too little.
pub(super) fn disk_space(what: &'static str, folder: &Path, advice: &str) -> Check {
    let free = rustix::fs::statvfs(folder).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    room(what, free.map_err(|error| format!("{}: {error}", folder.display())), advice)
}

fn room(what: &'static str, free: Result<u64, String>, advice: &str) -> Check {
    let (found, verdict) = match free {
        Err(error) => ("unknown".to_owned(), Verdict::Noted(error)),
        Ok(free) => {
            let verdict = match free < FREE_MIN {
                true => Verdict::Bad(format!("{} MiB is the least; {advice}", FREE_MIN >> 20)),
                false => Verdict::Good,
            };
            (format!("{:.1} GiB", free as f64 / f64::from(1 << 30)), verdict)
        }
    };
    Check { what, found, verdict }
}

pub(super) async fn container_engine(options: engine::Options) -> Check {
    let supervisor = Supervisor::new("look for an engine", tokio_util::sync::CancellationToken::new());
    let looked = engine::find(&options, &supervisor).await;
    supervisor.stop(LOOK_END_MAX).await;
    let (found, verdict) = match looked {
        Ok(found) => (found.engine.describe().to_string(), Verdict::Good),
        Err(error) => ("none".to_owned(), Verdict::Noted(format!("it will run nothing until it has one: {error}"))),
    };
    Check { what: "container engine", found, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_good_noted_or_bad() {
        assert_eq!(clock(-900).verdict, Verdict::Good);
        assert!(matches!(clock(5_000).verdict, Verdict::Noted(_)));
        assert!(matches!(clock(-31_000).verdict, Verdict::Bad(_)));
        assert_eq!(clock(-31_000).found, "31.0 s behind");
    }

    #[test]
    fn what_is_bad_keeps_a_node_from_joining_and_says_why() {
        let good = clock(0);
        assert_eq!(Checkup(vec![good.clone()]).refusal(), None);
        let table = Checkup(vec![good, clock(60_000)]);
        let refusal = table.refusal().expect("refused");
        assert!(refusal.starts_with("clock: set the clock"), "{refusal}");
        assert!(table.to_string().contains("60.0 s ahead  BAD: set the clock"), "{table}");
    }

    #[test]
    fn the_disk_is_tried() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(sync_time(folder.path()).is_ok());
        assert!(sync_time(&folder.path().join("none")).is_err());
        assert_ne!(disk_space("free space", folder.path(), FREE_DATA).found, "unknown");
    }

    #[test]
    fn room_is_good_too_little_or_unknown() {
        assert_eq!(room("free space", Ok(FREE_MIN), FREE_DATA).verdict, Verdict::Good);
        let little = room("free space", Ok(FREE_MIN - 1), "free some");
        assert_eq!(little.verdict, Verdict::Bad("1024 MiB is the least; free some".to_owned()));
        let unknown = disk_space("free space", Path::new("/narvana/no/such/folder"), FREE_DATA);
        assert!(matches!(unknown.verdict, Verdict::Noted(why) if why.contains("/narvana/no/such/folder")));
    }
}
