//! Which sources a flake may take in, by what its lock file names. Pure.
//!
//! Each must be locked, and come from where everybody may fetch. Nix would find nothing else either (docs/decisions/0020); looked at first, what is wrong
//! is said by the name of the input. What the file does not name, Nix refuses (`build::nix`).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::address::host_problem;
use crate::model::{Problem, check_path_in_source, quoted};

/// Largest lock file that is read. Those of large systems have some hundred kilobytes.
pub const LOCK_BYTES_MAX: u64 = 4 << 20;
/// Kinds of inputs from forges, which Nix fetches by the name of a repository.
const FORGES: [&str; 3] = ["github", "gitlab", "sourcehut"];

/// The only format that is read: others say in other places what Nix fetches.
const VERSION: u64 = 7;

#[derive(Deserialize)]
struct Lock {
    nodes: Map<String, Value>,
    version: u64,
}

/// Refuses a lock file that cannot be read, or names an input that must not be fetched.
pub fn check_flake_lock(text: &[u8], allow_loopback: bool) -> Result<(), Problem> {
    let lock: Lock = serde_json::from_slice(text).map_err(|error| {
        Problem::new(format!("flake.lock cannot be read: {error}; make it anew with `nix flake lock`"))
    })?;
    if lock.version != VERSION {
        let found = lock.version;
        return Err(Problem::new(format!(
            "flake.lock has version {found}, and {VERSION} is read: make it anew with `nix flake lock`"
        )));
    }
    for (name, node) in &lock.nodes {
        if node.get("info").is_some() {
            return Err(Problem::new(format!(
                "input {} of flake.lock has a field of older formats: info",
                quoted(name)
            )));
        }
        if let Some(locked) = node.get("locked") {
            check_input(locked, allow_loopback)
                .map_err(|why| Problem::new(format!("input {} of flake.lock {why}", quoted(name))))?;
        }
    }
    Ok(())
}

fn check_input(locked: &Value, allow_loopback: bool) -> Result<(), String> {
    let text = |field: &str| locked.get(field).and_then(Value::as_str);
    let kind = text("type").unwrap_or_default();
    let has_commits = kind == "git" || FORGES.contains(&kind);
    if text("narHash").is_none() && !(has_commits && text("rev").is_some()) {
        return Err("is not locked: it names neither a hash of its contents nor a commit".to_owned());
    }
    let check_host = |host: &str| match host_problem(host, allow_loopback) {
        Some(why) => Err(format!("is at {}, which {why}", quoted(host))),
        None => Ok(()),
    };
    match kind {
        forge if FORGES.contains(&forge) => text("host").map_or(Ok(()), check_host),
        "git" | "tarball" | "file" => {
            let url = text("url").unwrap_or_default();
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://").filter(|_| allow_loopback));
            let rest = rest.ok_or_else(|| format!("is at {}: only https:// is fetched", quoted(url)))?;
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            // What stands before an @ is no host.
            check_host(authority.rsplit('@').next().unwrap_or_default())
        }
        "path" => {
            let path = text("path").unwrap_or_default();
            let inner = path.strip_prefix("./").unwrap_or(path);
            check_path_in_source(inner).map_err(|_| format!("is the path {}, which is not in the source", quoted(path)))
        }
        other => Err(format!(
            "is of type {}; github, gitlab, sourcehut, git, tarball, file and path are fetched",
            quoted(other)
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(locked: &Value, allow_loopback: bool) -> Result<(), String> {
        let lock =
            json!({"nodes": {"root": {"inputs": {"x": "x"}}, "x": {"locked": locked}}, "root": "root", "version": 7});
        check_flake_lock(lock.to_string().as_bytes(), allow_loopback).map_err(|problem| problem.0)
    }

    #[test]
    fn what_everybody_may_fetch_is_fetched() {
        for good in [
            json!({"type": "github", "owner": "NixOS", "repo": "nixpkgs", "rev": "a", "narHash": "sha256-x"}),
            json!({"type": "gitlab", "host": "gitlab.example.org", "owner": "o", "repo": "r", "rev": "a"}),
            json!({"type": "git", "url": "https://example.org/r.git", "rev": "a"}),
            json!({"type": "tarball", "url": "https://example.org/x.tar.gz?x=1", "narHash": "sha256-x"}),
            json!({"type": "path", "path": "./sub/flake", "narHash": "sha256-x"}),
        ] {
            assert_eq!(check(&good, false), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_only_this_machine_has_is_refused_by_name() {
        for (bad, words) in [
            (json!({"type": "path", "path": "/etc", "narHash": "sha256-x"}), "which is not in the source"),
            (json!({"type": "path", "path": "../x", "narHash": "sha256-x"}), "which is not in the source"),
            (json!({"type": "git", "url": "file:///srv/r", "rev": "a"}), "only https://"),
            (json!({"type": "git", "url": "ssh://git@host/r", "rev": "a"}), "only https://"),
            (json!({"type": "git", "url": "http://example.org/r", "rev": "a"}), "only https://"),
            (json!({"type": "tarball", "url": "https://127.0.0.1/x", "narHash": "h"}), "which is an address"),
            (json!({"type": "tarball", "url": "https://x@localhost/x", "narHash": "h"}), "which lies on this machine"),
            (json!({"type": "github", "host": "169.254.169.254", "rev": "a"}), "which is an address"),
            (json!({"type": "github", "owner": "o", "repo": "r"}), "is not locked"),
            (json!({"type": "indirect", "id": "nixpkgs", "narHash": "h"}), "is of type \"indirect\""),
            (json!({"type": 7, "narHash": "h"}), "is of type \"\""),
        ] {
            let refused = check(&bad, false).expect_err("refused");
            assert!(refused.starts_with("input \"x\" of flake.lock ") && refused.contains(words), "{bad}: {refused}");
        }
        assert_eq!(check(&json!({"type": "git", "url": "http://127.0.0.1:80/r", "rev": "a"}), true), Ok(()));
    }

    #[test]
    fn older_formats_are_not_read() {
        let locked = json!({"type": "github", "owner": "o", "repo": "r", "rev": "a"});
        let info = json!({"nodes": {"x": {"locked": locked, "info": {"path": "/etc"}}}, "version": 7});
        let old = json!({"nodes": {"x": {"locked": locked}}, "version": 4});
        for (lock, words) in [(info, "a field of older formats"), (old, "has version 4")] {
            let refused = check_flake_lock(lock.to_string().as_bytes(), false).expect_err("refused").0;
            assert!(refused.contains(words), "{refused}");
        }
        let by_commit = json!({"type": "tarball", "url": "https://example.org/x", "rev": "a"});
        assert!(check(&by_commit, false).is_err_and(|why| why.contains("is not locked")), "a tarball has no commits");
    }

    proptest! {
        #[test]
        fn whatever_stands_there_gets_an_answer(text in any::<Vec<u8>>()) {
            let _any_answer = check_flake_lock(&text, false);
        }
    }
}
