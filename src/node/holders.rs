//! Which process holds a port or a lock, by what the kernel tells in `/proc`; nothing is taken or tried.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

/// State of a socket that listens, as `/proc/net/tcp` writes it.
const LISTENS: &str = "0A";

/// A process of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number.
    pub(super) id: u32,
    name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.id, self.name)
    }
}

impl Process {
    fn new(id: u32) -> Self {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        Self { id, name: name.trim_end().to_owned() }
    }

    /// Who listens on a TCP port; only root learns it of processes of others.
    pub(super) fn listening_on(port: u16) -> Option<Self> {
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
        let sockets: Vec<String> = tables.iter().flat_map(|table| listening(table, port)).collect();
        if sockets.is_empty() {
            return None;
        }
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let holds = |id: &u32| {
            let files = std::fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
            let mut targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
            targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
        };
        ids.find(holds).map(Self::new)
    }

    /// Who has locked a file as a whole.
    pub(super) fn locking(file: &Path) -> Option<Self> {
        let about = std::fs::metadata(file).ok()?;
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let device = (major(about.dev()), minor(about.dev()));
        holder(&locks, &format!("{:02x}:{:02x}:{}", device.0, device.1, about.ino())).map(Self::new)
    }
}

/// The sockets in a table of the kernel that listen on a port, as links to them are called.
fn listening(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (local.ends_with(&port) && *state == LISTENS).then(|| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// The process that has a lock on a file, not one that waits for it. Locks without a process have a negative number.
fn holder(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ["FLOCK", _, _, process, of, ..] = fields.get(1..)? else { return None };
        if *of == file { process.parse().ok().filter(|id| *id > 0) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn sockets_that_listen_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0
   2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0
   3: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 444 1 0
   4: short
";
        assert_eq!(listening(table, 8080), ["socket:[111]", "socket:[444]"]);
        assert_eq!(listening(table, 80), Vec::<String>::new());
        assert_eq!(listening("", 8080), Vec::<String>::new());
    }

    #[test]
    fn whoever_has_a_lock_is_found_and_whoever_waits_is_not() {
        let locks = "1: OFDLCK ADVISORY  WRITE -1 08:01:7 0 EOF
2: POSIX  ADVISORY  WRITE 5 08:01:7 0 EOF
3: FLOCK  ADVISORY  WRITE -1 08:01:9 0 EOF
4: FLOCK  ADVISORY  WRITE 12 08:01:7 0 EOF
4: -> FLOCK  ADVISORY  WRITE 13 08:01:8 0 EOF
";
        assert_eq!(holder(locks, "08:01:7"), Some(12));
        for nobody in ["08:01:8", "08:01:9", "08:01:77", ""] {
            assert_eq!(holder(locks, nobody), None, "{nobody}");
        }
    }

    #[test]
    fn this_process_finds_itself() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert_eq!(Process::listening_on(port).map(|process| process.id), Some(std::process::id()));
        drop(listener);
        assert_eq!(Process::listening_on(port), None);

        let file = tempfile::NamedTempFile::new().expect("a file");
        assert_eq!(Process::locking(file.path()), None);
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive).expect("locked");
        assert_eq!(Process::locking(file.path()).map(|process| process.id), Some(std::process::id()));
    }
}
