//! Where the redb files are: in the file system, or, in tests, on a disk whose crashes can be chosen.

use std::path::Path;

/// Opens files.
pub(crate) trait Disk {
    /// Opens the file, or makes it when it is not there.
    fn open(&self, builder: &redb::Builder, path: &Path) -> Result<redb::Database, redb::DatabaseError>;
}

/// The file system.
pub(crate) struct FileSystem;

impl Disk for FileSystem {
    fn open(&self, builder: &redb::Builder, path: &Path) -> Result<redb::Database, redb::DatabaseError> {
        builder.create(path)
    }
}
