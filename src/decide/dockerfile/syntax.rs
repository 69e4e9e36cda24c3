//! From text to instructions: directives, comments, continuation lines and here-documents.

use super::Problem;

/// A Dockerfile taken apart. Nothing is judged here beyond what cannot be read.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// `# key=value` lines at the top: line, lower-case key, value.
    pub(super) directives: Vec<(usize, String, String)>,
    pub(super) instructions: Vec<Instruction>,
    pub(super) problems: Vec<Problem>,
}

#[derive(Clone, Debug)]
pub(super) struct Instruction {
    /// The line it starts on, from 1.
    pub(super) line: usize,
    /// Upper-case.
    pub(super) keyword: String,
    /// `--name=value` words before the rest, name lower-case.
    pub(super) flags: Vec<(String, String)>,
    /// All after the flags, continuation lines joined.
    pub(super) rest: String,
    /// It stands inside a here-document: an instruction only for engines that do not know those.
    pub(super) in_heredoc: bool,
    /// `\` unless the escape directive says otherwise.
    pub(super) escape: char,
}

pub(super) fn parse(text: &str) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut parsed = Parsed::default();
    let mut next = directives(&lines, &mut parsed);
    let escape = escape_character(&mut parsed);
    while next < lines.len() {
        let start = next;
        let joined = logical_line(&lines, &mut next, escape);
        let Some(joined) = joined else { continue };
        let instruction = Instruction::read(start_of(&lines, start), &joined, escape);
        let heredocs = match instruction.keyword.as_str() {
            "RUN" | "COPY" | "ADD" | "ONBUILD" => heredocs(&joined),
            _ => Vec::new(),
        };
        let line = instruction.line;
        parsed.instructions.push(instruction);
        for word in heredocs {
            if !heredoc_body(&lines, &mut next, &word, escape, &mut parsed.instructions) {
                let message = format!("the here-document <<{} is never closed", super::values::shown(&word.word));
                parsed.problems.push(Problem { line, message });
            }
        }
    }
    parsed
}

/// Reads the directives at the top and returns the index of the first line after them.
fn directives(lines: &[&str], parsed: &mut Parsed) -> usize {
    // A "#!" line may come first; BuildKit steps over it when it looks for the syntax.
    let first = usize::from(lines.first().is_some_and(|line| line.starts_with("#!")));
    let mut index = first;
    while let Some(line) = lines.get(index) {
        let Some(comment) = line.trim().strip_prefix('#') else { break };
        let Some((key, value)) = comment.split_once('=') else { break };
        let key = key.trim().to_ascii_lowercase();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            break;
        }
        parsed.directives.push((index + 1, key, value.trim().to_owned()));
        index += 1;
    }
    index
}

fn escape_character(parsed: &mut Parsed) -> char {
    let mut escape = '\\';
    for (line, _, value) in parsed.directives.iter().filter(|(_, key, _)| key == "escape") {
        match value.as_str() {
            "\\" => escape = '\\',
            "`" => escape = '`',
            _ => {
                parsed.problems.push(Problem { line: *line, message: "the escape directive takes \\ or `".to_owned() })
            }
        }
    }
    escape
}

/// Joins continuation lines; `None` for blank lines and comments. `next` moves behind what was read.
fn logical_line(lines: &[&str], next: &mut usize, escape: char) -> Option<String> {
    let mut joined = String::new();
    let mut continued = false;
    while let Some(line) = lines.get(*next) {
        *next += 1;
        let trimmed = line.trim();
        if trimmed.starts_with('#') || trimmed.is_empty() {
            if continued {
                continue;
            }
            return None;
        }
        let line = if continued { line } else { line.trim_start() };
        match continuation(line, escape) {
            Some(before) => {
                joined.push_str(before);
                continued = true;
            }
            None => {
                joined.push_str(line);
                return Some(joined);
            }
        }
    }
    continued.then_some(joined)
}

/// The line before a trailing, not itself escaped, escape character.
fn continuation(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t', '\r']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

/// The number of the first line at or after `index` that is neither blank nor a comment.
fn start_of(lines: &[&str], index: usize) -> usize {
    let skipped = lines[index..].iter().take_while(|line| line.trim().is_empty()).count();
    index + skipped + 1
}

struct Heredoc {
    word: String,
    strip_tabs: bool,
}

/// The here-documents that a line opens: `<<WORD`, `<<-WORD`, `<<"WORD"`, also `3<<WORD`; not `<<<`, not `<< WORD`.
fn heredocs(line: &str) -> Vec<Heredoc> {
    let mut found = Vec::new();
    for token in line.split_whitespace().skip(1) {
        let Some((descriptor, word)) = token.split_once("<<") else { continue };
        if !descriptor.bytes().all(|byte| byte.is_ascii_digit()) || word.contains('<') {
            continue;
        }
        let (word, strip_tabs) = word.strip_prefix('-').map_or((word, false), |word| (word, true));
        let word: String = word.chars().filter(|c| !matches!(c, '"' | '\'')).collect();
        if !word.is_empty() {
            found.push(Heredoc { word, strip_tabs });
        }
    }
    found
}

/// Steps over a body; what looks like an instruction in it is kept and marked. False when the end is missing.
fn heredoc_body(
    lines: &[&str],
    next: &mut usize,
    heredoc: &Heredoc,
    escape: char,
    found: &mut Vec<Instruction>,
) -> bool {
    let start = *next;
    let end = lines[start..].iter().position(|line| {
        let line = if heredoc.strip_tabs { line.trim_start_matches('\t') } else { line };
        line == heredoc.word
    });
    let stop = end.map_or(lines.len(), |end| start + end);
    let mut inside = start;
    while inside < stop {
        let first = inside;
        if let Some(joined) = logical_line(&lines[..stop], &mut inside, escape) {
            let mut instruction = Instruction::read(start_of(lines, first), &joined, escape);
            instruction.in_heredoc = true;
            found.push(instruction);
        }
    }
    *next = (stop + 1).min(lines.len());
    end.is_some()
}

impl Instruction {
    /// Reads one logical line.
    pub(super) fn read(line: usize, joined: &str, escape: char) -> Self {
        let joined = joined.trim();
        let (keyword, rest) = joined.split_once(char::is_whitespace).unwrap_or((joined, ""));
        let (flags, rest) = flags(rest.trim_start(), escape);
        Self {
            line,
            keyword: keyword.to_ascii_uppercase(),
            flags,
            rest: rest.trim().to_owned(),
            in_heredoc: false,
            escape,
        }
    }

    /// The arguments as words: a JSON list when it is one, else shell-like words.
    pub(super) fn words(&self) -> Vec<String> {
        if self.rest.starts_with('[')
            && let Ok(list) = serde_json::from_str::<Vec<String>>(&self.rest)
        {
            return list;
        }
        words(&self.rest, self.escape)
    }
}

/// Splits leading `--name[=value]` words off.
fn flags(mut rest: &str, escape: char) -> (Vec<(String, String)>, &str) {
    let mut flags = Vec::new();
    while rest.starts_with("--") {
        let (word, after) = word(rest, escape);
        if word == "--" {
            return (flags, after.trim_start());
        }
        let body = word.trim_start_matches('-');
        let (name, value) = body.split_once('=').unwrap_or((body, ""));
        flags.push((name.to_ascii_lowercase(), value.to_owned()));
        rest = after.trim_start();
    }
    (flags, rest)
}

/// Splits at white space, quotes and escapes taken away.
pub(super) fn words(mut rest: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return words;
        }
        let (word, after) = word(rest, escape);
        words.push(word);
        rest = after;
    }
}

fn word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, &text[at..]),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape && quote != Some('\'') => match chars.next() {
                // Kept, so that it is not taken for a variable later.
                Some((_, '$')) => word.push_str("\\$"),
                Some((_, escaped)) => word.push(escaped),
                None => word.push(c),
            },
            _ => word.push(c),
        }
    }
    (word, "")
}
