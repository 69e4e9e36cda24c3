//! Where a repository is, and the address it may be fetched from.
//!
//! A name is resolved once, here; what it resolved to is checked, and git is told to connect to exactly that. A name that
//! means something else a moment later (DNS rebinding) changes nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use url::{Host, Url};

use super::Error;
use super::error::shown;
use crate::decide::address;
use crate::model::{check_git_repo, git_clone_url};

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 8;
/// What git asks a server for first.
const FIRST_REQUEST: &str = "/info/refs";

/// An address that has the right form.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    url: Url,
}

/// An address whose host was resolved and checked.
#[derive(Clone, Debug)]
pub(super) struct Pinned {
    remote: Remote,
    /// Without the slashes at the end.
    url: String,
    port: u16,
    addresses: Vec<IpAddr>,
}

impl Remote {
    pub(super) fn parse(repository: &str) -> Result<Self, Error> {
        let bad = |reason: &str| {
            Err(Error::InvalidRepository { repository: without_credentials(repository), reason: reason.to_owned() })
        };
        if has_credentials(repository) {
            return bad("it holds a password or user name; take it out, and never store one in an address");
        }
        if let Err(problem) = check_git_repo(repository) {
            return bad(&shown(&problem.0, 300));
        }
        if repository.contains('%') {
            return bad("a repository address needs no %-escapes");
        }
        if repository.starts_with("ssh:") || repository.starts_with("git@") {
            return bad("ssh is not supported yet; use its https:// address");
        }
        match Url::parse(&git_clone_url(repository)) {
            Ok(url) => Self::checked(url).or_else(bad),
            Err(error) => bad(&error.to_string()),
        }
    }

    fn checked(url: Url) -> Result<Self, &'static str> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err("only http and https are supported");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it holds a password or user name");
        }
        if url.query().is_some() || url.fragment().is_some() || url.port() == Some(0) {
            return Err("it has parts that a repository address does not have");
        }
        // A dot at the end would make another name of it for some programs and not for others.
        match url.host_str() {
            Some(host) if !host.ends_with('.') => Ok(Self { url }),
            _ => Err("its host is not one"),
        }
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        shown(self.url.as_str(), 200)
    }

    /// Resolves the host. Every address it has must be allowed: a name with one foot inside is a trick.
    pub(super) async fn pin(self, allow_loopback: bool) -> Result<Pinned, Error> {
        let host = self.url.host_str().unwrap_or_default().to_owned();
        let port = self.url.port_or_known_default().unwrap_or(443);
        let addresses = match self.url.host() {
            Some(Host::Ipv4(v4)) => vec![IpAddr::V4(v4)],
            Some(Host::Ipv6(v6)) => vec![IpAddr::V6(v6)],
            _ => resolve(&self, &host, port).await?,
        };
        for address in &addresses {
            if let Some(reason) = address::refusal(*address, allow_loopback) {
                return Err(Error::AddressRefused { host, address: *address, reason });
            }
        }
        let url = self.url.as_str().trim_end_matches('/').to_owned();
        Ok(Pinned { remote: self, url, port, addresses })
    }
}

async fn resolve(remote: &Remote, host: &str, port: u16) -> Result<Vec<IpAddr>, Error> {
    let failed = |cause: String| Error::CloneFailed { repository: remote.shown(), cause };
    let lookup = tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await;
    let found = lookup
        .map_err(|_| failed(format!("the name {host} could not be resolved in time")))?
        .map_err(|error| failed(format!("the name {host} could not be resolved ({error})")))?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed(format!("the name {host} has no address")));
    }
    Ok(addresses)
}

impl Pinned {
    /// For git.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The value of git's `http.curloptResolve`; nothing to pin when the host is an address.
    pub(super) fn resolve_option(&self) -> Option<String> {
        let Some(Host::Domain(host)) = self.remote.url.host() else { return None };
        let bracketed = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let addresses: Vec<String> = self.addresses.iter().take(MAX_ADDRESSES).map(bracketed).collect();
        Some(format!("{host}:{}:{}", self.port, addresses.join(",")))
    }

    /// Asks where the server redirects to. The same protocol, or from http to https; checked like an address of a user.
    pub(super) async fn redirected(&self) -> Result<Remote, Error> {
        let failed = |cause: String| Error::CloneFailed { repository: self.remote.shown(), cause };
        let response = self.probe().await.map_err(|error| failed(shown(&error.to_string(), 300)))?;
        let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| failed("it redirects to nowhere".to_owned()))?;
        let mut target = self.remote.url.join(location).map_err(|_| failed("it redirects to no address".to_owned()))?;
        let Some(base) = target.path().strip_suffix(FIRST_REQUEST).map(str::to_owned) else {
            return Err(failed(format!("it redirects to {}, which is no repository", shown(location, 200))));
        };
        target.set_path(&base);
        target.set_query(None);
        let from = self.remote.url.scheme();
        if target.scheme() != from && !(from == "http" && target.scheme() == "https") {
            return Err(failed(format!("it redirects from {from} to {}", shown(target.scheme(), 20))));
        }
        Remote::checked(target)
            .map_err(|reason| failed(format!("it redirects to an address that is refused: {reason}")))
    }

    async fn probe(&self) -> Result<reqwest::Response, reqwest::Error> {
        // The program chooses one when it starts; a lone use of this module must not depend on that.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Losing the race to another one is fine.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent("git/narvana")
            .timeout(PROBE_TIMEOUT);
        if let Some(Host::Domain(host)) = self.remote.url.host() {
            let addresses: Vec<SocketAddr> =
                self.addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect();
            builder = builder.resolve_to_addrs(host, &addresses);
        }
        builder.build()?.get(format!("{}{FIRST_REQUEST}?service=git-upload-pack", self.url)).send().await
    }
}

fn has_credentials(repository: &str) -> bool {
    let authority = |rest: &str| rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'));
    match repository.split_once("://") {
        Some(("ssh", _)) => false,
        Some((_, rest)) => authority(rest),
        None => !repository.starts_with("git@") && authority(repository),
    }
}

fn without_credentials(repository: &str) -> String {
    if has_credentials(repository) {
        return "the address".to_owned();
    }
    shown(repository, 128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_repositories() {
        let long = format!("https://host/{}", "a".repeat(10_000));
        for bad in [
            "--upload-pack=touch /tmp/x",
            "ext::sh -c id",
            "file:///var/lib/narvana",
            "/etc",
            "../x",
            "gopher://host/x",
            "unix:///run/podman.sock",
            "git://host/x",
            "ssh://-oProxyCommand=id/x",
            "https://-x/y",
            "https://host/a b",
            "https://host/a\nb",
            "https://host/a\0b",
            "https://host/a%0ab",
            "https://host/a?b",
            "https://host/a#b",
            "https://",
            "https:///x",
            "http://host./x",
            "http://host:0/x",
            "http://host:99999/x",
            "",
            &long,
        ] {
            assert!(matches!(Remote::parse(bad), Err(Error::InvalidRepository { .. })), "{bad:?}");
        }
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for bad in
            ["https://user:hunter2@host/x", "https://hunter2@host/x", "http://a:hunter2@host", "hunter2@github.com/o/r"]
        {
            let error = Remote::parse(bad).expect_err("refused").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn short_forms_become_https() {
        assert_eq!(Remote::parse("github.com/o/r").expect("a remote").url.as_str(), "https://github.com/o/r");
    }

    #[tokio::test]
    async fn forbidden_addresses_in_every_spelling() {
        for bad in [
            "http://127.0.0.1:8080/x",
            "http://169.254.169.254/x",
            "http://0x7f.1/x",
            "http://2130706433/x",
            "http://0177.0.0.1/x",
            "http://[::1]/x",
            "http://[::ffff:127.0.0.1]/x",
            "http://[fe80::1]/x",
            "http://0.0.0.0/x",
            "http://localhost/x",
            "http://127.1/x",
            "http://[::]/x",
        ] {
            let remote = Remote::parse(bad).unwrap_or_else(|error| panic!("{bad}: {error}"));
            assert!(matches!(remote.pin(false).await, Err(Error::AddressRefused { .. })), "{bad}");
        }
        let private = Remote::parse("http://10.1.2.3/x").expect("a remote").pin(false).await.expect("allowed");
        assert_eq!(private.resolve_option(), None);
    }

    #[tokio::test]
    async fn a_name_is_pinned_to_what_was_checked() {
        let pinned = Remote::parse("http://localhost:8080/x/").expect("a remote").pin(true).await.expect("allowed");
        assert_eq!(pinned.url(), "http://localhost:8080/x");
        let option = pinned.resolve_option().expect("a name");
        assert!(option.starts_with("localhost:8080:") && option.contains("127.0.0.1"), "{option}");
    }
}
