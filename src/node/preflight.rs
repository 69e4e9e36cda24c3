//! What a node looks at before it joins: everything that would make it a bad member, found while nothing has happened yet.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::config::{IngressPort, NodeConfig};
use crate::engine;
use crate::rpc::Door;
use crate::task::{Supervisor, blocking};

use super::address::Address;

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

/// How one check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Good.
    Good,
    /// The node can join; this is worth a look.
    Noted(String),
    /// The node cannot join like that.
    Bad(String),
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// What that means.
    pub verdict: Verdict,
}

/// All that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preflight(pub Vec<Check>);

impl Preflight {
    /// Looks at everything. `door` is the member that will let this node in.
    pub(super) async fn look(config: &NodeConfig, address: &Address, door: &Door, engine: engine::Options) -> Self {
        let folder = config.data_dir.clone();
        let sync = blocking(move || sync_time(&folder)).await;
        Self(vec![
            member(door),
            clock(door.clock_ahead_ms),
            reachable(address, door),
            ports(config, address),
            disk_speed(sync),
            disk_space(&config.data_dir),
            container_engine(engine).await,
        ])
    }

    /// What keeps the node from joining.
    pub(super) fn refusal(&self) -> Option<String> {
        let bad = self.0.iter().filter_map(|check| match &check.verdict {
            Verdict::Bad(why) => Some(format!("{}: {why}", check.what)),
            _ => None,
        });
        let bad: Vec<String> = bad.collect();
        (!bad.is_empty()).then(|| bad.join("; "))
    }
}

impl fmt::Display for Preflight {
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

fn member(door: &Door) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let millis = door.round_trip.as_secs_f64() * 1_000.0;
    let verdict = if door.version != own {
        Verdict::Noted(format!("it runs narvana {}, this is {own}", door.version))
    } else if door.round_trip > ROUND_TRIP_NOTED {
        Verdict::Noted("every write waits for a majority of voters: consider joining as a worker".to_owned())
    } else {
        Verdict::Good
    };
    Check { what: "member", found: format!("node {}, {millis:.1} ms away", door.node), verdict }
}

fn clock(ahead_ms: i64) -> Check {
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

/// Others connect to this node too.
fn reachable(address: &Address, door: &Door) -> Check {
    let own = address.host.parse::<IpAddr>().is_ok_and(|own| own.is_loopback()) || address.host == "localhost";
    let verdict = match own && !door.from.is_loopback() {
        true => {
            Verdict::Bad("other machines cannot reach that; name this machine's address with --advertise".to_owned())
        }
        false => Verdict::Good,
    };
    Check { what: "address for others", found: address.to_string(), verdict }
}

fn ports(config: &NodeConfig, address: &Address) -> Check {
    let ingress = match config.ingress_http_port {
        IngressPort::Fixed(port) => Some((config.ingress_host, port, "--ingress-http-port")),
        IngressPort::Off | IngressPort::Auto => None,
    };
    let wanted = [
        Some((config.api.0, config.api.1, "--api-port")),
        Some((address.bind(), address.port, "--grpc-port")),
        ingress,
    ];
    let wanted: Vec<_> = wanted.into_iter().flatten().filter(|(_, port, _)| *port != 0).collect();
    let taken = wanted.iter().filter_map(|(host, port, flag)| {
        let error = TcpListener::bind((*host, *port)).err()?;
        Some(format!("port {port}: {error}; choose another with {flag}"))
    });
    let taken: Vec<String> = taken.collect();
    let names: Vec<String> = wanted.iter().map(|(_, port, _)| port.to_string()).collect();
    let found = if names.is_empty() { "any".to_owned() } else { names.join(", ") };
    let verdict = if taken.is_empty() { Verdict::Good } else { Verdict::Bad(taken.join("; ")) };
    Check { what: "ports", found, verdict }
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

fn disk_speed(sync: std::io::Result<Duration>) -> Check {
    let (found, verdict) = match sync {
        Ok(time) if time > SYNC_NOTED => (
            format!("{:.1} ms", time.as_secs_f64() * 1_000.0),
            Verdict::Noted("every write waits for it: an SSD makes a better voter".to_owned()),
        ),
        Ok(time) => (format!("{:.1} ms", time.as_secs_f64() * 1_000.0), Verdict::Good),
        Err(error) => ("none".to_owned(), Verdict::Bad(format!("cannot write to the data folder: {error}"))),
    };
    Check { what: "sync of the disk", found, verdict }
}

fn disk_space(folder: &Path) -> Check {
    let free = rustix::fs::statvfs(folder).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
    let verdict = match free < FREE_MIN {
        true => Verdict::Bad(format!("{} MiB is the least; free some, or choose another --data-dir", FREE_MIN >> 20)),
        false => Verdict::Good,
    };
    Check { what: "free space", found: format!("{:.1} GiB", free as f64 / f64::from(1 << 30)), verdict }
}

async fn container_engine(options: engine::Options) -> Check {
    let supervisor = Supervisor::new("look for an engine", tokio_util::sync::CancellationToken::new());
    let looked = engine::find(&options, &supervisor).await;
    supervisor.stop(Duration::ZERO).await;
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
        assert_eq!(Preflight(vec![good.clone()]).refusal(), None);
        let table = Preflight(vec![good, clock(60_000)]);
        let refusal = table.refusal().expect("refused");
        assert!(refusal.starts_with("clock: set the clock"), "{refusal}");
        assert!(table.to_string().contains("60.0 s ahead  BAD: set the clock"), "{table}");
    }

    #[test]
    fn the_disk_is_tried() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(sync_time(folder.path()).is_ok());
        assert!(sync_time(&folder.path().join("none")).is_err());
        assert_eq!(disk_space(folder.path()).what, "free space");
    }
}
