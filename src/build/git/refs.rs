//! Which reference is wanted, and which ones there are.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use super::error::shown;
use crate::model::check_git_ref;

/// What is fetched when nothing is asked for and it exists.
const DEFAULT_BRANCH: &str = "main";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// `main`, else whatever the repository takes for its default.
    Default,
    /// A branch, a tag, or a full name (`refs/…`).
    Name(String),
    Commit(String),
}

impl Wanted {
    pub(super) fn parse(reference: Option<&str>) -> Result<Self, Error> {
        let Some(name) = reference.filter(|name| !name.is_empty()) else { return Ok(Self::Default) };
        check_git_ref(name).map_err(|problem| Error::InvalidRef(shown(&problem.0, 300)))?;
        if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self::Commit(name.to_ascii_lowercase()));
        }
        Ok(Self::Name(name.to_owned()))
    }

    /// What to ask the server for; large repositories have very many references.
    pub(super) fn patterns(&self) -> Vec<String> {
        let mut patterns = vec!["HEAD".to_owned()];
        patterns.extend(self.candidates());
        patterns
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Default => DEFAULT_BRANCH.to_owned(),
            Self::Name(name) | Self::Commit(name) => name.clone(),
        }
    }

    /// Full names in the order of preference.
    fn candidates(&self) -> Vec<String> {
        match self {
            Self::Default => vec![format!("refs/heads/{DEFAULT_BRANCH}")],
            Self::Name(name) if name.starts_with("refs/") => vec![name.clone()],
            Self::Name(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
            Self::Commit(_) => Vec::new(),
        }
    }
}

/// What a repository says it has.
#[derive(Debug, Default)]
pub(super) struct Advertised {
    /// Full name to commit or tag object.
    refs: BTreeMap<String, String>,
    default: Option<String>,
}

impl Advertised {
    /// Reads the output of `ls-remote --symref`.
    pub(super) fn parse(stdout: &[u8]) -> Self {
        let mut advertised = Self::default();
        for line in String::from_utf8_lossy(stdout).lines() {
            let Some((left, name)) = line.split_once('\t') else { continue };
            match left.strip_prefix("ref: ") {
                Some(target) if name == "HEAD" => advertised.default = Some(target.to_owned()),
                Some(_) => {}
                None => {
                    advertised.refs.insert(name.to_owned(), left.to_owned());
                }
            }
        }
        advertised
    }

    /// What to ask for in a fetch, or nothing when it is not there. Names of the server that are not plain are not used.
    pub(super) fn choose(&self, wanted: &Wanted) -> Option<String> {
        if let Wanted::Commit(commit) = wanted {
            return Some(commit.clone());
        }
        if let Some(found) = wanted.candidates().into_iter().find(|name| self.refs.contains_key(name)) {
            return Some(found);
        }
        if *wanted != Wanted::Default || !self.refs.contains_key("HEAD") {
            return None;
        }
        let default = self.default.as_ref().filter(|name| name.starts_with("refs/") && check_git_ref(name).is_ok());
        // A detached HEAD has no name.
        Some(default.cloned().unwrap_or_else(|| "HEAD".to_owned()))
    }

    /// Short names of branches and tags, for a message.
    pub(super) fn names(&self) -> Vec<String> {
        let short = |name: &String| {
            let short = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"))?;
            (!short.ends_with("^{}")).then(|| shown(short, 100))
        };
        let names: BTreeSet<String> = self.refs.keys().filter_map(short).collect();
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] =
        b"ref: refs/heads/trunk\tHEAD\naa\tHEAD\naa\trefs/heads/trunk\nbb\trefs/heads/v1\ncc\trefs/tags/v1\n\
        cc\trefs/tags/v2\ndd\trefs/tags/v2^{}\nee\tother/refs/heads/x\n";

    fn choose(list: &[u8], wanted: Option<&str>) -> Option<String> {
        Advertised::parse(list).choose(&Wanted::parse(wanted).expect("a reference"))
    }

    #[test]
    fn what_is_asked_for_is_taken_and_nothing_else() {
        assert_eq!(choose(LIST, Some("v1")).as_deref(), Some("refs/heads/v1"));
        assert_eq!(choose(LIST, Some("v2")).as_deref(), Some("refs/tags/v2"));
        assert_eq!(choose(LIST, Some("refs/tags/v1")).as_deref(), Some("refs/tags/v1"));
        assert_eq!(choose(LIST, Some("main")), None);
        assert_eq!(choose(LIST, Some("x")), None);
        let commit = "ABCDEF0123456789abcdef0123456789abcdef01";
        assert_eq!(choose(LIST, Some(commit)).as_deref(), Some("abcdef0123456789abcdef0123456789abcdef01"));
    }

    #[test]
    fn the_default_is_main_or_what_the_repository_says() {
        assert_eq!(choose(LIST, None).as_deref(), Some("refs/heads/trunk"));
        assert_eq!(
            choose(b"ref: refs/heads/trunk\tHEAD\naa\tHEAD\nbb\trefs/heads/main\n", None).as_deref(),
            Some("refs/heads/main")
        );
        assert_eq!(choose(b"aa\tHEAD\n", None).as_deref(), Some("HEAD"));
        assert_eq!(choose(b"ref: --upload-pack=x\tHEAD\naa\tHEAD\n", None).as_deref(), Some("HEAD"));
        assert_eq!(choose(b"", None), None);
    }

    #[test]
    fn hostile_references_are_refused() {
        for bad in
            ["--foo", "main;id", "a..b", "@{-1}", "$(id)", "a b", "a\nb", "a:b", "^a", "a~1", "x.lock", "/a", "a/", "*"]
        {
            assert!(matches!(Wanted::parse(Some(bad)), Err(Error::InvalidRef(_))), "{bad:?}");
        }
        assert!(Wanted::parse(Some(&"a".repeat(256))).is_err());
    }

    #[test]
    fn names_for_a_message() {
        assert_eq!(Advertised::parse(LIST).names(), ["trunk", "v1", "v2"]);
    }
}
