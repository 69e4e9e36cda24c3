//! `.env` files, as `narvana env import` sends them and the API reads them.
//!
//! What is accepted holds only names and values that a container can have, comes back equal when it is written down with
//! quotes, and means the same with other line ends, comments, or as two files one after the other. What is refused is
//! refused by lines that are there.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use narvana::api::parse_dotenv;
use narvana::model::check_env;

fuzz_target!(|text: &str| {
    let lines = text.lines().count();
    let variables = match parse_dotenv(text) {
        Ok(variables) => variables,
        Err(invalid) => return refused(text, lines, &invalid.fields.into_iter().collect::<Vec<_>>()),
    };
    for (key, value) in &variables {
        check_env(key, value).expect("what is accepted is allowed");
    }
    assert_eq!(parse_dotenv(&written(&variables)).as_ref(), Ok(&variables), "it does not come back");
    assert_eq!(parse_dotenv(&format!("# first\n\n{text}\n#A=1\n")).as_ref(), Ok(&variables), "comments count");
    if !text.contains('\r') {
        assert_eq!(parse_dotenv(&text.replace('\n', "\r\n")).as_ref(), Ok(&variables), "line ends count");
    }
    // Lines are independent: of two files one after the other, the second one wins.
    let twice: String = text.lines().rev().flat_map(|line| [line, "\n"]).chain([text]).collect();
    assert_eq!(parse_dotenv(&twice).as_ref(), Ok(&variables), "order counts for more than the last value");
});

/// The file that sets these.
fn written(variables: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in variables {
        text.push_str(key);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '"' | '\\' => text.extend(['\\', c]),
                _ => text.push(c),
            }
        }
        text.push_str("\"\n");
    }
    text
}

fn refused(text: &str, lines: usize, fields: &[(String, String)]) {
    assert!(!fields.is_empty());
    for (field, message) in fields {
        let number: usize = field.strip_prefix("dotenv line ").and_then(|number| number.parse().ok()).expect("a line");
        assert!((1..=lines).contains(&number), "{field} of {lines}");
        assert!(!message.is_empty() && message.len() < 1_500, "{message:?}");
        // Alone it is refused as well.
        let line = text.lines().nth(number - 1).expect("it is there");
        assert!(parse_dotenv(line).is_err(), "{field} is accepted alone");
    }
}
