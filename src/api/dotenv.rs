//! Reading `.env` text, by the rules of the original.

use std::collections::BTreeMap;

use crate::model::{Invalid, check_env};

/// Variables of a `.env` text; the last one of a name counts. Blank lines and lines that begin with `#` are skipped,
/// `export ` may stand in front, the first `=` divides, matching quotes around a value go, and inside double quotes
/// `\n`, `\t`, `\r`, `\"` and `\\` stand for what they do elsewhere.
///
/// # Errors
/// Every line that sets no variable or one that cannot be, as `dotenv line N`.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, Invalid> {
    let mut variables = BTreeMap::new();
    let mut invalid = Invalid::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let field = format!("dotenv line {}", number + 1);
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let Some((key, value)) = line.split_once('=') else {
            invalid.add(field, "must be NAME=value");
            continue;
        };
        let (key, value) = (key.trim().to_owned(), unquote(value.trim()));
        invalid.check(field, check_env(&key, &value));
        variables.insert(key, value);
    }
    invalid.into_result()?;
    Ok(variables)
}

fn unquote(value: &str) -> String {
    let inside = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(literal) = inside('\'') {
        return literal.to_owned();
    }
    inside('"').map_or_else(|| value.to_owned(), unescape)
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(same @ ('"' | '\\')) => out.push(same),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_rules() {
        let text =
            "# a comment\n\nA=1\nexport B = two \nC=\"x\\ny\\\"\\\\\"\nD='a\\nb'\nE=\nF=a=b # kept\nA=2\nG=\"\nH=\\n";
        let found = parse(text).expect("valid");
        let expected = [
            ("A", "2"),
            ("B", "two"),
            ("C", "x\ny\"\\"),
            ("D", "a\\nb"),
            ("E", ""),
            ("F", "a=b # kept"),
            ("G", "\""),
            ("H", "\\n"),
        ];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn bad_lines_are_numbered() {
        let invalid = parse("A=1\nnonsense\n1B=2").expect_err("invalid");
        assert_eq!(invalid.fields.keys().collect::<Vec<_>>(), ["dotenv line 2", "dotenv line 3"]);
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(value in "[^\u{0}]{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
            let escaped = escaped.replace('\t', "\\t");
            // Other line ends are data to `lines`, which knows \n and \r\n only.
            let found = parse(&format!("KEY=\"{escaped}\"")).expect("valid");
            prop_assert_eq!(&found["KEY"], &value);
        }
    }
}
