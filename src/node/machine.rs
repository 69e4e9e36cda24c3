//! What this machine is: its name, architecture and size.

use std::path::{Path, PathBuf};

use crate::model::{Cpu, Memory, NodeResources};

/// The machine's host name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `/var/lib/narvana` for root, else the user's XDG data folder.
pub fn default_data_dir(home: Option<PathBuf>, xdg_data_home: Option<PathBuf>) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/narvana");
    }
    let data = xdg_data_home.or_else(|| home.map(|home| home.join(".local/share")));
    data.unwrap_or_else(|| PathBuf::from(".")).join("narvana")
}

/// The processor architecture as container images name it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What the machine has in all; what cannot be found out counts as nothing.
pub(super) fn resources(data_dir: &Path) -> NodeResources {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text)).unwrap_or(0);
    let disk = rustix::fs::statvfs(data_dir).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize));
    NodeResources {
        cpu: Cpu::from_millis(u64::try_from(cores).unwrap_or(1) * 1_000),
        memory: Memory { bytes: memory },
        disk: Memory { bytes: disk },
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernel() {
        assert_eq!(total_memory("MemTotal:       24650444 kB\nMemFree: 1 kB\n"), Some(24_650_444 * 1_024));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        assert!(resources(Path::new("/")).memory.bytes > 0);
    }
}
