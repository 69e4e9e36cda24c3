//! Which hosts a git address may name, as far as its text tells. What a name resolves to is checked by the builder.

use std::net::{IpAddr, Ipv4Addr};

use crate::model::{Problem, git_clone_url};

/// Refuses ssh addresses, which this version cannot fetch, and hosts on loopback and link-local addresses.
pub(super) fn check_host(repo: &str, allow_loopback: bool) -> Result<(), Problem> {
    let url = git_clone_url(repo);
    if url.starts_with("ssh://") || url.starts_with("git@") {
        return Err(Problem::new("ssh addresses are not available in this version; use https://host/path"));
    }
    let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let named_local = host == "localhost" || host.ends_with(".localhost");
    let local = named_local || literal(&host).is_some_and(is_local);
    if local && !allow_loopback {
        return Err(Problem::new(
            "loopback and link-local addresses are refused; an operator can allow them with --allow-loopback-sources",
        ));
    }
    Ok(())
}

/// The address a host text stands for, in every spelling that a C library reads: `127.1`, `0x7f.1`, `2130706433`.
fn literal(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 8 * (4 - u32::try_from(first.len()).ok()?);
    if room < 32 && *last >= 1 << room {
        return None;
    }
    let high = first.iter().enumerate().fold(0, |sum, (position, part)| sum | part << (24 - 8 * position));
    Some(IpAddr::V4(Ipv4Addr::from_bits(high | last)))
}

fn number(text: &str) -> Option<u32> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    }
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0 || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_this_machine_is_refused() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "git.localhost",
            "127.0.0.1",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "0177.0.0.1",
            "0.0.0.0",
            "0",
            "169.254.169.254",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[fe80::1]",
            "[::]",
        ] {
            let repo = format!("http://{host}:8080/o/r");
            assert!(check_host(&repo, false).is_err(), "{repo}");
            assert!(check_host(&repo, true).is_ok(), "{repo}");
        }
    }

    #[test]
    fn forges_and_private_networks_are_allowed() {
        for repo in
            ["github.com/o/r", "https://git.example.org/o/r", "http://10.0.0.7:3000/o/r", "https://1e100.net/o/r"]
        {
            assert_eq!(check_host(repo, false), Ok(()), "{repo}");
        }
    }

    #[test]
    fn ssh_is_said_to_be_missing() {
        for repo in ["git@github.com:o/r.git", "ssh://git@host/o/r"] {
            assert!(check_host(repo, true).is_err_and(|problem| problem.0.contains("not available")), "{repo}");
        }
    }
}
