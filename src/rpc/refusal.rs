//! Why a member does not hear this process, ever, and how a call is told so.

use tonic::Status;
use tonic::metadata::MetadataValue;

use super::peers::reason;

/// In the metadata of a failed call: it is a refusal for good. No other failure, whatever its code, ends the caller.
const REFUSED: &str = "narvana-refused";
/// The node is no member.
const ENDED: &str = "ended";
/// See [`Refusal::lives`].
const REPLACED: &str = "replaced";

/// Why a member does not hear this process, ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What happened and what to do.
    pub words: String,
    /// The node lives on as another process: what runs in its name is that one's.
    pub lives: bool,
}

impl Refusal {
    /// The node's end.
    pub fn end(words: impl Into<String>) -> Self {
        Self { words: words.into(), lives: false }
    }

    /// What a failed call says, if it says that.
    pub(super) fn of(status: &Status) -> Option<Self> {
        let lives = match status.metadata().get(REFUSED)?.to_str().ok()? {
            ENDED => false,
            REPLACED => true,
            _ => return None,
        };
        Some(Self { words: reason(status), lives })
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut status = Self::permission_denied(refusal.words);
        let kind = if refusal.lives { REPLACED } else { ENDED };
        status.metadata_mut().insert(REFUSED, MetadataValue::from_static(kind));
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_meant_as_a_refusal_is_one() {
        for lives in [false, true] {
            let refusal = Refusal { words: "the node was removed".to_owned(), lives };
            let status = Status::from(refusal.clone());
            assert_eq!(Refusal::of(&status), Some(refusal));
        }
        assert_eq!(Refusal::of(&Status::permission_denied("a program of another version says so")), None);
        let mut unknown = Status::permission_denied("a kind that a newer program knows");
        unknown.metadata_mut().insert(REFUSED, MetadataValue::from_static("paused"));
        assert_eq!(Refusal::of(&unknown), None);
    }
}
