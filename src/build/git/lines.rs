//! What git says, line by line.

use std::time::Duration;

use tokio::time::Instant;

/// A line that replaces itself (a percentage) is passed on this often.
const REPEATED_LINES: Duration = Duration::from_secs(1);
/// Of a line this much is kept.
pub(super) const MAX_LINE: usize = 500;
/// Of all that git says this much is kept, the end of it.
const MAX_STDERR: usize = 16 * 1024;

/// Cuts what git says into lines.
#[derive(Default)]
pub(super) struct Lines {
    /// The end of everything said, for an error.
    pub(super) all: String,
    partial: Vec<u8>,
    repeated: Option<Instant>,
}

impl Lines {
    /// The lines that are complete now; of those that replace each other only some.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => complete.extend(self.line()),
                b'\r' => {
                    let line = self.line();
                    if self.repeated.is_none_or(|last| last.elapsed() >= REPEATED_LINES) {
                        self.repeated = Some(Instant::now());
                        complete.extend(line);
                    }
                }
                byte if self.partial.len() < MAX_LINE => self.partial.push(*byte),
                _ => {}
            }
        }
        complete
    }

    fn line(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).trim().to_owned();
        if line.is_empty() {
            return None;
        }
        self.all.push_str(&line);
        self.all.push('\n');
        if self.all.len() > MAX_STDERR {
            let cut = self.all.len() - MAX_STDERR / 2;
            let cut = (cut..self.all.len()).find(|at| self.all.is_char_boundary(*at)).unwrap_or(0);
            self.all.drain(..cut);
        }
        Some(line)
    }
}
