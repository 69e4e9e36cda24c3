//! Somebody who follows the log of what must not run twice, from one node after the other: no line is left out, none comes
//! again, and none comes before an earlier one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::client::Field;
use super::dice::Dice;
use super::line::{API_PORT, enter};

/// Longest silence of a stream before another node is asked; the service says something ten times a second.
const SILENCE: Duration = Duration::from_secs(3);

#[derive(Default)]
pub(super) struct Follower {
    /// The `Last-Event-ID`, and what it means: the line after the last one, of each log.
    last: String,
    positions: BTreeMap<String, u64>,
    /// The node said that it left lines out.
    skipped: bool,
    pub(super) lines: usize,
    pub(super) connections: usize,
    pub(super) broken: Vec<String>,
}

impl Follower {
    /// Follows until it is over.
    pub(super) fn run(mut self, field: &Field, mut dice: Dice) -> Self {
        while !field.over.load(Ordering::Relaxed) {
            let node = dice.below(field.networks.len());
            let leave = Instant::now() + dice.millis(1_000..=8_000);
            // Whatever ends it, another node goes on where it ended.
            let _cut_off = self.follow(field, node, leave);
            std::thread::sleep(Duration::from_millis(50)); // poll
        }
        self
    }

    fn follow(&mut self, field: &Field, node: usize, leave: Instant) -> std::io::Result<()> {
        enter(&field.networks[node]);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
        let mut stream = TcpStream::connect_timeout(&address, SILENCE)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let request = format!(
            "GET /v1/apps/alone/logs/stream?consistency=stale HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\n\
             Last-Event-ID: {}\r\n\r\n",
            field.token, self.last
        );
        stream.write_all(request.as_bytes())?;
        self.connections += 1;
        let (mut event, mut id) = (String::new(), String::new());
        for line in BufReader::new(stream).lines() {
            let line = line?;
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("event", name)) => name.clone_into(&mut event),
                Some(("id", text)) => text.clone_into(&mut id),
                // What breaks off before its end counts for nothing.
                None if line.is_empty() && !id.is_empty() => {
                    self.take(&event, &id, node);
                    event.clear();
                    id.clear();
                }
                _ => {}
            }
            if Instant::now() > leave || field.over.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }

    /// One more event: a line is of one log, the one after the last; what is not a line moves nothing, but for what says that lines
    /// were left out.
    fn take(&mut self, event: &str, id: &str, node: usize) {
        self.lines += usize::from(event == "log");
        self.skipped |= event == "skipped";
        let now: BTreeMap<String, u64> = id
            .split(',')
            .filter_map(|part| part.split_once('='))
            .filter_map(|(log, next)| Some((log.to_owned(), next.parse().ok()?)))
            .collect();
        for (log, next) in &now {
            let Some(before) = self.positions.get(log) else { continue };
            let fits = next == before || *next == before + 1 || self.skipped && next > before;
            if !fits {
                self.broken
                    .push(format!("from node {node} the line before {next} of {log} came after that before {before}"));
            }
        }
        // A log that nobody knew and that has no line yet may come with any event.
        let moved = now.iter().filter(|(log, next)| self.positions.get(*log).unwrap_or(&0) != *next).count();
        let known =
            now.iter().filter(|(log, next)| self.positions.get(*log).is_some_and(|before| before != *next)).count();
        let right = match event {
            "log" => moved == 1,
            "skipped" | "missing" => true,
            // It may say where a log begins.
            _ => known == 0,
        };
        if !right {
            let last = &self.last;
            self.broken.push(format!("from node {node} the event {event} moved {moved} logs: {id} after {last}"));
        }
        self.skipped = event == "skipped";
        self.positions.extend(now);
        id.clone_into(&mut self.last);
    }
}
