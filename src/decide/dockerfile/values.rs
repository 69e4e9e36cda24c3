//! Paths, ports and words of a Dockerfile.

/// The folders of a running kernel and engine, which no build has a reason to work in or mount over.
pub(super) const KERNEL_FOLDERS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Quotes user text for a message: escaped and cut.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(128).flat_map(char::escape_debug).collect();
    if text.chars().nth(128).is_some() {
        shown.push('…');
    }
    shown
}

/// Checks the path of a Dockerfile inside its context.
///
/// # Errors
/// Why it cannot be one.
pub fn check_path(path: &str) -> Result<(), String> {
    let refused = |why: &str| Err(format!("{} is not the path of a Dockerfile: {why}", shown(path)));
    if path.is_empty() || path.len() > 4096 {
        return refused("it must have 1 to 4096 bytes");
    }
    if path.starts_with('/') || path.contains("://") || path.split('/').any(|part| part == "..") {
        return refused("it must be relative and stay inside the source");
    }
    if path.starts_with('-') || path.chars().any(char::is_control) {
        return refused("it must not start with \"-\" or hold control characters");
    }
    Ok(())
}

/// Whether a syntax directive names the frontend that engines use anyway.
pub(super) fn default_frontend(value: &str) -> bool {
    let value = value.strip_prefix("docker.io/").unwrap_or(value);
    match value.strip_prefix("docker/dockerfile") {
        Some("") => true,
        Some(tag) => tag.strip_prefix(':').is_some_and(|tag| {
            tag.starts_with('1') && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        }),
        None => false,
    }
}

/// Reads `8080`, `8000-8010` or `53/udp`; TCP ports only come back.
pub(super) fn ports(text: &str) -> Result<std::ops::RangeInclusive<u16>, &'static str> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or("ports are 1 to 65535");
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("the range runs backwards");
    }
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok(first..=last),
        // Checked, not listed: services are reached over TCP.
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range")]
        "udp" | "sctp" => Ok(1..=0),
        _ => Err("protocols are tcp, udp and sctp"),
    }
}

/// Joins and normalises a path as a container sees it.
pub(super) fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let start = if path.starts_with('/') { "" } else { folder };
    for part in start.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether a normal path is one of these folders or lies inside one.
pub(super) fn under(path: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}
