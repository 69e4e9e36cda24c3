//! The text of a join token: all that a new node has to be given.
//!
//! It names the members to ask, the cluster, the key of its authority, so that the secret is shown to nobody else, and the
//! token with its secret. A checksum tells a mistyped one from a wrong one without asking anybody.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::model::{ClusterId, JoinTokenId, check_node_address};
use crate::random;

/// What the text begins with: the kind and its version.
const PREFIX: &str = "nvj1.";
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// Members that a token names at most. One that answers is enough.
const ADDRESSES_MAX: usize = 5;
/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 4_096;

/// What lets a node in. Only its digest is kept.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct JoinSecret([u8; SECRET_BYTES]);

impl JoinSecret {
    /// A new one.
    pub fn new() -> Self {
        Self(random::bytes())
    }

    /// As it is sent to a member whose authority was checked.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// What the state keeps of it.
    pub fn digest(&self) -> [u8; 32] {
        Self::digest_of(&self.0)
    }

    /// The digest of a secret that somebody showed.
    pub fn digest_of(shown: &[u8]) -> [u8; 32] {
        Sha256::digest(shown).into()
    }
}

impl Default for JoinSecret {
    fn default() -> Self {
        Self::new()
    }
}

/// A join token as an operator hands it over. `Display` writes the whole text, secret included; it has no `Debug`.
pub struct TokenText {
    /// Which token.
    pub id: JoinTokenId,
    /// What proves that it was handed over.
    pub secret: JoinSecret,
    /// The cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the key of the cluster's authority.
    pub pin: [u8; 32],
    /// Members to ask: host and port between nodes.
    pub addresses: Vec<String>,
}

/// A text that is no join token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not look like one.
    #[error("this is no join token: one begins with {PREFIX} and is printed whole by `narvana token create`")]
    Format,
    /// It was cut, or a character of it is wrong.
    #[error("this join token is damaged (its checksum is wrong); copy it again, whole")]
    Checksum,
    /// It was made by another version of the program.
    #[error("this join token is of another version of narvana; use the version that the cluster runs")]
    Version,
}

impl fmt::Display for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(self.id.0.as_bytes());
        bytes.extend_from_slice(self.secret.expose());
        bytes.extend_from_slice(self.cluster.0.as_bytes());
        bytes.extend_from_slice(&self.pin);
        for address in self.addresses.iter().take(ADDRESSES_MAX) {
            // Addresses have some 270 bytes at most; longer ones were never taken.
            let Ok(length) = u16::try_from(address.len()) else { continue };
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(&checksum(&bytes));
        let text = URL_SAFE_NO_PAD.encode(&bytes);
        bytes.zeroize();
        write!(f, "{PREFIX}{text}")
    }
}

impl FromStr for TokenText {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            let other = text.strip_prefix("nvj").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if other { TokenError::Version } else { TokenError::Format });
        };
        if encoded.len() > TEXT_BYTES_MAX {
            return Err(TokenError::Format);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Checksum)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Checksum)?;
        if *sum != checksum(body) {
            return Err(TokenError::Checksum);
        }
        Self::from_body(body).ok_or(TokenError::Format)
    }
}

impl TokenText {
    fn from_body(body: &[u8]) -> Option<Self> {
        let (id, rest) = body.split_first_chunk::<16>()?;
        let (secret, rest) = rest.split_first_chunk::<SECRET_BYTES>()?;
        let (cluster, rest) = rest.split_first_chunk::<16>()?;
        let (pin, mut rest) = rest.split_first_chunk::<32>()?;
        let mut addresses = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (address, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            let address = std::str::from_utf8(address).ok()?;
            check_node_address(address).ok()?;
            addresses.push(address.to_owned());
            rest = after;
        }
        let whole = rest.is_empty() && (1..=ADDRESSES_MAX).contains(&addresses.len());
        whole.then(|| Self {
            id: JoinTokenId(Uuid::from_bytes(*id)),
            secret: JoinSecret(*secret),
            cluster: ClusterId(Uuid::from_bytes(*cluster)),
            pin: *pin,
            addresses,
        })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::digest(bytes);
    *digest.first_chunk().expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> TokenText {
        TokenText {
            id: JoinTokenId(Uuid::from_u128(7)),
            secret: JoinSecret::new(),
            cluster: ClusterId(Uuid::from_u128(1)),
            pin: [3; 32],
            addresses: vec!["10.0.0.1:9090".to_owned(), "[2001:db8::7]:9090".to_owned(), "n3.example.org:1".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = token();
        let text = format!("  {written}\n");
        let read: TokenText = text.parse().expect("a token");
        assert_eq!((read.id, read.cluster, read.pin), (written.id, written.cluster, written.pin));
        assert_eq!(read.addresses, written.addresses);
        assert_eq!(read.secret.digest(), written.secret.digest());
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = token().to_string();
        for position in PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(changed.parse::<TokenText>().is_err(), "{position}");
            assert!(text[..position].parse::<TokenText>().is_err(), "cut at {position}");
        }
    }

    #[test]
    fn other_texts_say_what_is_wrong() {
        for (text, error) in [
            ("", TokenError::Format),
            ("hello", TokenError::Format),
            ("nvj1", TokenError::Version),
            ("nvj2.AAAA", TokenError::Version),
            ("nvj1.", TokenError::Checksum),
            ("nvj1.!!!", TokenError::Checksum),
            ("nvj1.AAAA AAAA", TokenError::Checksum),
        ] {
            assert_eq!(text.parse::<TokenText>().err(), Some(error), "{text}");
        }
        let mut addresses = token();
        addresses.addresses = vec!["x;y:1".to_owned()];
        assert_eq!(addresses.to_string().parse::<TokenText>().err(), Some(TokenError::Format));
        addresses.addresses.clear();
        assert_eq!(addresses.to_string().parse::<TokenText>().err(), Some(TokenError::Format));
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in ".{0,300}", body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _refused = text.parse::<TokenText>();
            let sum = checksum(&body);
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&body[..], &sum].concat()));
            if let Ok(token) = text.parse::<TokenText>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
