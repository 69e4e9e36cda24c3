//! The rules of a `.dockerignore` file.
//!
//! Comes in: the text. Goes out: whether a path is left out. Patterns are anchored at the folder of the file, the last one
//! that matches wins, `!` takes a path back in, even out of a folder that is left out. Matching takes at most the product
//! of the lengths of pattern and path, whatever the pattern. Deliberately absent: the rules of `.gitignore`, which differ.

/// More patterns than this are cut off, as are longer lines: each one costs time for every file.
const MAX_PATTERNS: usize = 1_000;
const MAX_PATTERN: usize = 1_024;

/// Rules in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    takes_back: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// `**`
    AnyFolders,
    Name(Vec<Glob>),
}

#[derive(Clone, Debug, PartialEq)]
enum Glob {
    Char(char),
    AnyChar,
    AnyChars,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Ignore {
    /// Reads the text of a `.dockerignore`. Lines that are not patterns match nothing.
    pub fn parse(text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let patterns = text
            .lines()
            .filter(|line| !line.starts_with('#') && line.len() <= MAX_PATTERN)
            .filter_map(|line| Pattern::parse(line.trim()))
            .take(MAX_PATTERNS)
            .collect();
        Self { patterns }
    }

    /// Whether a path, relative with `/` between its parts, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let parts: Vec<Vec<char>> = path.split('/').map(|part| part.chars().collect()).collect();
        let mut excluded = false;
        for pattern in &self.patterns {
            // Only a change of mind is worth matching.
            if pattern.takes_back == excluded && pattern.matches_path_or_parent(&parts) {
                excluded = !excluded;
            }
        }
        excluded
    }

    /// Whether nothing inside an excluded folder can be taken back in, so that it need not be walked.
    pub fn prunes(&self) -> bool {
        !self.patterns.iter().any(|pattern| pattern.takes_back)
    }
}

impl Pattern {
    fn parse(line: &str) -> Option<Self> {
        let (takes_back, line) = line.strip_prefix('!').map_or((false, line), |line| (true, line.trim_start()));
        let mut parts = Vec::new();
        for part in line.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                "**" => {
                    if parts.last() != Some(&Part::AnyFolders) {
                        parts.push(Part::AnyFolders);
                    }
                }
                part => parts.push(Part::Name(glob(part)?)),
            }
        }
        (!parts.is_empty()).then_some(Self { takes_back, parts })
    }

    fn matches_path_or_parent(&self, path: &[Vec<char>]) -> bool {
        (1..=path.len()).any(|length| self.matches(&path[..length]))
    }

    /// Backtracks to the last `**` only, so it cannot explode.
    fn matches(&self, path: &[Vec<char>]) -> bool {
        let (mut pattern, mut at) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at < path.len() {
            match self.parts.get(pattern) {
                Some(Part::AnyFolders) => {
                    // "a/**" is what lies in a, not a itself.
                    retry = Some((pattern + 1, at));
                    pattern += 1;
                    if pattern == self.parts.len() {
                        return true;
                    }
                    continue;
                }
                Some(Part::Name(glob)) if name_matches(glob, &path[at]) => {
                    pattern += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            let Some((after, from)) = retry else { return false };
            retry = Some((after, from + 1));
            (pattern, at) = (after, from + 1);
        }
        pattern == self.parts.len()
    }
}

fn name_matches(glob: &[Glob], name: &[char]) -> bool {
    let (mut pattern, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while at < name.len() {
        match glob.get(pattern) {
            Some(Glob::AnyChars) => {
                retry = Some((pattern + 1, at));
                pattern += 1;
                continue;
            }
            Some(one) if one.matches(name[at]) => {
                pattern += 1;
                at += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = retry else { return false };
        retry = Some((after, from + 1));
        (pattern, at) = (after, from + 1);
    }
    glob[pattern..].iter().all(|rest| *rest == Glob::AnyChars)
}

impl Glob {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(wanted) => *wanted == c,
            Self::AnyChar => true,
            Self::AnyChars => false,
            Self::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

/// `None` for an unfinished class or escape.
fn glob(text: &str) -> Option<Vec<Glob>> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => {
                while chars.next_if_eq(&'*').is_some() {}
                Glob::AnyChars
            }
            '?' => Glob::AnyChar,
            '\\' => Glob::Char(chars.next()?),
            '[' => class(&mut chars)?,
            c => Glob::Char(c),
        });
    }
    Some(parts)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Glob> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let mut low = chars.next()?;
        if low == ']' && !ranges.is_empty() {
            return Some(Glob::Class { negated, ranges });
        }
        if low == '\\' {
            low = chars.next()?;
        }
        let mut high = low;
        if chars.next_if_eq(&'-').is_some() {
            high = chars.next()?;
            if high == '\\' {
                high = chars.next()?;
            }
        }
        ranges.push((low, high));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rules: &str, excluded: &[&str], kept: &[&str]) {
        let ignore = Ignore::parse(rules);
        for path in excluded {
            assert!(ignore.excludes(path), "{rules:?} keeps {path}");
        }
        for path in kept {
            assert!(!ignore.excludes(path), "{rules:?} excludes {path}");
        }
    }

    #[test]
    fn patterns_are_anchored_and_take_folders_with_them() {
        check("node_modules", &["node_modules", "node_modules/a/b"], &["sub/node_modules", "node_modules2"]);
        check("/a/./b/\n# c\n\n", &["a/b", "a/b/x"], &["a", "b", "c", "# c"]);
        check("*.md", &["README.md"], &["docs/README.md"]);
        check("*/temp*", &["a/temp", "a/temporary/x"], &["temp", "a/b/temp"]);
    }

    #[test]
    fn any_depth() {
        check("**/*.pyc", &["a.pyc", "a/b/c.pyc"], &["a.py"]);
        check("docs/**", &["docs/a", "docs/a/b"], &["docs"]);
        check("a/**/z", &["a/z", "a/b/z", "a/b/c/z/y"], &["z", "b/a/z"]);
        check("**", &["a", "a/b"], &[]);
    }

    #[test]
    fn the_last_match_wins() {
        check("*\n!keep\n!sub/keep.txt\n", &["a", "sub", "sub/other"], &["keep", "keep/inside", "sub/keep.txt"]);
        check("!a\na", &["a"], &[]);
    }

    #[test]
    fn classes_and_escapes() {
        check("file[0-9a]", &["file1", "filea"], &["fileb", "file"]);
        check("file[^0-9]", &["filex"], &["file1"]);
        check("a\\*b\nc?d", &["a*b", "cxd"], &["axb", "cd"]);
        check("unfinished[", &[], &["unfinished[", "unfinished"]);
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let rules = format!("{}b\n{}/x", "*a".repeat(300), "**/*a/".repeat(150));
        let path = format!("{}/{}", "a".repeat(250), "a/".repeat(60));
        assert!(!Ignore::parse(&rules).excludes(&path));
    }
}
