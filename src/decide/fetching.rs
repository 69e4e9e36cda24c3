//! What programs behind a fence may fetch, by what they ask the only way out for (`build::nix`). Pure.
//!
//! The way out is a proxy for HTTP, which asks for names: what a name means is found out and checked where the connection is made, so a
//! name that means something else a moment later changes nothing.

use std::net::IpAddr;

use http::Uri;
use http::uri::Authority;

use super::address::refusal;
use crate::model::{Problem, quoted};

/// Longest request without its body.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The end of it.
pub const HEAD_END: &[u8] = b"\r\n\r\n";
/// What is between a client and its proxy only.
const NOT_PASSED_ON: [&str; 4] = ["connection", "proxy-connection", "proxy-authorization", "keep-alive"];

/// What somebody behind the fence wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The host, as a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What its server is told first; nothing when a tunnel is wanted.
    pub passed_on: Option<Vec<u8>>,
}

/// Where fences let out to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Loopback and link-local addresses, which the operator allows to sources.
    pub allow_loopback: bool,
    /// Hosts and ports that the operator named, wherever they are.
    pub named: Vec<(String, u16)>,
}

impl Reach {
    /// Why a host must not be reached that has these addresses. Every one must be allowed: a name with one foot inside is a trick.
    pub fn refusal(&self, asked: &Asked, addresses: &[IpAddr]) -> Option<&'static str> {
        let is_asked = |(host, port): &(String, u16)| host.eq_ignore_ascii_case(&asked.host) && *port == asked.port;
        if self.named.iter().any(is_asked) {
            return None;
        }
        addresses.iter().find_map(|address| refusal(*address, self.allow_loopback))
    }
}

/// Hosts and ports of caches that are named like the substituters of Nix: separated by spaces, some of them no hosts.
pub fn hosts(caches: &str) -> Vec<(String, u16)> {
    let host = |cache: &str| {
        let uri: Uri = cache.parse().ok()?;
        let known = match uri.scheme_str()? {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        Some((bare(uri.authority()?), uri.port_u16().unwrap_or(known)))
    };
    caches.split_whitespace().filter_map(host).collect()
}

/// Reads a request up to and with [`HEAD_END`].
///
/// # Errors
/// It is none that a proxy for HTTP understands.
pub fn asked(head: &[u8]) -> Result<Asked, Problem> {
    let head = std::str::from_utf8(head).map_err(|_| Problem::new("the request is not text"))?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let refused = || Problem::new(format!("{} is no request to a proxy for HTTP", quoted(first)));
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(refused());
    };
    let uri: Uri = target.parse().map_err(|_| refused())?;
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(refused)?;
    if method == "CONNECT" {
        let port = authority.port_u16().ok_or_else(refused)?;
        return Ok(Asked { host: bare(authority), port, passed_on: None });
    }
    if uri.scheme_str() != Some("http") {
        return Err(refused());
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let is_passed_on = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().trim();
        !line.is_empty() && !NOT_PASSED_ON.iter().any(|other| name.eq_ignore_ascii_case(other))
    };
    // One request for each connection: the next one may be for another host.
    let mut text = format!("{method} {path} {version}\r\n");
    for line in lines.filter(is_passed_on) {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    Ok(Asked { host: bare(authority), port: authority.port_u16().unwrap_or(80), passed_on: Some(text.into_bytes()) })
}

/// A host without the brackets that addresses with colons are in.
fn bare(authority: &Authority) -> String {
    authority.host().trim_matches(['[', ']']).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tunnel_has_a_host_and_a_port() {
        for (target, host, port) in [("example.org:443", "example.org", 443), ("[::1]:8080", "::1", 8080)] {
            let head = format!("CONNECT {target} HTTP/1.1\r\nHost: other\r\n\r\n");
            assert_eq!(asked(head.as_bytes()), Ok(Asked { host: host.to_owned(), port, passed_on: None }));
        }
        for bad in
            ["CONNECT example.org HTTP/1.1", "CONNECT /x HTTP/1.1", "GET / HTTP/1.1", "GET https://x/ HTTP/1.1", ""]
        {
            let refused = asked(format!("{bad}\r\n\r\n").as_bytes()).expect_err("refused");
            assert!(refused.0.contains("is no request to a proxy"), "{bad}: {}", refused.0);
        }
    }

    #[test]
    fn a_request_is_passed_on_as_its_server_expects_it() {
        let head = "GET http://example.org:81/a?b=c HTTP/1.1\r\nHost: example.org:81\r\nProxy-Connection: Keep-Alive\r\n\
                    connection: keep-alive\r\nAccept: */*\r\n\r\n";
        let asked = asked(head.as_bytes()).expect("a request");
        assert_eq!((asked.host.as_str(), asked.port), ("example.org", 81));
        let passed_on = String::from_utf8(asked.passed_on.expect("no tunnel")).expect("text");
        assert_eq!(
            passed_on,
            "GET /a?b=c HTTP/1.1\r\nHost: example.org:81\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn what_the_operator_named_is_reached_and_nothing_else_of_the_machine() {
        let named =
            hosts("http://localhost:5000?trusted=1 https://cache.example.org file:///srv/cache http://[::1]:1 daemon");
        let pairs = [("localhost", 5000), ("cache.example.org", 443), ("::1", 1)];
        assert_eq!(named, pairs.map(|(host, port)| (host.to_owned(), port)));
        let reach = Reach { allow_loopback: false, named };
        let to = |host: &str, port| Asked { host: host.to_owned(), port, passed_on: None };
        let [loopback, public]: [IpAddr; 2] =
            ["127.0.0.1", "140.82.121.3"].map(|text| text.parse().expect("an address"));
        assert_eq!(reach.refusal(&to("LOCALHOST", 5000), &[loopback]), None);
        assert_eq!(reach.refusal(&to("localhost", 5001), &[loopback]), Some("a loopback address"));
        assert_eq!(reach.refusal(&to("127.0.0.1", 5000), &[loopback]), Some("a loopback address"));
        assert_eq!(reach.refusal(&to("example.org", 443), &[public]), None);
        assert_eq!(reach.refusal(&to("example.org", 443), &[public, loopback]), Some("a loopback address"));
        assert_eq!(Reach { allow_loopback: true, named: Vec::new() }.refusal(&to("localhost", 1), &[loopback]), None);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_gets_an_answer(head in any::<Vec<u8>>(), line in ".*", method in "GET|CONNECT") {
            let _any_answer = asked(&head);
            if let Ok(asked) = asked(format!("{method} {line}\r\n\r\n").as_bytes()) {
                prop_assert!(!asked.host.is_empty());
            }
        }
    }
}
