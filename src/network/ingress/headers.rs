//! Header fields on their way through: what ends here, what is said about the client, what an upgrade needs.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Version};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const UPGRADE_TOKEN: HeaderValue = HeaderValue::from_static("upgrade");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");

/// The protocol a client asks to switch to, when it may.
///
/// HTTP/2 is not offered this way: requests inside it would go by unseen, past the checks made here.
pub(super) fn wanted_upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    let mut protocols = request.headers().get_all(UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return None };
    let asked = request.version() == Version::HTTP_11 && tokens(request.headers(), &CONNECTION).any(|t| t == "upgrade");
    let text = protocol.to_str().ok()?.to_ascii_lowercase();
    let refused = text.contains("h2c") || text.contains("http/") || text.contains("tls/");
    (asked && !refused).then(|| protocol.clone())
}

/// Whether the body's framing is one that this proxy passes on: none, a length, or exactly `chunked`.
pub(super) fn framing_is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && !headers.contains_key(CONTENT_LENGTH)
        }
        _ => false,
    }
}

/// Turns a client's header fields into those an instance gets.
///
/// `chunked`: the request has a body of unknown length, which hyper would leave out of a GET if it were not told.
pub(super) fn to_instance(
    headers: &mut HeaderMap,
    client: &HeaderValue,
    authority: HeaderValue,
    upgrade: Option<HeaderValue>,
    chunked: bool,
) {
    strip(headers, |name| ends_here(name) || speaks_of_the_client(name));
    headers.insert(HOST, authority.clone());
    headers.insert(FORWARDED_FOR, client.clone());
    headers.insert(FORWARDED_PROTO, HTTP);
    headers.insert(FORWARDED_HOST, authority);
    if chunked {
        headers.insert(TRANSFER_ENCODING, CHUNKED);
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, UPGRADE_TOKEN);
        headers.insert(UPGRADE, protocol);
    }
}

/// Turns an instance's header fields into those a client gets. `switching`: the answer to a wanted upgrade.
pub(super) fn to_client(headers: &mut HeaderMap, switching: bool) {
    // Next to a transfer coding a length is a lie that some clients believe.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let protocol = if switching { headers.remove(UPGRADE) } else { None };
    strip(headers, ends_here);
    if switching {
        headers.insert(CONNECTION, UPGRADE_TOKEN);
        if let Some(protocol) = protocol {
            headers.insert(UPGRADE, protocol);
        }
    }
}

fn strip(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let mut gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    if headers.contains_key(CONNECTION) {
        gone.extend(tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()));
    }
    for name in gone {
        headers.remove(name);
    }
}

/// Fields about this connection, not about the message. `Trailer` is not one of them: trailers pass.
fn ends_here(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        // Answered here as soon as the instance takes the body.
        || *name == EXPECT
        || matches!(name.as_str(), "keep-alive" | "http2-settings")
        || name.as_str().starts_with("proxy-")
}

/// Fields that only a proxy may set. Some servers read `_` as `-`, so both spellings count. `Proxy` becomes the
/// variable `HTTP_PROXY` in CGI, which programs then trust.
fn speaks_of_the_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is = |known: &str| name.len() == known.len() && starts(name, known);
    is("forwarded") || is("proxy") || is("x-real-ip") || starts(name, "x-forwarded-")
}

fn starts(name: &str, known: &str) -> bool {
    let same = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b'-');
    name.len() >= known.len() && name.bytes().zip(known.bytes()).all(same)
}

fn tokens(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|token| token.trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn what_clients_say_about_themselves_and_the_connection_does_not_pass() {
        let mut fields = headers(&[
            ("host", "a.test"),
            ("accept", "*/*"),
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "300"),
            ("proxy-authorization", "x"),
            ("proxy", "http://evil"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded-prefix", "/x"),
            ("x-real-ip", "1.2.3.4"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
        ]);
        let client = HeaderValue::from_static("192.0.2.7");
        to_instance(&mut fields, &client, HeaderValue::from_static("A.test:81"), None, false);
        let expected = headers(&[
            ("host", "A.test:81"),
            ("accept", "*/*"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "A.test:81"),
        ]);
        assert_eq!(fields, expected);
    }

    #[test]
    fn connection_options_cannot_remove_what_is_said_about_the_client() {
        let mut fields = headers(&[("host", "a.test"), ("connection", "x-forwarded-for, host")]);
        let client = HeaderValue::from_static("192.0.2.7");
        to_instance(&mut fields, &client, HeaderValue::from_static("a.test"), None, false);
        assert_eq!(fields["x-forwarded-for"], "192.0.2.7");
        assert_eq!(fields["host"], "a.test");
    }

    #[test]
    fn only_a_proper_upgrade_is_wanted() {
        let wanted = |version, fields: &[(&'static str, &'static str)]| {
            let mut request = Request::new(());
            *request.version_mut() = version;
            *request.headers_mut() = headers(fields);
            wanted_upgrade(&request).is_some()
        };
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert!(wanted(Version::HTTP_11, &websocket));
        assert!(!wanted(Version::HTTP_10, &websocket));
        assert!(!wanted(Version::HTTP_11, &[("upgrade", "websocket")]));
        assert!(!wanted(Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "H2C")]));
        assert!(!wanted(Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")]));
    }

    #[test]
    fn only_one_framing_is_passed_on() {
        assert!(framing_is_plain(&headers(&[("content-length", "3")])));
        assert!(framing_is_plain(&headers(&[("transfer-encoding", "Chunked")])));
        assert!(!framing_is_plain(&headers(&[("transfer-encoding", "gzip, chunked")])));
        assert!(!framing_is_plain(&headers(&[("transfer-encoding", "chunked"), ("content-length", "3")])));
        assert!(!framing_is_plain(&headers(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")])));
    }

    #[test]
    fn a_length_next_to_a_transfer_coding_does_not_reach_the_client() {
        let mut fields = headers(&[("transfer-encoding", "chunked"), ("content-length", "3"), ("x", "1")]);
        to_client(&mut fields, false);
        assert_eq!(fields, headers(&[("x", "1")]));
    }
}
