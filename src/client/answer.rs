//! An answer, in the two forms a program needs.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Error;

/// What the server answered: unchanged, and as the type that is shown to people.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// As it came.
    pub json: Value,
    /// The fields that are shown; those that are missing have their defaults.
    pub view: T,
}

impl<T: DeserializeOwned> Answer<T> {
    /// Reads the view out of an answer. `from` is the address, for the message.
    pub(super) fn read(json: Value, from: &str) -> Result<Self, Error> {
        match T::deserialize(&json) {
            Ok(view) => Ok(Self { json, view }),
            Err(error) => Err(Error::Answer { from: from.to_owned(), reason: error.to_string() }),
        }
    }
}
