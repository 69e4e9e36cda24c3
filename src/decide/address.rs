//! Which network addresses a user's text may make this cluster talk to.
//!
//! Comes in: an address that a host name was resolved to. Goes out: why it is refused, or nothing. Private networks are
//! allowed on purpose: a self-hosted forge usually lives on one. Deliberately absent: resolving names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Cloud metadata services outside the link-local range: Alibaba, Azure, Oracle; then AWS and Google over IPv6.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Names of the machine that an engine or a resolver knows by itself.
const LOCAL_NAMES: [&str; 4] =
    ["localhost", "host.docker.internal", "host.containers.internal", "metadata.google.internal"];

/// Why an address must not be reached on behalf of a user; `None` when it may be. `allow_loopback` is the operator's word
/// that loopback and link-local addresses may be used.
pub fn refusal(address: IpAddr, allow_loopback: bool) -> Option<&'static str> {
    let address = embedded_v4(address);
    let (metadata, link_local, broadcast) = match address {
        IpAddr::V4(v4) => (METADATA_V4.contains(&v4), v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (METADATA_V6.contains(&v6), v6.is_unicast_link_local(), false),
    };
    if metadata || address == IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)) {
        return Some("a cloud metadata address");
    }
    if address.is_multicast() || broadcast {
        return Some("a multicast or broadcast address");
    }
    let this_network = matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0);
    if address.is_unspecified() || this_network {
        return Some("an unspecified address");
    }
    match (address.is_loopback(), link_local) {
        (true, _) if !allow_loopback => Some("a loopback address"),
        (_, true) if !allow_loopback => Some("a link-local address"),
        _ => None,
    }
}

/// The IPv4 address that an IPv6 address stands for (mapped, compatible, NAT64, 6to4), so that no spelling gets around.
fn embedded_v4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let low = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b] if s != [0, 0, 0, 0, 0, 0, 0, 0] && s != [0, 0, 0, 0, 0, 0, 0, 1] => {
            low(a, b)
        }
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => low(a, b),
        _ => address,
    }
}

/// Why a `host[:port]` must not be used.
pub(super) fn host_problem(authority: &str, allow_loopback: bool) -> Option<&'static str> {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    };
    let lower = host.trim_end_matches('.').to_ascii_lowercase();
    if LOCAL_NAMES.contains(&lower.as_str()) || lower.ends_with(".localhost") {
        return (!allow_loopback).then_some("lies on this machine, where others have theirs too");
    }
    if let Ok(address) = lower.parse::<IpAddr>() {
        return refusal(address, allow_loopback).map(|_| "is an address of this machine or its surroundings");
    }
    // Spellings of an IPv4 address that resolvers accept and a dotted-quad parser does not: 0x7f.1, 2130706433.
    let numeric = lower.rsplit('.').next().is_some_and(|last| {
        last.starts_with("0x") || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
    });
    numeric.then_some("is an address not written as four decimal numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_forbidden_address_is_refused() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "100.100.100.200",
            "169.254.169.254",
            "fd00:ec2::254",
        ] {
            let address: IpAddr = text.parse().expect("an address");
            assert!(refusal(address, false).is_some(), "{text}");
        }
    }

    #[test]
    fn public_and_private_networks_are_allowed() {
        for text in
            ["140.82.121.3", "10.0.0.1", "192.168.1.2", "172.16.3.4", "fd12::1", "2606:50c0::1", "::ffff:10.0.0.1"]
        {
            assert_eq!(refusal(text.parse().expect("an address"), false), None, "{text}");
        }
    }

    #[test]
    fn the_operator_opens_loopback_but_never_metadata() {
        for text in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1"] {
            assert_eq!(refusal(text.parse().expect("an address"), true), None, "{text}");
        }
        for text in ["169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0", "224.0.0.1"] {
            assert!(refusal(text.parse().expect("an address"), true).is_some(), "{text}");
        }
    }
}
