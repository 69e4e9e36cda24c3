//! Replacing `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+alternative}`, as engines do.

use std::collections::BTreeMap;

/// Words nest at most this deep in `${A:-${B:-…}}`; deeper ones stay as they are.
const MAX_DEPTH: usize = 8;
/// Replaced text never grows beyond this many bytes.
const MAX_VALUE: usize = 4096;

/// Replaces what is known; unknown names become empty.
pub(super) fn replace(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut replaced = replace_nested(text, values, 0);
    if replaced.len() > MAX_VALUE {
        let cut = (0..=MAX_VALUE).rev().find(|at| replaced.is_char_boundary(*at)).unwrap_or(0);
        replaced.truncate(cut);
    }
    replaced
}

fn replace_nested(text: &str, values: &BTreeMap<String, String>, depth: usize) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        if out.len() > MAX_VALUE {
            return out;
        }
        if let Some(before) = rest[..at].strip_suffix('\\') {
            out.push_str(before);
            out.push('$');
            rest = &rest[at + 1..];
            continue;
        }
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(braced) = after.strip_prefix('{') {
            let Some(end) = closing_brace(braced) else {
                out.push_str(&rest[at..]);
                return out;
            };
            out.push_str(&braced_value(&braced[..end], values, depth));
            rest = &braced[end + 1..];
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
            if end == 0 {
                out.push('$');
            }
            out.push_str(values.get(&after[..end]).map_or("", String::as_str));
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    out
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn braced_value(inner: &str, values: &BTreeMap<String, String>, depth: usize) -> String {
    let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
    let (name, modifier) = inner.split_at(end);
    let value = values.get(name).map_or("", String::as_str);
    let word = |text: &str| if depth < MAX_DEPTH { replace_nested(text, values, depth + 1) } else { text.to_owned() };
    if let Some(default) = modifier.strip_prefix(":-").or_else(|| modifier.strip_prefix('-')) {
        if value.is_empty() { word(default) } else { value.to_owned() }
    } else if let Some(alternative) = modifier.strip_prefix(":+").or_else(|| modifier.strip_prefix('+')) {
        if value.is_empty() { String::new() } else { word(alternative) }
    } else {
        value.to_owned()
    }
}

/// Reads the arguments of `ENV` or `LABEL`: `a=b c=d`, or the old form `a b c`.
pub(super) fn assignments(words: &[String]) -> Vec<(String, String)> {
    match words {
        [] => Vec::new(),
        [first, rest @ ..] if !first.contains('=') => vec![(first.clone(), rest.join(" "))],
        all => all
            .iter()
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}
