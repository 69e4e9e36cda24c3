//! Images and hosts that a Dockerfile names.

use std::net::IpAddr;

use super::values::shown;
use crate::decide::address;
use crate::model::check_image;

/// Names of the machine that an engine resolves by itself.
const LOCAL_NAMES: [&str; 4] =
    ["localhost", "host.docker.internal", "host.containers.internal", "metadata.google.internal"];

/// Why a reference is not one, or names what it must not.
pub(super) fn image_problem(image: &str, allow_loopback: bool) -> Option<String> {
    if image.is_empty() {
        return Some("is empty; does a variable lack its default?".to_owned());
    }
    if let Err(problem) = check_image(image) {
        return Some(shown(&problem.0));
    }
    let host = image.split_once('/').map(|(host, _)| host);
    let host = host.filter(|host| host.contains(['.', ':']) || *host == "localhost");
    host.and_then(|host| host_problem(host, allow_loopback)).map(str::to_owned)
}

/// Why a `host[:port]` must not be used.
pub(super) fn host_problem(authority: &str, allow_loopback: bool) -> Option<&'static str> {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    };
    let lower = host.trim_end_matches('.').to_ascii_lowercase();
    if LOCAL_NAMES.contains(&lower.as_str()) || lower.ends_with(".localhost") {
        return (!allow_loopback).then_some("lies on this machine, where other tenants' images lie too");
    }
    if let Ok(address) = lower.parse::<IpAddr>() {
        return address::refusal(address, allow_loopback).map(|_| "is an address of this machine or its surroundings");
    }
    // Spellings of an IPv4 address that resolvers accept and a dotted-quad parser does not: 0x7f.1, 2130706433.
    let numeric = lower.rsplit('.').next().is_some_and(|last| {
        last.starts_with("0x") || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
    });
    numeric.then_some("is an address not written as four decimal numbers")
}
