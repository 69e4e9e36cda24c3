//! What the disk can do: append to a file, fdatasync, again.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::measure::MEASURE_FOR;

/// Synced appends of so many bytes per second, one after the other.
pub(crate) fn synced_appends(path: &Path, bytes: usize) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let batch = vec![0x5a; bytes];
    let began = Instant::now();
    let mut count = 0_u32;
    while began.elapsed() < MEASURE_FOR {
        file.write_all(&batch)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
