//! What names, keys, references and addresses given by users may look like.
//!
//! Each check is an allow-list: what passes is safe in a host name, a container name, an argument vector and a file
//! name alike. The rules are those of the original system, except where its rule was missing.

use std::net::Ipv6Addr;

use super::{Problem, quoted};

/// Longest environment variable name, in bytes.
pub const ENV_KEY_BYTES_MAX: usize = 256;
/// Longest environment variable value, in bytes.
pub const ENV_VALUE_BYTES_MAX: usize = 32_768;
/// Longest domain name, in bytes (RFC 1035).
pub const DOMAIN_NAME_BYTES_MAX: usize = 253;
/// Longest name of a node, in bytes: the longest host name that Linux takes.
const NODE_NAME_BYTES_MAX: usize = 64;
/// Longest DNS label, in bytes (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;
/// Names that host names and containers of the platform itself use.
const RESERVED: [&str; 1] = ["narvana"];

type Check = Result<(), Problem>;

fn check_label(what: &str, name: &str) -> Check {
    let rule = "must start with a lower-case letter, hold only a-z, 0-9 and '-', and end with a letter or digit";
    if name.is_empty() {
        return Err(Problem::new(format!("{what} is required")));
    }
    if name.len() > LABEL_BYTES_MAX {
        return Err(Problem::new(format!("must have at most {LABEL_BYTES_MAX} characters, has {}", name.len())));
    }
    let first_ok = name.starts_with(|c: char| c.is_ascii_lowercase());
    let last_ok = name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner_ok = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !(first_ok && last_ok && inner_ok) {
        return Err(Problem::new(format!("{rule}, got {}", quoted(name))));
    }
    if name.starts_with("xn--") || RESERVED.contains(&name) {
        return Err(Problem::new(format!("{} is reserved", quoted(name))));
    }
    Ok(())
}

/// A service name: a DNS label, 1 to 63 characters, starting with a letter.
pub fn check_service_name(name: &str) -> Check {
    check_label("a service name", name)
}

/// An app name: a DNS label like a service's, because both become one host name.
pub fn check_app_name(name: &str) -> Check {
    check_label("an app name", name)
}

/// An organisation's name for people: 1 to 63 characters, no control characters.
pub fn check_org_name(name: &str) -> Check {
    check_text("name", name, 1, 63)
}

/// A node's name: what a host may be called, 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit.
pub fn check_node_name(name: &str) -> Check {
    let charset_ok = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let first_ok = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.len() > NODE_NAME_BYTES_MAX || !charset_ok || !first_ok {
        return Err(Problem::new(format!(
            "must be 1 to {NODE_NAME_BYTES_MAX} letters, digits, '.', '_' and '-', beginning with a letter or digit, \
             got {}",
            quoted(name)
        )));
    }
    Ok(())
}

/// Processor architectures as container images name them: those for which images for Linux are made.
pub const ARCHITECTURES: [&str; 9] =
    ["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"];

/// A processor architecture: one of [`ARCHITECTURES`].
pub fn check_architecture(name: &str) -> Check {
    match ARCHITECTURES.contains(&name) {
        true => Ok(()),
        false => Err(Problem::new(format!("must be one of {}, got {}", ARCHITECTURES.join(", "), quoted(name)))),
    }
}

/// Key of a node's label: 1 to 63 letters, digits, '.', '_', '/' and '-', the first and last a letter or digit.
pub fn check_label_key(key: &str) -> Check {
    let charset_ok = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-'));
    let ends_ok =
        [key.chars().next(), key.chars().next_back()].map(|end| end.is_some_and(|c| c.is_ascii_alphanumeric()));
    if key.len() > LABEL_BYTES_MAX || !charset_ok || ends_ok != [true, true] {
        return Err(Problem::new(format!(
            "a label is named with 1 to {LABEL_BYTES_MAX} letters, digits, '.', '_', '/' and '-', the first and last a \
             letter or digit, got {}",
            quoted(key)
        )));
    }
    Ok(())
}

/// Value of a node's label: 1 to 63 letters, digits, '.', '_', '/', ':', '@', '+' and '-'.
pub fn check_label_value(value: &str) -> Check {
    let charset_ok =
        value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b':' | b'@' | b'+' | b'-'));
    if !(1..=LABEL_BYTES_MAX).contains(&value.len()) || !charset_ok {
        return Err(Problem::new(format!(
            "the value of a label has 1 to {LABEL_BYTES_MAX} letters, digits, '.', '_', '/', ':', '@', '+' and '-', got {}",
            quoted(value)
        )));
    }
    Ok(())
}

/// Where a node is reached: a host name or an address, and a port; an IPv6 address in brackets.
pub fn check_node_address(address: &str) -> Check {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let port_ok = port.parse::<u16>().is_ok_and(|port| port > 0);
    let numbered = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let host_ok = match numbered {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => {
            let charset_ok = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            (1..=DOMAIN_NAME_BYTES_MAX).contains(&host.len()) && charset_ok && !host.starts_with('-')
        }
    };
    if !(port_ok && host_ok) {
        return Err(Problem::new(format!(
            "must be a host or address and a port (10.0.0.2:9090), got {}",
            quoted(address)
        )));
    }
    Ok(())
}

fn check_text(what: &str, text: &str, min: usize, max: usize) -> Check {
    let length = text.chars().count();
    if length < min || length > max {
        return Err(Problem::new(format!("{what} must have {min} to {max} characters, has {length}")));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::new(format!("{what} must not hold control characters")));
    }
    Ok(())
}

/// An organisation's name for URLs: 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'.
pub fn check_org_slug(slug: &str) -> Check {
    let inner_ok = slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if slug.is_empty() || slug.len() > LABEL_BYTES_MAX || !inner_ok || slug.starts_with('-') || slug.ends_with('-') {
        return Err(Problem::new(format!(
            "must be 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-', got {}",
            quoted(slug)
        )));
    }
    Ok(())
}

/// A slug made from a name: lower case, blanks to hyphens, everything else dropped, hyphens collapsed, cut at 63.
pub fn slug_from_name(name: &str) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            ' ' | '_' | '-' if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.truncate(LABEL_BYTES_MAX);
    slug.trim_end_matches('-').to_owned()
}

/// An environment variable name: `[A-Za-z_][A-Za-z0-9_]*`, at most 256 bytes.
pub fn check_env_key(key: &str) -> Check {
    let first_ok = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !first_ok || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(Problem::new(format!(
            "must start with a letter or '_' and hold only letters, digits and '_', got {}",
            quoted(key)
        )));
    }
    if key.len() > ENV_KEY_BYTES_MAX {
        return Err(Problem::new(format!("must have at most {ENV_KEY_BYTES_MAX} bytes, has {}", key.len())));
    }
    Ok(())
}

/// An environment variable value: at most 32 768 bytes, no NUL byte; may be empty.
pub fn check_env_value(value: &str) -> Check {
    if value.len() > ENV_VALUE_BYTES_MAX {
        return Err(Problem::new(format!("must have at most {ENV_VALUE_BYTES_MAX} bytes, has {}", value.len())));
    }
    if value.contains('\0') {
        return Err(Problem::new("must not hold a NUL byte"));
    }
    Ok(())
}

/// Both halves of an environment variable.
pub fn check_env(key: &str, value: &str) -> Check {
    check_env_key(key).and_then(|()| check_env_value(value))
}

/// A secret's name: `[A-Za-z0-9_]+`, at most 255 bytes; stored upper-case.
pub fn check_secret_key(key: &str) -> Check {
    if key.is_empty() || key.len() > 255 || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(Problem::new(format!("must be 1 to 255 of letters, digits and '_', got {}", quoted(key))));
    }
    Ok(())
}

/// A domain name, optionally with a leading `*.`; lower-cased by the caller.
pub fn check_domain(domain: &str) -> Check {
    let bad = |why: &str| Err(Problem::new(format!("{why}, got {}", quoted(domain))));
    if domain.len() > DOMAIN_NAME_BYTES_MAX {
        return Err(Problem::new(format!("must have at most {DOMAIN_NAME_BYTES_MAX} bytes, has {}", domain.len())));
    }
    let labels: Vec<&str> = domain.strip_prefix("*.").unwrap_or(domain).split('.').collect();
    if labels.len() < 2 {
        return bad("must have at least two labels, such as app.example.org");
    }
    for label in &labels {
        let charset_ok = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || !charset_ok {
            return bad("each label must be 1 to 63 of a-z, 0-9 and '-'");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return bad("a label must not start or end with '-'");
        }
    }
    let tld = labels.last().copied().unwrap_or_default();
    if tld.len() < 2 || !(tld.starts_with("xn--") || tld.bytes().all(|b| b.is_ascii_lowercase())) {
        return bad("must end in a top-level domain of at least two letters");
    }
    Ok(())
}

/// An e-mail address, loosely: one '@' with something on both sides, at most 254 bytes, printable ASCII.
pub fn check_email(email: &str) -> Check {
    let parts_ok = email.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty() && !host.is_empty() && !host.contains('@') && !host.starts_with('.') && !host.ends_with('.')
    });
    if !parts_ok || email.len() > 254 || !email.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Problem::new("must be an e-mail address such as ada@example.org"));
    }
    Ok(())
}

/// A password: 8 to 1 024 bytes.
pub fn check_password(password: &str) -> Check {
    if password.len() < 8 {
        return Err(Problem::new("must have at least 8 characters"));
    }
    if password.len() > 1_024 {
        return Err(Problem::new("must have at most 1024 bytes"));
    }
    Ok(())
}

/// Whether `%0a` or the like is in it: whoever decodes it gets a line end.
fn holds_escaped_control(text: &str) -> bool {
    text.split('%').skip(1).any(|rest| {
        let byte = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_none_or(|byte| byte.is_ascii_control())
    })
}

/// A git repository: `github.com/o/r`, `gitlab.com/o/r`, `http(s)://host/path`, `ssh://…` or `git@host:path`.
pub fn check_git_repo(repo: &str) -> Check {
    let bad = |why: &str| {
        // A message is logged and shown; an address with a user may hold a password.
        let got = if repo.contains('@') { String::new() } else { format!(", got {}", quoted(repo)) };
        Err(Problem::new(format!("{why}; use github.com/owner/repo, https://host/path or git@host:path{got}")))
    };
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:@+%[]".contains(&b);
    if repo.is_empty() || repo.len() > 2_048 || !repo.bytes().all(safe) {
        return bad("is empty, too long or holds characters that a repository address does not need");
    }
    if holds_escaped_control(repo) {
        return bad("holds a control character, written with %");
    }
    let (host, path) = match repo.split_once("://") {
        Some(("http" | "https" | "ssh", rest)) => rest.split_once('/').unwrap_or((rest, "")),
        Some(_) => return bad("uses a scheme other than http, https and ssh"),
        None => match repo.strip_prefix("git@") {
            Some(rest) => rest.split_once(':').unwrap_or((rest, "")),
            None => match repo.split_once('/') {
                Some((host @ ("github.com" | "gitlab.com"), path)) => (host, path),
                _ => return bad("is not an address of a repository"),
            },
        },
    };
    let user = host.split_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| repo.starts_with("http") || user.contains(':') || user.starts_with('-')) {
        return bad("must not hold credentials");
    }
    let path = path.trim_matches('/');
    if host.is_empty() || host.starts_with('-') || path.is_empty() || path.split('/').any(|part| part == "..") {
        return bad("needs a host and a path");
    }
    Ok(())
}

/// The address that git is given: short forms become https, everything else stays.
pub fn git_clone_url(repo: &str) -> String {
    if repo.contains("://") || repo.starts_with("git@") { repo.to_owned() } else { format!("https://{repo}") }
}

/// A branch, tag or commit. Stricter than git's own rule, which accepts `main;id`.
pub fn check_git_ref(name: &str) -> Check {
    let charset_ok = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/+".contains(&b));
    let first_ok = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let shape_ok =
        !name.contains("..") && !name.contains("//") && !name.ends_with(['/', '.']) && !name.ends_with(".lock");
    if name.len() > 255 || !charset_ok || !first_ok || !shape_ok {
        return Err(Problem::new(format!(
            "must be a branch, tag or commit of letters, digits and -._/+, got {}",
            quoted(name)
        )));
    }
    Ok(())
}

/// A flake reference: `github:`, `gitlab:`, `nixpkgs#`, `path:/`, `git+http(s)://`.
pub fn check_flake_uri(uri: &str) -> Check {
    let prefixes = ["github:", "gitlab:", "nixpkgs#", "path:/", "git+https://", "git+http://"];
    let rest = prefixes.into_iter().find_map(|prefix| uri.strip_prefix(prefix));
    if rest.is_none_or(str::is_empty) || uri.len() > 2_048 || !uri.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Problem::new(format!(
            "must start with github:, gitlab:, nixpkgs#, path:/ or git+https://, got {}",
            quoted(uri)
        )));
    }
    Ok(())
}

/// A reference to a nixpkgs, which build logs show.
pub fn check_nixpkgs(reference: &str) -> Check {
    check_flake_uri(reference)?;
    if reference.contains('#') {
        return Err(Problem::new("must name a flake, without a package of it"));
    }
    if reference.contains('@') || reference.contains("token=") {
        return Err(Problem::new("must hold no name or token, since build logs show it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn table(check: fn(&str) -> Check, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(check(text), Ok(()), "{text:?} must be accepted");
        }
        for text in bad {
            assert!(check(text).is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn service_and_app_names() {
        let max = "a".repeat(63);
        let over = "a".repeat(64);
        let good = ["a", "web", "web-1", "a-b-c", &max];
        let bad =
            ["", "-a", "a-", "1a", "Web", "a_b", "a.b", "a b", "a;id", "-rf", "é", "xn--a", "narvana", "a.", &over];
        table(check_service_name, &good, &bad);
        table(check_app_name, &good, &bad);
    }

    #[test]
    fn orgs() {
        table(check_org_name, &["A", "My Organisation"], &["", &"x".repeat(64), "a\nb"]);
        table(check_org_slug, &["a", "1", "a-b"], &["", "-a", "a-", "A", "a_b", &"x".repeat(64)]);
        assert_eq!(slug_from_name("My  Great_Org!"), "my-great-org");
        assert_eq!(slug_from_name("--Ünïcode--"), "ncode");
        assert_eq!(slug_from_name(&"ab ".repeat(40)).len(), 62);
    }

    #[test]
    fn environment() {
        table(
            check_env_key,
            &["A", "_a1", &"A".repeat(256)],
            &["", "1A", "A=B", "A-B", "A\0", "A\n", &"A".repeat(257)],
        );
        table(check_env_value, &["", "a\nb", &"x".repeat(32_768)], &[&"x".repeat(32_769), "a\0b"]);
        table(check_secret_key, &["A", "1", "a_B"], &["", "../x", "a-b", &"A".repeat(256)]);
    }

    #[test]
    fn domains() {
        table(
            check_domain,
            &["example.org", "*.example.org", "a.b.c.de", "xn--bcher-kva.example"],
            &["", "localhost", "10.0.0.1", "a_b.org", "*.com.", "-a.org", "a-.org", "a..org", "EXAMPLE.org", "*.com"],
        );
        assert!(check_domain(&format!("{}.org", "a.".repeat(130))).is_err());
    }

    #[test]
    fn emails_and_passwords() {
        table(check_email, &["a@b", "ada@example.org"], &["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b.", "é@b"]);
        table(check_password, &["12345678"], &["", "1234567", &"x".repeat(1_025)]);
    }

    #[test]
    fn repositories() {
        table(
            check_git_repo,
            &[
                "github.com/o/r",
                "gitlab.com/g/sub/r",
                "https://git.example.org/o/r.git",
                "http://127.0.0.1:3000/o/r",
                "http://[::1]:3000/o/r",
                "git@github.com:o/r.git",
                "ssh://git@host:22/o/r",
            ],
            &[
                "",
                "o/r",
                "example.org/o/r",
                "file:///etc/passwd",
                "ext::sh -c id",
                "git://host/r",
                "https://",
                "https://host",
                "https://host/",
                "https://user:pw@host/r",
                "https://host/../r",
                "git@-oProxyCommand=id:x",
                "https://host/r;id",
                "--upload-pack=id",
            ],
        );
        assert_eq!(git_clone_url("github.com/o/r"), "https://github.com/o/r");
        assert_eq!(git_clone_url("http://h/r"), "http://h/r");
        table(
            check_git_ref,
            &["main", "feature/x", "v1.2.3", "0123456789abcdef0123456789abcdef01234567", "a+b"],
            &["", "-x", "main;id", "a..b", "a b", "a/", "a.lock", "a@{1}", "a//b", "$(id)", &"a".repeat(256)],
        );
    }

    #[test]
    fn flakes() {
        table(
            check_flake_uri,
            &["github:o/r", "nixpkgs#hello", "git+https://h/r", "path:/srv/x"],
            &["", "github:", "path:x", "git+file:///x", "http://x", "github:o r"],
        );
    }
}
