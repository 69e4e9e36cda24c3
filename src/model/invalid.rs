//! What is wrong with a value, field by field.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

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

    /// Notes one more field; the first reason for a field wins.
    pub fn add(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        self.fields.entry(name.into()).or_insert_with(|| reason.into());
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
