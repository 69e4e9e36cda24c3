//! Which containers the kernel killed for memory, read from its log.
//!
//! Podman learns of such a kill from a watcher that loses the race against the end of the container on cgroup v1, so
//! its answer there is always no. The kernel names the container's control group in its log, on v1 and v2.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

/// Longest record of the kernel's log, in bytes; a shorter buffer makes reads fail.
const RECORD_BYTES_MAX: usize = 8 * 1024;

/// Whether the kernel's log says that it killed a process of this container for memory. `false` when the log cannot be
/// read (not root) or has been overwritten since. Blocks shortly.
pub(super) fn killed_for_memory(container_id: &str) -> bool {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg") else { return false };
    let mut record = vec![0; RECORD_BYTES_MAX];
    loop {
        match log.read(&mut record) {
            Ok(0) => return false,
            Ok(length) if names_killed(&record[..length], container_id) => return true,
            Ok(_) => {}
            // Records were overwritten while reading: the next read goes on with the oldest that is left.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
    }
}

/// Whether a record is a kill for memory in the control group of that container.
fn names_killed(record: &[u8], container_id: &str) -> bool {
    let record = String::from_utf8_lossy(record);
    let Some((_, record)) = record.split_once("oom-kill:") else { return false };
    record.split(',').any(|field| {
        field.strip_prefix("oom_memcg=").is_some_and(|group| !container_id.is_empty() && group.contains(container_id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_told_by_its_control_group() {
        let record = b"6,1234,1435635355,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=libpod-abc123,\
            mems_allowed=0,oom_memcg=/libpod_parent/libpod-abc123,task_memcg=/libpod_parent/libpod-abc123,task=sh,pid=4";
        assert!(names_killed(record, "abc123"));
        assert!(!names_killed(record, "def456"));
        assert!(!names_killed(record, ""));
        // A program cannot fake it through its name: the field is compared, not the line.
        assert!(!names_killed(b"6,1,1,-;oom-kill:oom_memcg=/x,task_memcg=/x,task=abc123,pid=4", "abc123"));
    }
}
