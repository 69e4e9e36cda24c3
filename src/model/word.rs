//! Enumerations whose values are words of the API.

use super::{Problem, quoted};

/// Declares an enumeration with the word for each value, both ways.
macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word used in the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::Problem;
            fn from_str(text: &str) -> Result<Self, $crate::model::Problem> {
                let found = Self::ALL.iter().copied().find(|value| value.as_str() == text);
                found.ok_or_else(|| $crate::model::word::none_of(&[$($word,)*], text))
            }
        }
    };
}

pub(super) use word_enum;

/// Why a text is none of the words.
pub(super) fn none_of(words: &[&str], text: &str) -> Problem {
    Problem::new(format!("must be one of {}, got {}", words.join(", "), quoted(text)))
}
