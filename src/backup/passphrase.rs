//! What a backup is sealed with.

use zeroize::Zeroizing;

/// Shortest passphrase that is taken for a new backup, in characters. Whoever has the file can try as many as they like.
const CHARACTERS_MIN: usize = 12;
/// Longest.
const BYTES_MAX: usize = 1024;

/// A passphrase. It has no `Debug`, and is wiped when it goes.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// One that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// There is none.
    #[error("the passphrase is empty")]
    Empty,
    /// Too easy to guess.
    #[error(
        "the passphrase has fewer than {CHARACTERS_MIN} characters: whoever finds the backup can try them all; choose a longer one"
    )]
    Short,
    /// A mistake: a whole file was given.
    #[error("the passphrase is longer than {BYTES_MAX} bytes; is that the right file?")]
    Long,
}

impl Passphrase {
    /// For opening what somebody sealed.
    pub fn known(text: String) -> Result<Self, PassphraseError> {
        let text = Zeroizing::new(text);
        match text.len() {
            0 => Err(PassphraseError::Empty),
            BYTES_MAX.. => Err(PassphraseError::Long),
            _ => Ok(Self(text)),
        }
    }

    /// For sealing.
    pub fn chosen(text: String) -> Result<Self, PassphraseError> {
        let known = Self::known(text)?;
        if known.0.trim().is_empty() {
            return Err(PassphraseError::Empty);
        }
        if known.0.chars().count() < CHARACTERS_MIN {
            return Err(PassphraseError::Short);
        }
        Ok(known)
    }

    /// Whether two are the same.
    pub fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_guessed_is_not_taken() {
        let chosen = |text: &str| Passphrase::chosen(text.to_owned()).err();
        assert_eq!(chosen(""), Some(PassphraseError::Empty));
        assert_eq!(chosen("             "), Some(PassphraseError::Empty));
        assert_eq!(chosen("elf zeichen"), Some(PassphraseError::Short));
        assert_eq!(chosen("zwölf Zeichn"), None);
        assert_eq!(chosen(&"x".repeat(2_000)), Some(PassphraseError::Long));
        assert!(Passphrase::known("short".to_owned()).is_ok());
    }
}
