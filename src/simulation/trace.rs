//! Everything that happened in a run, as one number: two runs of one seed must have the same.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Clones share it.
#[derive(Clone)]
pub(super) struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    began: Instant,
    hash: u64,
    events: u64,
    /// Kept only when somebody wants to read them.
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(readable: bool) -> Self {
        let inner =
            Inner { began: Instant::now(), hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: readable.then(Vec::new) };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Notes that something happened, now.
    pub(super) fn note(&self, words: &[&str]) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = inner.began.elapsed().as_micros();
        inner.events += 1;
        let mut hash = inner.hash;
        let bytes = words.iter().flat_map(|word| word.bytes().chain([0]));
        // FNV-1a: nobody chooses what is hashed here.
        for byte in at.to_le_bytes().into_iter().chain(bytes) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        inner.hash = hash;
        if let Some(lines) = &mut inner.lines {
            lines.push(format!("{:>12.6} {}", at as f64 / 1e6, words.join(" ")));
        }
    }

    /// The number, and of how many events it is.
    pub(super) fn sum(&self) -> (u64, u64) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.hash, inner.events)
    }

    /// All of what happened, if it was kept.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone().unwrap_or_default()
    }
}
