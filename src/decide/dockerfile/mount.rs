//! The options of `RUN --mount`.

use super::values::{KERNEL_FOLDERS, join, under};

/// What one `--mount` asks for.
#[derive(Default)]
pub(super) struct Mount {
    pub(super) kind: Option<String>,
    pub(super) from: Option<String>,
    pub(super) source: Option<String>,
    pub(super) target: Option<String>,
    pub(super) writable: bool,
}

impl Mount {
    /// Why it is refused.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let kind = self.kind.as_deref().unwrap_or("bind");
        let leaves =
            |path: &Option<String>| path.as_deref().is_some_and(|path| path.split('/').any(|part| part == ".."));
        if leaves(&self.source) || leaves(&self.target) {
            return Some("a mount's source and target must not hold \"..\"");
        }
        if self.target.as_deref().is_some_and(|target| under(&join("/", target), &KERNEL_FOLDERS)) {
            return Some("a mount over /proc, /sys or /dev is refused");
        }
        if self.from.is_none() || !matches!(kind, "bind" | "cache") {
            return None;
        }
        let source = join("/", self.source.as_deref().unwrap_or("/"));
        if source == "/" && kind == "bind" {
            return Some("a mount of the whole of another image is refused; name a folder or file with source=");
        }
        (self.writable && kind == "bind").then_some("a writable mount from another image is refused; leave rw out")
    }
}

/// Whether a variable decides what is mounted: its value could be another one when the build runs.
pub(super) fn variable_in_source(options: &str) -> bool {
    options.split(',').any(|option| {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let free = matches!(key.trim().to_ascii_lowercase().as_str(), "target" | "dst" | "destination" | "id");
        key.contains('$') || (value.contains('$') && !free)
    })
}
