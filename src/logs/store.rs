//! All logs of this node.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use uuid::Uuid;

use super::appender::Appender;
use super::cursor::Cursor;
use super::key::{BUILDS, INSTANCES};
use super::log::{Claim, Log, ignore_missing};
use super::segment::View;
use super::{Entry, Error, Followed, LogKey, LogWriter, Resume, Start, follow, writer};
use crate::random;
use crate::space::Space;
use crate::task::{OnError, Supervisor, blocking};

/// Removed logs are moved here first, so that half a log is never taken for a whole one.
const REMOVED: &str = "removed";

/// Sizes of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes an instance's log may take; its oldest lines go when there are more. It may be exceeded by one line.
    pub instance_bytes_max: u64,
    /// Bytes a build's log may take; it ends with a note when there are more.
    pub build_bytes_max: u64,
}

impl Default for Options {
    /// 32 MiB for an instance, 16 MiB for a build: some hundred thousand lines.
    fn default() -> Self {
        Self { instance_bytes_max: 32 << 20, build_bytes_max: 16 << 20 }
    }
}

/// The logs in one folder, which no other process uses. Clones are the same store.
#[derive(Clone)]
pub struct LogStore(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    space: Space,
    options: Options,
    supervisor: Supervisor,
    /// Logs used since the start. Held while a log is loaded, by blocking threads only.
    logs: Mutex<HashMap<LogKey, Arc<Log>>>,
}

impl LogStore {
    /// Opens (and makes) the folder. The writing tasks belong to `supervisor`; whoever appends is stopped before it.
    pub async fn open(folder: impl Into<Space>, options: Options, supervisor: Supervisor) -> Result<Self, Error> {
        let space: Space = folder.into();
        let dir = space.folder().to_owned();
        let inner = blocking(move || {
            let removed = dir.join(REMOVED);
            ignore_missing(fs::remove_dir_all(&removed)).map_err(Error::io("remove", &removed))?;
            for name in [BUILDS, INSTANCES, REMOVED] {
                let path = dir.join(name);
                fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
            }
            Ok(Inner { dir, space, options, supervisor, logs: Mutex::default() })
        })
        .await?;
        Ok(Self(Arc::new(inner)))
    }

    /// Takes the right to write a log, which one may hold at a time; makes the log when it is new, opens it again when it
    /// was closed.
    pub async fn writer(&self, key: LogKey) -> Result<LogWriter, Error> {
        let bytes_max = match key {
            LogKey::Build(_) => self.0.options.build_bytes_max,
            LogKey::Instance(_) => self.0.options.instance_bytes_max,
        };
        let appender = self.blocking(move |inner| Appender::open(inner.log(key)?.claim()?, bytes_max)).await?;
        let (handle, messages) = writer::channel(key);
        let run = writer::run(key, appender, messages, self.0.supervisor.stopping());
        self.0.supervisor.spawn("log writer", OnError::Log, run);
        Ok(handle)
    }

    /// The last `count` lines, oldest first. A log that does not exist is empty.
    pub async fn tail(&self, key: LogKey, count: usize) -> Result<Vec<Entry>, Error> {
        self.entries(key, move |view| (view.next.saturating_sub(count as u64), count)).await
    }

    /// At most `max` lines from `from_seq` on; starts later when rotation has dropped that line.
    pub async fn read(&self, key: LogKey, from_seq: u64, max: usize) -> Result<Vec<Entry>, Error> {
        self.entries(key, move |_| (from_seq, max)).await
    }

    /// The lines from `from_seq` on, then those to come. Ends when the log is closed. The log of a build that has not
    /// begun is waited for; one that lies here from an earlier run of narvana is closed.
    pub async fn follow(
        &self,
        key: LogKey,
        from_seq: u64,
    ) -> Result<BoxStream<'static, Result<Followed, Error>>, Error> {
        let log = self.blocking(move |inner| inner.log(key)).await?;
        Ok(follow::follow(log, from_seq))
    }

    /// The same from either kind of beginning; one that is counted from the end is said first ([`Followed::Begins`]).
    pub async fn follow_from(
        &self,
        key: LogKey,
        start: Start,
    ) -> Result<BoxStream<'static, Result<Followed, Error>>, Error> {
        let count = match start {
            Start::At(seq) => return self.follow(key, seq).await,
            Start::Last(count) => count,
        };
        let seq = self.tail(key, count).await?.first().map_or(0, |entry| entry.seq);
        let begins = stream::iter([Ok(Followed::Begins { seq })]);
        Ok(begins.chain(self.follow(key, seq).await?).boxed())
    }

    /// Where to go on reading the engine's lines; `None` when none was ever written.
    pub async fn resume(&self, key: LogKey) -> Result<Option<Resume>, Error> {
        self.blocking(move |inner| Ok(inner.view(key)?.resume)).await
    }

    /// Whether there is a log with at least its folder.
    pub async fn contains(&self, key: LogKey) -> bool {
        self.blocking(move |inner| inner.dir.join(key.path()).is_dir()).await
    }

    /// All logs of this node, in no order.
    pub async fn keys(&self) -> Result<Vec<LogKey>, Error> {
        self.blocking(move |inner| {
            let mut keys = list(&inner.dir.join(BUILDS), LogKey::Build)?;
            keys.extend(list(&inner.dir.join(INSTANCES), LogKey::Instance)?);
            Ok(keys)
        })
        .await
    }

    /// Removes a log; its followers end. Nothing happens when there is none.
    pub async fn remove(&self, key: LogKey) -> Result<(), Error> {
        self.blocking(move |inner| inner.discard(inner.log(key)?.claim()?)).await
    }

    async fn entries(
        &self,
        key: LogKey,
        range: impl FnOnce(&View) -> (u64, usize) + Send + 'static,
    ) -> Result<Vec<Entry>, Error> {
        self.blocking(move |inner| {
            let view = inner.view(key)?;
            let (from, max) = range(&view);
            let mut cursor = Cursor::new(key, inner.dir.join(key.path()), from);
            let mut entries = Vec::new();
            loop {
                let items = cursor.read(&view, max - entries.len())?;
                if items.is_empty() {
                    return Ok(entries);
                }
                entries.extend(items.into_iter().filter_map(|item| match item {
                    Followed::Entry(entry) => Some(entry),
                    Followed::Skipped { .. } | Followed::Begins { .. } => None,
                }));
            }
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> T + Send + 'static) -> T {
        let inner = self.0.clone();
        blocking(move || work(&inner)).await
    }
}

impl Inner {
    /// The log, loaded at its first use.
    fn log(&self, key: LogKey) -> Result<Arc<Log>, Error> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = logs.get(&key) {
            return Ok(log.clone());
        }
        let log = Arc::new(Log::load(key, self.space.at(self.dir.join(key.path())))?);
        logs.insert(key, log.clone());
        Ok(log)
    }

    /// What may be read of a log. Asking for one that is not there leaves nothing behind.
    fn view(&self, key: LogKey) -> Result<View, Error> {
        let known = self.logs.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&key);
        if !known && !self.dir.join(key.path()).exists() {
            return Ok(View::default());
        }
        let log = self.log(key)?;
        let view = log.view.borrow().clone();
        Ok(view)
    }

    fn discard(&self, log: Claim) -> Result<(), Error> {
        let removed = self.dir.join(REMOVED).join(random::id::<Uuid>().to_string());
        ignore_missing(fs::rename(&log.dir, &removed)).map_err(Error::io("move", &log.dir))?;
        log.view.send_modify(|view| *view = View { closed: true, next: view.next, ..View::default() });
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).remove(&log.key);
        log.keep();
        ignore_missing(fs::remove_dir_all(&removed)).map_err(Error::io("remove", &removed))
    }
}

/// The logs in one folder; what is not named by an id is not ours.
fn list<T: FromStr>(dir: &Path, key: impl Fn(T) -> LogKey) -> Result<Vec<LogKey>, Error> {
    let mut keys = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let name = entry.map_err(Error::io("read", dir))?.file_name();
        keys.extend(name.to_str().and_then(|name| name.parse().ok()).map(&key));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use futures::StreamExt;
    use tempfile::TempDir;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::super::{LogLine, LogStream, LogTime};
    use super::*;
    use crate::model::{BuildId, InstanceId};

    const SOON: Duration = Duration::from_secs(30);

    fn instance() -> LogKey {
        LogKey::Instance(random::id::<InstanceId>())
    }

    fn build() -> LogKey {
        LogKey::Build(random::id::<BuildId>())
    }

    fn line(at: i64, text: impl AsRef<[u8]>) -> LogLine {
        LogLine::new(LogTime(at), LogStream::Stdout, text)
    }

    async fn store(dir: &TempDir, options: Options) -> (LogStore, Supervisor) {
        let supervisor = Supervisor::new("logs", CancellationToken::new());
        (LogStore::open(dir.path(), options, supervisor.clone()).await.expect("opens"), supervisor)
    }

    /// Collects until the log ends: lines' texts, and how many were skipped.
    async fn drain(mut stream: BoxStream<'static, Result<Followed, Error>>, from: u64) -> (Vec<String>, u64) {
        let (mut texts, mut skipped) = (Vec::new(), 0);
        while let Some(item) = timeout(SOON, stream.next()).await.expect("goes on") {
            match item.expect("readable") {
                Followed::Begins { .. } => unreachable!("a place was asked for"),
                Followed::Skipped { count } => skipped += count,
                Followed::Entry(entry) => {
                    assert_eq!(entry.seq, from + skipped + texts.len() as u64, "dense");
                    texts.push(entry.line.text().to_owned());
                }
            }
        }
        (texts, skipped)
    }

    #[tokio::test]
    async fn a_log_outlives_the_process() {
        let dir = tempfile::tempdir().expect("temp dir");
        let key = instance();
        let (logs, supervisor) = store(&dir, Options::default()).await;
        let writer = logs.writer(key).await.expect("writer");
        assert!(matches!(logs.writer(key).await, Err(Error::BeingWritten(_))));
        for at in 0..5 {
            writer.append(line(at, format!("line {at}"))).await.expect("taken");
        }
        // A node that stops writes what was appended, though nobody told the writer.
        supervisor.stop(SOON).await;
        assert!(matches!(writer.append(line(9, "late")).await, Err(Error::Stopped(_))));

        let (logs, _supervisor) = store(&dir, Options::default()).await;
        assert_eq!(logs.keys().await.expect("keys"), [key]);
        assert_eq!(logs.resume(key).await.expect("resume"), Some(Resume { at: LogTime(4), lines: 1 }));
        let writer = logs.writer(key).await.expect("writer");
        writer.append(line(5, "line 5")).await.expect("taken");
        writer.flush().await.expect("flushed");
        let seqs = |entries: Vec<Entry>| entries.iter().map(|entry| entry.seq).collect::<Vec<_>>();
        assert_eq!(seqs(logs.tail(key, 2).await.expect("tail")), [4, 5]);
        assert_eq!(seqs(logs.tail(key, 100).await.expect("tail")), [0, 1, 2, 3, 4, 5]);
        assert_eq!(seqs(logs.read(key, 1, 3).await.expect("read")), [1, 2, 3]);
        assert_eq!(seqs(logs.read(key, 6, 3).await.expect("read")), [] as [u64; 0]);
        writer.finish().await.expect("finished");
        assert_eq!(drain(logs.follow(key, 4).await.expect("follow"), 4).await.0, ["line 4", "line 5"]);

        // Closed is remembered, and ends when somebody writes again.
        let (logs, _supervisor) = store(&dir, Options::default()).await;
        assert_eq!(drain(logs.follow(key, 5).await.expect("follow"), 5).await.0, ["line 5"]);
        let writer = logs.writer(key).await.expect("writer");
        let mut stream = logs.follow(key, 6).await.expect("follow");
        writer.append(line(6, "line 6")).await.expect("taken");
        assert!(timeout(SOON, stream.next()).await.expect("arrives").is_some());
        writer.stop().await.expect("stopped");
        logs.writer(key).await.expect("free again");
    }

    #[tokio::test]
    async fn a_build_is_followed_from_before_its_start_to_its_end() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (logs, _supervisor) = store(&dir, Options::default()).await;
        let key = build();
        let stream = logs.follow(key, 0).await.expect("follow");
        assert!(!logs.contains(key).await && logs.tail(key, 5).await.expect("empty").is_empty());
        let writer = logs.writer(key).await.expect("writer");
        writer.append(line(0, "step 1")).await.expect("taken");
        // Dropped without a word, as by a task that failed.
        drop(writer);
        assert_eq!(drain(stream, 0).await.0, ["step 1"]);
        assert!(logs.contains(key).await);
    }

    #[tokio::test]
    async fn removing_ends_followers_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (logs, _supervisor) = store(&dir, Options::default()).await;
        let key = instance();
        let writer = logs.writer(key).await.expect("writer");
        writer.append(line(0, "x")).await.expect("taken");
        assert!(matches!(logs.remove(key).await, Err(Error::BeingWritten(_))));
        writer.stop().await.expect("stopped");
        let stream = logs.follow(key, 1).await.expect("follow");
        logs.remove(key).await.expect("removed");
        logs.remove(key).await.expect("twice is no error");
        assert_eq!(drain(stream, 1).await, (vec![], 0));
        assert!(logs.keys().await.expect("keys").is_empty());
        assert_eq!(fs::read_dir(dir.path().join(REMOVED)).expect("dir").count(), 0);
        assert!(logs.tail(key, 5).await.expect("empty").is_empty());
        assert_eq!(logs.resume(key).await.expect("none"), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_slow_follower_skips_only_what_rotation_dropped() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (logs, _supervisor) = store(&dir, Options { instance_bytes_max: 20_000, ..Options::default() }).await;
        let key = instance();
        let writer = logs.writer(key).await.expect("writer");
        let mut stream = logs.follow(key, 0).await.expect("follow");
        writer.append(line(0, "0")).await.expect("taken");
        let first = timeout(SOON, stream.next()).await.expect("arrives").expect("open").expect("readable");
        assert!(matches!(first, Followed::Entry(Entry { seq: 0, .. })));
        for at in 1..10_000 {
            writer.append(line(at, at.to_string())).await.expect("never waits for the follower");
        }
        writer.finish().await.expect("finished");
        let (texts, skipped) = drain(stream, 1).await;
        assert!(skipped > 5_000 && texts.len() > 500, "{skipped} skipped, {} read", texts.len());
        assert_eq!(texts.len() as u64 + skipped, 9_999);
        assert_eq!(texts.last().map(String::as_str), Some("9999"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn fifty_thousand_lines_a_second_through_one_follower() {
        const LINES: i64 = 200_000;
        let dir = tempfile::tempdir().expect("temp dir");
        let (logs, supervisor) = store(&dir, Options::default()).await;
        let key = instance();
        let writer = logs.writer(key).await.expect("writer");
        let stream = logs.follow(key, 0).await.expect("follow");
        let start = Instant::now();
        supervisor.spawn("producer", OnError::Log, async move {
            for at in 0..LINES {
                let text = format!("request {at} GET /some/path/of/usual/length 200 in 12 ms, 1234 bytes");
                writer.append(line(at, text)).await?;
            }
            writer.finish().await
        });
        let (texts, skipped) = drain(stream, 0).await;
        let rate = LINES as f64 / start.elapsed().as_secs_f64();
        println!("{rate:.0} lines/s through one follower");
        assert_eq!((texts.len() as i64, skipped), (LINES, 0));
        // Without optimisation it is several times the figure, so that only a busy machine does not fail it.
        assert!(rate > 50_000.0, "{rate:.0} lines/s");
    }
}
