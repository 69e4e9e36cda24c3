//! Names, paths and versions of strangers, as Nix and shells take them.

/// Longest name of a path in Nix's store, without what comes before and after it.
pub(super) const NAME_BYTES_MAX: usize = 120;

/// What something is called in the store: a name of few letters, for any path.
pub(super) fn store_name(path: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "+-._?=".contains(letter);
    let name: String = path.chars().map(|letter| if plain(letter) { letter } else { '-' }).collect();
    let cut = name.len().saturating_sub(NAME_BYTES_MAX);
    let name = name[cut..].trim_start_matches(['.', '-']);
    if name.is_empty() { "file".to_owned() } else { name.to_owned() }
}

/// A string in the language of Nix.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\' | '$') {
            out.push('\\');
        }
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// A path whose letters mean nothing to a shell.
pub(super) fn is_plain_path(path: &str) -> bool {
    !path.starts_with('-') && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/@+-".contains(&byte))
}

/// The beginning of a version, such as `1.22` of `1.22.3`, when it is one.
pub(super) fn beginning(version: &str, numbers: usize) -> Option<Vec<&str>> {
    let parts: Vec<&str> = version.split('.').take(numbers).collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (parts.len() == numbers && parts.iter().all(is_number)).then_some(parts)
}
