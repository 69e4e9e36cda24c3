//! Writers in a closed loop, and what they achieved.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use narvana::clock;
use narvana::consensus::Consensus;
use narvana::model::SettingKey;
use narvana::state::{Actor, Command, LogEntry};
use tokio::task::JoinSet;

/// Bytes of one value.
pub(crate) const ENTRY_BYTES: usize = 256;

pub(crate) const MEASURE_FOR: Duration = Duration::from_secs(2);

/// One client that writes and waits for the acknowledgement.
pub(crate) trait Writer: Send + 'static {
    fn write(&mut self) -> impl Future<Output = ()> + Send;
}

/// What some writers achieved together.
pub(crate) struct Measured {
    pub(crate) took: Duration,
    latencies: Vec<Duration>,
}

impl Measured {
    #[expect(clippy::cast_precision_loss, reason = "printed with few digits")]
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// Each writer does one write after the other until the time is up.
pub(crate) async fn measure<W: Writer>(writers: Vec<W>) -> Measured {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut writer in writers {
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < MEASURE_FOR {
                let asked = Instant::now();
                writer.write().await;
                latencies.push(asked.elapsed());
            }
            latencies
        });
    }
    let mut latencies = tasks.join_all().await.concat();
    latencies.sort_unstable();
    Measured { took: began.elapsed(), latencies }
}

/// The middle of an odd number of figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// A command of about [`ENTRY_BYTES`].
pub(crate) fn entry() -> LogEntry {
    let domain = format!("{}.{}.{}.{}.test", "a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(50));
    LogEntry {
        proposed_at: clock::now(),
        actor: Actor::System,
        request: None,
        command: Command::SetSettings(BTreeMap::from([(SettingKey::ServerDomain, domain)])),
    }
}

/// Writes through one node.
pub(crate) struct Proposer(pub(crate) Consensus);

impl Writer for Proposer {
    async fn write(&mut self) {
        self.0.propose(entry()).await.expect("it is accepted");
    }
}
