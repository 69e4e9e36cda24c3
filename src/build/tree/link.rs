//! Links in a tar archive, letter by letter. The library's own way takes a target apart and puts it together again:
//! `.//x` would come back as `./x`, and `x/`, which must be a folder, as `x`.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a header has room for. A longer target stands in an entry of its own before it, as GNU tar writes it.
const TARGET_BYTES: usize = 100;
const LONG_TARGET: &[u8] = b"././@LongLink";

/// Appends a link; `header` lacks only the path and the target.
pub(in crate::build) fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    header: &mut tar::Header,
    path: &Path,
    target: &Path,
) -> io::Result<()> {
    let target = target.as_os_str().as_bytes();
    let (begin, rest) = target.split_at(target.len().min(TARGET_BYTES));
    if !rest.is_empty() {
        let mut long = tar::Header::new_gnu();
        long.as_old_mut().name[..LONG_TARGET.len()].copy_from_slice(LONG_TARGET);
        long.set_entry_type(tar::EntryType::GNULongLink);
        long.set_mode(0o644);
        long.set_uid(0);
        long.set_gid(0);
        long.set_mtime(0);
        // The NUL at its end counts.
        long.set_size(target.len() as u64 + 1);
        long.set_cksum();
        tar.append(&long, target.chain(&b"\0"[..]))?;
    }
    header.set_link_name_literal(begin)?;
    tar.append_data(header, path, io::empty())
}
