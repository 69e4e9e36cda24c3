//! Reading JSON so that whatever is wrong names its field.

use serde::de::DeserializeOwned;

use crate::model::Invalid;

use super::Error;

/// Reads a body. An empty one, and `null`, read as an empty object, so that requests without options need none.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let bytes = if matches!(bytes.trim_ascii(), b"" | b"null") { b"{}" } else { bytes };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let text = inner.to_string();
        if !inner.is_data() {
            return Error::Malformed(format!("the body is not valid JSON: {text}"));
        }
        // The position helps with broken JSON; for a wrong field it is noise.
        let reason = text.split(" at line ").next().unwrap_or(&text);
        refusal(reason, &path).unwrap_or_else(|| Error::Malformed(format!("the body is not valid: {reason}")))
    })?;
    reader.end().map_err(|error| Error::Malformed(format!("the body is not valid JSON: {error}")))?;
    Ok(value)
}

/// The field that serde's message blames, if it blames one. `path` leads to where it happened.
pub(super) fn refusal(reason: &str, path: &str) -> Option<Error> {
    let path = if path == "." { "" } else { path };
    let named = |prefix: &str| reason.strip_prefix(prefix)?.split('`').next();
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    };
    if let Some(name) = named("unknown field `") {
        let known = reason.split_once("expected ").map_or("none", |(_, known)| known).replace('`', "");
        let known = known.trim_start_matches("one of ");
        return Some(Error::Invalid(Invalid::field(below(name), format!("is not known here; known are: {known}"))));
    }
    if let Some(name) = named("missing field `") {
        return Some(Error::field(below(name), "is required"));
    }
    if let Some(name) = named("duplicate field `") {
        return Some(Error::field(below(name), "is given twice"));
    }
    (!path.is_empty()).then(|| Error::field(path, reason))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        name: String,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        count: u32,
    }

    #[test]
    fn the_field_is_named() {
        for (body, field) in [
            (r#"{"name":"a","nmae":"b"}"#, "nmae"),
            (r#"{}"#, "name"),
            ("", "name"),
            (r#"{"name":1}"#, "name"),
            (r#"{"name":"a","name":"b"}"#, "name"),
            (r#"{"name":"a","inner":{"count":-1}}"#, "inner.count"),
            (r#"{"name":"a","inner":{"count":1,"size":2}}"#, "inner.size"),
            (r#"{"name":"a","inner":{}}"#, "inner.count"),
        ] {
            match parse::<Outer>(body.as_bytes()) {
                Err(Error::Invalid(invalid)) => {
                    assert_eq!(invalid.fields.keys().collect::<Vec<_>>(), [field], "{body}: {invalid}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        for body in ["{", "[]]", r#"{"name":"a"} x"#, "\u{0}"] {
            assert!(matches!(parse::<Outer>(body.as_bytes()), Err(Error::Malformed(_))), "{body}");
        }
        assert!(parse::<Outer>(br#"{"name":"a","inner":{"count":1}}"#).is_ok());
    }
}
