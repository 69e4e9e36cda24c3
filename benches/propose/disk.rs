//! What the disk can do: append to a file, fdatasync, again; and what redb alone makes of it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use redb::{Database, TableDefinition};

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

const TABLE: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");

/// Synced transactions of redb per second that each insert so many values at the end of one table.
pub(crate) fn redb_commits(path: &Path, values: usize, bytes: usize) -> anyhow::Result<f64> {
    let database = Database::create(path)?;
    let value = vec![0x5a; bytes];
    let began = Instant::now();
    let (mut count, mut next) = (0_u32, 0);
    while began.elapsed() < MEASURE_FOR {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for _ in 0..values {
                table.insert(next, value.as_slice())?;
                next += 1;
            }
        }
        transaction.commit()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
