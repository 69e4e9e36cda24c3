//! Which host a request is for (RFC 9112 section 3.2).

use std::borrow::Cow;

use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, Uri};

/// Why a request is refused before its host is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No `Host`, or more than one.
    HostCount,
    /// Not a host name or address.
    BadHost,
    /// An absolute target of a scheme that this port does not speak.
    OtherScheme,
    /// CONNECT or TRACE.
    Method,
}

/// The authority a request names, as the client wrote it: from an absolute target, else from `Host`.
///
/// `Host` must be there exactly once even when the target overrides it.
pub(super) fn authority(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(Refusal::Method);
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Refusal::HostCount);
    };
    match uri.authority() {
        None => Ok(host.clone()),
        Some(_) if uri.scheme_str() != Some("http") => Err(Refusal::OtherScheme),
        Some(authority) => HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadHost),
    }
}

/// The key of the route table for an authority: lower-case, no port, no trailing dot.
pub(super) fn host(authority: &HeaderValue) -> Result<Cow<'_, str>, Refusal> {
    let text = authority.to_str().map_err(|_| Refusal::BadHost)?;
    let (host, port) = match text.find(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_is_fine = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    if !port_is_fine || !is_host(host) {
        return Err(Refusal::BadHost);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Ok(Cow::Owned(host.to_ascii_lowercase()))
    } else {
        Ok(Cow::Borrowed(host))
    }
}

fn is_host(text: &str) -> bool {
    if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inside.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let fits = !text.is_empty() && text != "." && text.len() <= 254;
    fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_lose_case_port_and_trailing_dot() {
        for (authority, expected) in [
            ("a.test", "a.test"),
            ("A.Test:8080", "a.test"),
            ("a.test.", "a.test"),
            ("a.test.:80", "a.test"),
            ("a.test:", "a.test"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("web_1.a", "web_1.a"),
        ] {
            assert_eq!(host(&HeaderValue::from_static(authority)).as_deref(), Ok(expected), "{authority}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a".repeat(255);
        for authority in
            ["", ".", ":80", "a b", "a.test:x", "a.test:80:90", "u@a.test", "a/b", "[::1", "[::1]x", "<b>", &long]
        {
            let value = HeaderValue::from_str(authority).unwrap();
            assert_eq!(host(&value).err(), Some(Refusal::BadHost), "{authority}");
        }
        assert!(host(&HeaderValue::from_bytes(b"\xff.test").unwrap()).is_err());
    }

    #[test]
    fn an_absolute_target_overrides_a_host_that_must_still_be_there_once() {
        let read = |method: Method, uri: &'static str, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            authority(&method, &Uri::from_static(uri), &headers).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(read(Method::GET, "/", &["a.test"]), Ok("a.test".into()));
        assert_eq!(read(Method::GET, "http://b.test/x", &["a.test"]), Ok("b.test".into()));
        assert_eq!(read(Method::GET, "http://b.test/x", &[]), Err(Refusal::HostCount));
        assert_eq!(read(Method::GET, "/", &["a.test", "a.test"]), Err(Refusal::HostCount));
        assert_eq!(read(Method::GET, "https://b.test/x", &["b.test"]), Err(Refusal::OtherScheme));
        assert_eq!(read(Method::CONNECT, "b.test:443", &["b.test"]), Err(Refusal::Method));
        assert_eq!(read(Method::TRACE, "/", &["b.test"]), Err(Refusal::Method));
    }
}
