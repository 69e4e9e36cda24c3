//! What a request asks for, from its method, path and query. What is not listed here does not exist.

use std::str::FromStr;

use http::Method;
use uuid::Uuid;

use crate::artifact::Digest;
use crate::model::Repository;

/// Longest path and query together.
const TARGET_BYTES_MAX: usize = 2_048;

/// One of the requests that push and pull are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Is this a registry?
    Ping,
    /// Begin an upload; be done at once with a blob that is here already, or with one whose bytes are the body.
    StartUpload { repository: Repository, mount: Option<Digest>, whole: Option<Digest> },
    /// How much of the upload is here?
    UploadStatus { repository: Repository, upload: Uuid },
    /// More bytes.
    AppendUpload { repository: Repository, upload: Uuid },
    /// The last bytes, if any, and the name.
    FinishUpload { repository: Repository, upload: Uuid, digest: Digest },
    /// Forget it.
    CancelUpload { upload: Uuid },
    /// A blob, or only whether it is here.
    ReadBlob { digest: Digest, head: bool },
    /// The manifest of an image.
    PutManifest { repository: Repository, reference: Reference },
    /// The same back, or only whether it is here.
    ReadManifest { repository: Repository, reference: Reference, head: bool },
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Digest(Digest),
    Tag(Tag),
}

/// A tag: letters, digits, `_`, `.` and `-`, not beginning with one of the last two, 128 at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag(String);

/// Why a request cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// No such path.
    Path,
    /// Not the name of a repository that can be here.
    Name,
    /// Not a digest.
    Digest,
    /// Not a tag.
    Tag,
    /// The path is one, the method is not one of its.
    Method,
}

impl Request {
    pub(super) fn read(method: &Method, path: &str, query: &str) -> Result<Self, Unreadable> {
        if path.len() + query.len() > TARGET_BYTES_MAX {
            return Err(Unreadable::Path);
        }
        let rest = path.strip_prefix("/v2/").ok_or(Unreadable::Path)?;
        if rest.is_empty() {
            return if matches!(*method, Method::GET | Method::HEAD) {
                Ok(Self::Ping)
            } else {
                Err(Unreadable::Method)
            };
        }
        let parts: Vec<&str> = rest.split('/').collect();
        // From the end, since names have slashes.
        match parts[..] {
            [ref name @ .., "blobs", "uploads", ""] => start(method, repository(name)?, query),
            [ref name @ .., "blobs", "uploads", upload] => {
                let upload = Uuid::from_str(upload).map_err(|_| Unreadable::Path)?;
                of_upload(method, repository(name)?, upload, query)
            }
            [ref name @ .., "blobs", digest] => {
                repository(name)?;
                let digest = decoded_digest(digest)?;
                head(method).map(|head| Self::ReadBlob { digest, head })
            }
            [ref name @ .., "manifests", reference] => {
                let (repository, reference) = (repository(name)?, Reference::read(reference)?);
                if *method == Method::PUT {
                    return Ok(Self::PutManifest { repository, reference });
                }
                head(method).map(|head| Self::ReadManifest { repository, reference, head })
            }
            _ => Err(Unreadable::Path),
        }
    }
}

fn start(method: &Method, repository: Repository, query: &str) -> Result<Request, Unreadable> {
    if *method != Method::POST {
        return Err(Unreadable::Method);
    }
    let (mount, whole) = (parameter(query, "mount")?, parameter(query, "digest")?);
    Ok(Request::StartUpload { repository, mount, whole })
}

fn of_upload(method: &Method, repository: Repository, upload: Uuid, query: &str) -> Result<Request, Unreadable> {
    match *method {
        Method::GET => Ok(Request::UploadStatus { repository, upload }),
        Method::PATCH => Ok(Request::AppendUpload { repository, upload }),
        Method::PUT => {
            let digest = parameter(query, "digest")?.ok_or(Unreadable::Digest)?;
            Ok(Request::FinishUpload { repository, upload, digest })
        }
        Method::DELETE => Ok(Request::CancelUpload { upload }),
        _ => Err(Unreadable::Method),
    }
}

impl Reference {
    fn read(text: &str) -> Result<Self, Unreadable> {
        if text.contains(':') || text.contains('%') {
            return decoded_digest(text).map(Self::Digest);
        }
        Tag::new(text).map(Self::Tag).ok_or(Unreadable::Tag)
    }
}

impl Tag {
    pub(super) fn new(text: &str) -> Option<Self> {
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let goes_on = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        (begins && goes_on && text.len() <= 128).then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn repository(parts: &[&str]) -> Result<Repository, Unreadable> {
    parts.join("/").parse().map_err(|_| Unreadable::Name)
}

fn head(method: &Method) -> Result<bool, Unreadable> {
    match *method {
        Method::HEAD => Ok(true),
        Method::GET => Ok(false),
        _ => Err(Unreadable::Method),
    }
}

/// The digest of that parameter, if it is there.
fn parameter(query: &str, name: &str) -> Result<Option<Digest>, Unreadable> {
    let mut parameters = query.split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, value)) = parameters.find(|(key, _)| *key == name) else { return Ok(None) };
    decoded_digest(value).map(Some)
}

/// Clients may escape the colon; nothing else in a digest can be.
fn decoded_digest(text: &str) -> Result<Digest, Unreadable> {
    let text = text.replace("%3A", ":").replace("%3a", ":");
    Digest::from_algorithm_and_hex(&text).map_err(|_| Unreadable::Digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "01234567-89ab-7def-8123-456789abcdef";

    fn get(path: &str) -> Result<Request, Unreadable> {
        Request::read(&Method::GET, path, "")
    }

    #[test]
    fn reads_the_requests_of_push_and_pull() {
        let repository: Repository = format!("narvana/{ID}").parse().expect("a repository");
        let base = format!("/v2/narvana/{ID}");
        let digest = Digest::new([7; 32]);
        let escaped = digest.with_algorithm().replace(':', "%3A");
        let upload = Uuid::from_u128(5);
        let started =
            Request::read(&Method::POST, &format!("{base}/blobs/uploads/"), &format!("from=x&mount={escaped}"));
        assert_eq!(started, Ok(Request::StartUpload { repository, mount: Some(digest), whole: None }));
        let finished =
            Request::read(&Method::PUT, &format!("{base}/blobs/uploads/{upload}"), &format!("a=b&digest={escaped}"));
        assert_eq!(finished, Ok(Request::FinishUpload { repository, upload, digest }));
        assert_eq!(
            Request::read(&Method::HEAD, &format!("{base}/blobs/{}", digest.with_algorithm()), ""),
            Ok(Request::ReadBlob { digest, head: true })
        );
        let tag = Reference::Tag(Tag::new("v1").expect("a tag"));
        assert_eq!(
            Request::read(&Method::PUT, &format!("{base}/manifests/v1"), ""),
            Ok(Request::PutManifest { repository, reference: tag })
        );
        assert_eq!(get("/v2/"), Ok(Request::Ping));
    }

    #[test]
    fn refuses_everything_else() {
        let digest = Digest::new([7; 32]).with_algorithm();
        for (path, why) in [
            ("/", Unreadable::Path),
            ("/v2", Unreadable::Path),
            ("/v1/", Unreadable::Path),
            ("/v2/_catalog", Unreadable::Path),
            (&format!("/v2/narvana/{ID}/tags/list"), Unreadable::Path),
            (&format!("/v2/library/redis/blobs/{digest}"), Unreadable::Name),
            (&format!("/v2/../{ID}/blobs/{digest}"), Unreadable::Name),
            (&format!("/v2/narvana/{ID}/../{ID}/blobs/{digest}"), Unreadable::Name),
            (&format!("/v2/narvana/%2e%2e/blobs/{digest}"), Unreadable::Name),
            (&format!("/v2//blobs/{digest}"), Unreadable::Name),
            (&format!("/v2/narvana/{ID}/blobs/sha256:../../../etc/passwd"), Unreadable::Path),
            (&format!("/v2/narvana/{ID}/blobs/sha256:..%2F..%2Fetc"), Unreadable::Digest),
            (&format!("/v2/narvana/{ID}/blobs/{}", digest.to_uppercase()), Unreadable::Digest),
            (&format!("/v2/narvana/{ID}/manifests/.hidden"), Unreadable::Tag),
            (&format!("/v2/narvana/{ID}/manifests/{}", "a".repeat(129)), Unreadable::Tag),
            (&format!("/v2/narvana/{ID}/manifests/a%00b"), Unreadable::Digest),
            (&format!("/v2/narvana/{ID}/blobs/uploads/"), Unreadable::Method),
            (&format!("/v2/narvana/{ID}/blobs/uploads/x"), Unreadable::Path),
            (&format!("/v2/{}", "a/".repeat(TARGET_BYTES_MAX)), Unreadable::Path),
        ] {
            assert_eq!(get(path), Err(why), "{path}");
        }
        let upload = format!("/v2/narvana/{ID}/blobs/uploads/{}", Uuid::nil());
        assert_eq!(Request::read(&Method::PUT, &upload, "digest=x"), Err(Unreadable::Digest));
        assert_eq!(Request::read(&Method::PUT, &upload, ""), Err(Unreadable::Digest));
        assert_eq!(
            Request::read(&Method::DELETE, &format!("/v2/narvana/{ID}/manifests/v1"), ""),
            Err(Unreadable::Method)
        );
    }

    proptest! {
        #[test]
        fn any_path_is_read_or_refused(path: String, query: String) {
            let _neither_panics = get(&format!("/v2/{path}"));
            let upload = format!("/v2/narvana/{ID}/blobs/uploads/");
            let _neither_panics = Request::read(&Method::POST, &upload, &query);
        }
    }
}
