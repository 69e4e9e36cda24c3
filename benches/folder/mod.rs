//! Where a benchmark keeps its data.

use tempfile::TempDir;

/// A folder of its own in the one that the first argument names, on the disk that is to be measured; else in the usual place.
pub(crate) fn of_arguments() -> std::io::Result<TempDir> {
    // Cargo itself passes flags.
    let base = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    base.map_or_else(tempfile::tempdir, tempfile::tempdir_in)
}
