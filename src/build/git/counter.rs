//! Counting a commit's files before one of them is written.

use crate::build::tree::Limits;

/// A path that Linux can open.
const MAX_PATH: usize = 4096;

/// Reads `ls-tree -r -z --long` as it comes and stops at the limits.
pub(super) struct TreeCounter {
    limits: Limits,
    files: usize,
    bytes: u64,
    record: Vec<u8>,
}

impl TreeCounter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, files: 0, bytes: 0, record: Vec::new() }
    }

    /// The limit that was passed, if one was.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Result<(), (&'static str, u64)> {
        for byte in chunk {
            if *byte == 0 {
                let record = std::mem::take(&mut self.record);
                self.count(&record)?;
            } else if self.record.len() > MAX_PATH + 100 {
                return Err(("bytes in one path", MAX_PATH as u64));
            } else {
                self.record.push(*byte);
            }
        }
        Ok(())
    }

    /// "mode type id size<TAB>path"; the size of a submodule is "-".
    fn count(&mut self, record: &[u8]) -> Result<(), (&'static str, u64)> {
        let tab = record.iter().position(|byte| *byte == b'\t').unwrap_or(record.len());
        let (head, path) = record.split_at(tab);
        let head = String::from_utf8_lossy(head);
        let size = head.split_whitespace().nth(3).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
        self.files += 1;
        self.bytes = self.bytes.saturating_add(size);
        if self.files > self.limits.entries {
            return Err(("files", self.limits.entries as u64));
        }
        if self.bytes > self.limits.bytes {
            return Err(("bytes", self.limits.bytes));
        }
        if path.iter().filter(|byte| **byte == b'/').count() > self.limits.depth {
            return Err(("folders within folders", self.limits.depth as u64));
        }
        Ok(())
    }
}
