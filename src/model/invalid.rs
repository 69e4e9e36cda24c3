//! What is wrong with a value, field by field.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Most characters of somebody's text that a message repeats.
const QUOTED_CHARS: usize = 128;

/// Somebody's text for a message: in quotes, escaped and cut, so that no message is long or steers a terminal.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Why one value is not acceptable, without the name of its field: the caller knows that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Problem(pub String);

impl Problem {
    /// A problem said in a full clause: "must be …, got …".
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Every field that is not acceptable, with its reason. Never empty when returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalid {
    /// Field path (`ports[0].container_port`) to reason.
    pub fields: BTreeMap<String, String>,
}

impl Invalid {
    /// One field and its reason.
    pub fn field(name: impl Into<String>, reason: impl Into<String>) -> Self {
        let mut invalid = Self::default();
        invalid.add(name, reason);
        invalid
    }

    /// Notes one more field; the first reason for a field wins. A name that holds a key of the user's is escaped and cut.
    pub fn add(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        let name: String = name.into();
        let mut shown: String = name.chars().take(QUOTED_CHARS).flat_map(char::escape_debug).collect();
        if name.chars().nth(QUOTED_CHARS).is_some() {
            shown.push('…');
        }
        self.fields.entry(shown).or_insert_with(|| reason.into());
    }

    /// Notes the field when the check failed.
    pub fn check(&mut self, name: impl Into<String>, result: Result<(), Problem>) {
        if let Err(problem) = result {
            self.add(name, problem.0);
        }
    }

    /// `Ok` when nothing was noted.
    pub fn into_result(self) -> Result<(), Self> {
        if self.fields.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (field, reason)) in self.fields.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_wrote_is_repeated_escaped_and_cut() {
        assert_eq!(quoted("a\u{1b}\u{202e}b"), r#""a\u{1b}\u{202e}b""#);
        assert_eq!(quoted(&"é".repeat(128)), format!("{:?}", "é".repeat(128)));
        assert_eq!(quoted(&"é".repeat(129)), format!("{:?}…", "é".repeat(128)));
        let invalid = Invalid::field(format!("env_vars.{}\u{7}", "x".repeat(1_000)), "no");
        let (field, _) = invalid.fields.first_key_value().expect("one");
        assert_eq!(*field, format!("env_vars.{}…", "x".repeat(119)));
        assert_eq!(Invalid::field("a\u{7}b", "no").to_string(), r"a\u{7}b: no");
    }
}
