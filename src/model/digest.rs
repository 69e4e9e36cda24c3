//! The name of bytes.

use std::fmt;
use std::str::FromStr;

/// Before the digits, where a digest could be of several kinds.
const ALGORITHM: &str = "sha256:";

/// A SHA-256. Being parsed, it can be part of a path: it is 64 lower-case hex digits whatever a user wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Text that is not a digest. Does not repeat the text, which may be anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest must be 64 lower-case hex digits")]
pub struct MalformedDigest;

impl Digest {
    /// From the hash itself.
    pub const fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// The hash itself.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The way registries and engines write it: `sha256:` and the digits.
    pub fn with_algorithm(&self) -> String {
        format!("{ALGORITHM}{self}")
    }

    /// Reads what [`Self::with_algorithm`] writes, and nothing else.
    pub fn from_algorithm_and_hex(text: &str) -> Result<Self, MalformedDigest> {
        text.strip_prefix(ALGORITHM).ok_or(MalformedDigest)?.parse()
    }
}

impl FromStr for Digest {
    type Err = MalformedDigest;

    /// Only what [`Digest`] displays: one blob has one name.
    fn from_str(text: &str) -> Result<Self, MalformedDigest> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(MalformedDigest);
        }
        let mut sha256 = [0; 32];
        hex::decode_to_slice(text, &mut sha256).map_err(|_| MalformedDigest)?;
        Ok(Self(sha256))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_not_a_digest() {
        let good = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(good.parse::<Digest>().map(|digest| digest.to_string()), Ok(good.to_owned()));
        for bad in ["", "e3b0", &good.to_uppercase(), &good[1..], &format!("{good}0"), &format!("sha256:{good}")] {
            assert_eq!(bad.parse::<Digest>(), Err(MalformedDigest), "{bad}");
        }
        let climbing = format!("../../{}", &good[6..]);
        assert_eq!(climbing.parse::<Digest>(), Err(MalformedDigest));
    }

    proptest! {
        #[test]
        fn displays_what_it_parses(sha256: [u8; 32]) {
            let digest = Digest::new(sha256);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            prop_assert_eq!(Digest::from_algorithm_and_hex(&digest.with_algorithm()), Ok(digest));
            prop_assert_eq!(Digest::from_algorithm_and_hex(&digest.to_string()), Err(MalformedDigest));
        }
    }
}
