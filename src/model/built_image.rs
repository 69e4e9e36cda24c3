//! Images that narvana built, by a name that holds on every node.

use std::fmt;
use std::str::FromStr;

use super::{Digest, ServiceId};

/// Begins every repository of built images.
const PREFIX: &str = "narvana/";

/// The repository that images of a service are kept in: `narvana/<service id>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository(pub ServiceId);

/// An image that was built for a service: `narvana/<service id>@sha256:<digest of its manifest>`.
///
/// That is what an [`Artifact`](super::Artifact) of a build has as its image. Which registry holds it is no part of the
/// name: each node serves its own copy at an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuiltImage {
    /// Where it is kept.
    pub repository: Repository,
    /// The SHA-256 of its manifest, which names all its parts by theirs.
    pub manifest: Digest,
}

/// Text that is not the name of a built image. Does not repeat the text, which may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a built image is named narvana/<service id>@sha256:<64 lower-case hex digits>")]
pub struct NotBuiltHere;

impl FromStr for Repository {
    type Err = NotBuiltHere;

    /// Only what [`Repository`] displays: one service has one repository.
    fn from_str(text: &str) -> Result<Self, NotBuiltHere> {
        let service = text.strip_prefix(PREFIX).ok_or(NotBuiltHere)?.parse().map_err(|_| NotBuiltHere)?;
        let repository = Self(service);
        // Ids are read in more than one spelling.
        if repository.to_string() == text { Ok(repository) } else { Err(NotBuiltHere) }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

impl FromStr for BuiltImage {
    type Err = NotBuiltHere;

    fn from_str(text: &str) -> Result<Self, NotBuiltHere> {
        let (repository, digest) = text.split_once('@').ok_or(NotBuiltHere)?;
        let manifest = Digest::from_algorithm_and_hex(digest).map_err(|_| NotBuiltHere)?;
        Ok(Self { repository: repository.parse()?, manifest })
    }
}

impl fmt::Display for BuiltImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.manifest.with_algorithm())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "01234567-89ab-7def-8123-456789abcdef";
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn refuses_what_is_not_the_name_of_a_built_image() {
        let good = format!("narvana/{ID}@sha256:{HEX}");
        assert_eq!(good.parse::<BuiltImage>().map(|image| image.to_string()), Ok(good.clone()));
        for bad in [
            "",
            "localhost/narvana/web:v1",
            "docker.io/library/redis@sha256:00",
            &format!("narvana/{ID}"),
            &format!("narvana/{ID}:v1"),
            &format!("narvana/{ID}@{HEX}"),
            &format!("narvana/{ID}@sha512:{HEX}"),
            &format!("narvana/{}@sha256:{HEX}", ID.replace('-', "")),
            &format!("narvana/{}@sha256:{HEX}", ID.to_uppercase()),
            &format!("narvana/{{{ID}}}@sha256:{HEX}"),
            &format!("narvana/../{ID}@sha256:{HEX}"),
            &format!("127.0.0.1:5000/{good}"),
            &format!("{good} "),
        ] {
            assert_eq!(bad.parse::<BuiltImage>(), Err(NotBuiltHere), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn displays_what_it_parses(service: u128, sha256: [u8; 32]) {
            let repository = Repository(ServiceId::from(uuid::Uuid::from_u128(service)));
            let image = BuiltImage { repository, manifest: Digest::new(sha256) };
            prop_assert_eq!(image.to_string().parse(), Ok(image));
        }

        #[test]
        fn any_text_is_refused_or_is_displayed_as_it_was(text in "(narvana/)?[0-9a-fA-F-]{0,40}@?(sha256:)?[0-9a-f]{0,70}") {
            if let Ok(image) = text.parse::<BuiltImage>() {
                prop_assert_eq!(image.to_string(), text);
            }
        }
    }
}
