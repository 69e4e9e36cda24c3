//! What goes to stdout: tables for people, the server's answers for programs.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Cell, Color, Table as Grid, presets};
use console::AnsiCodeIterator;
use serde::Serialize;
use serde_json::Value;

use super::environment;
use crate::client::Answer;
use crate::client::view::{Id, Moment};
use crate::clock;
use crate::model::Timestamp;

/// How data is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    Table,
    /// A table with every column
    Wide,
    /// The server's answer as JSON
    Json,
    /// The server's answer as YAML
    Yaml,
}

/// Writes what a command has to say.
#[derive(Clone, Debug)]
pub(super) struct Output {
    format: Format,
    quiet: bool,
    color: bool,
    live: bool,
}

impl Output {
    pub(super) fn new(format: Format, quiet: bool) -> Self {
        let plain = environment::no_color();
        let color = io::stdout().is_terminal() && !plain;
        let live = color && io::stderr().is_terminal() && !quiet;
        Self { format, quiet, color, live }
    }

    /// Whether programs read the output.
    pub(super) fn for_programs(&self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// Whether progress may be drawn on the terminal.
    pub(super) fn is_live(&self) -> bool {
        self.live && !self.for_programs()
    }

    /// Whether only data is wanted.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Writes an answer: unchanged for programs, as a table for people.
    pub(super) fn show<T>(&self, answer: &Answer<T>, table: impl FnOnce(&T) -> Table) -> anyhow::Result<()> {
        self.show_as(&answer.json, || table(&answer.view))
    }

    /// Like [`Output::show`] for a list whose table says so when it is empty.
    pub(super) fn show_list<T>(
        &self,
        answer: &Answer<Vec<T>>,
        none: &str,
        table: impl FnOnce(&[T]) -> Table,
    ) -> anyhow::Result<()> {
        if answer.view.is_empty() && !self.for_programs() {
            self.note(none);
            return Ok(());
        }
        self.show_as(&answer.json, || table(&answer.view))
    }

    /// Writes `data` for programs or `table` for people.
    pub(super) fn show_as(&self, data: &Value, table: impl FnOnce() -> Table) -> anyhow::Result<()> {
        match self.format {
            // Its cells are harmless already, and its colours are ours.
            Format::Table | Format::Wide => write_line(&table().render(self.format == Format::Wide, self.color)),
            Format::Json | Format::Yaml => self.data(data),
        }
    }

    /// Writes `data` for programs or one line for people.
    pub(super) fn done(&self, data: &Value, line: &str) -> anyhow::Result<()> {
        if self.for_programs() {
            return self.data(data);
        }
        self.note(line);
        Ok(())
    }

    /// Writes data in the format for programs.
    pub(super) fn data(&self, data: &impl Serialize) -> anyhow::Result<()> {
        match self.format {
            Format::Yaml => write_line(&in_data(serde_norway::to_string(data)?.trim_end())),
            _ => write_line(&in_data(&serde_json::to_string_pretty(data)?)),
        }
    }

    /// Writes one line of JSON, for streams.
    pub(super) fn data_line(&self, data: &Value) -> anyhow::Result<()> {
        match self.format {
            Format::Yaml => write_line(&format!("---\n{}", in_data(serde_norway::to_string(data)?.trim_end()))),
            _ => write_line(&in_data(&data.to_string())),
        }
    }

    /// Writes text and a line end to stdout.
    pub(super) fn text(&self, text: &str) -> anyhow::Result<()> {
        write_line(&harmless(text))
    }

    /// Writes a line of a log. Nodes clean lines when they come in, and leave colours, which are for terminals.
    pub(super) fn log_line(&self, text: &str) -> anyhow::Result<()> {
        write_line(&painted(text, self.color))
    }

    /// Tells people something on stderr, unless they want data only.
    pub(super) fn note(&self, text: &str) {
        if !self.quiet {
            warn(text);
        }
    }
}

/// Writes a line to stderr. Nobody can be told when that fails.
pub(super) fn warn(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
}

fn write_line(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Text from a server, fit for a terminal: what would steer the terminal is shown as an escape. Lines and tabs stay.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    escaped(text, |c| format!("\\u{{{:x}}}", u32::from(c)))
}

/// The same inside JSON and YAML, whose own escapes say it so that programs read the same as before. What is below
/// U+0020 both of them escape by themselves.
fn in_data(text: &str) -> Cow<'_, str> {
    escaped(text, |c| format!("\\u{:04x}", u32::from(c)))
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if steers(c) { escape(c) } else { c.to_string() }).collect()
}

/// Whether a character controls the terminal, or turns the direction of the text after it.
fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// A line of a log, whose colour sequences are kept or taken out; anything else that steers is shown as an escape.
pub(super) fn painted(text: &str, keep: bool) -> String {
    let colour = |piece: &str| {
        let inner = piece.strip_prefix("\u{1b}[").and_then(|rest| rest.strip_suffix('m'));
        inner.is_some_and(|inner| inner.bytes().all(|b| b.is_ascii_digit() || matches!(b, b';' | b':')))
    };
    let mut shown: String = AnsiCodeIterator::new(text)
        .map(|(piece, is_code)| match is_code && colour(piece) {
            true if keep => Cow::Borrowed(piece),
            true => Cow::Borrowed(""),
            false => harmless(piece),
        })
        .collect();
    if shown.contains('\u{1b}') {
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// Rows under headings. Headings that begin with `+` are shown in the wide form only.
pub(super) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// A table of names and values, for one thing. Values that are empty are left out.
    pub(super) fn of_fields<const N: usize>(fields: [(&'static str, String); N]) -> Self {
        let mut table = Self::new(["", ""]);
        for (name, value) in fields {
            table.field(name, value);
        }
        table
    }

    /// Adds a name and its value, unless that is empty.
    pub(super) fn field(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.rows.push(vec![format!("{name}:"), value]);
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(super) fn render(&self, wide: bool, color: bool) -> String {
        let shown: Vec<usize> =
            (0..self.headings.len()).filter(|at| wide || !self.headings[*at].starts_with('+')).collect();
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        match color {
            true => grid.enforce_styling(),
            false => grid.force_no_tty(),
        };
        if self.headings.iter().any(|heading| !heading.is_empty()) {
            grid.set_header(shown.iter().map(|at| Cell::new(self.headings[*at].trim_start_matches('+'))));
        }
        for row in &self.rows {
            grid.add_row(shown.iter().map(|at| cell(row.get(*at).map_or("", String::as_str))));
        }
        for column in grid.column_iter_mut() {
            column.set_padding((0, 2));
        }
        grid.trim_fmt()
    }
}

/// A cell; words that say how something is have a colour.
fn cell(text: &str) -> Cell {
    let color = match text {
        "running" | "healthy" | "succeeded" | "ready" | "yes" => Some(Color::Green),
        "failed" | "unhealthy" | "lost" | "no quorum" => Some(Color::Red),
        "new" | "deploying" | "pending" | "building" | "built" | "scheduled" | "starting" | "pulling" | "assigned"
        | "queued" | "stopping" => Some(Color::Yellow),
        _ => None,
    };
    let cell = Cell::new(harmless(text));
    match color {
        Some(color) => cell.fg(color),
        None => cell,
    }
}

/// How long ago something was, in one unit: `5s`, `3m`, `2h`, `4d`.
pub(super) fn age(moment: Moment) -> String {
    moment.0.map_or_else(String::new, |then| age_at(then, clock::now()))
}

/// The same of two points in time.
pub(super) fn age_at(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A point in time; empty when there is none.
pub(super) fn time(moment: Moment) -> String {
    moment.0.map_or_else(String::new, |time| time.to_string())
}

/// What to call a node: its name, where it is known.
pub(super) fn node_name(name: &str, id: &Id) -> String {
    match (name, id.0.as_str()) {
        ("", "") => String::new(),
        ("", id) => format!("node {id}"),
        (name, _) => name.to_owned(),
    }
}

/// `yes` or `no`.
pub(super) fn yes_no(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let mut table = Table::new(["NAME", "STATUS", "+ID"]);
        table.row(["web".into(), "running".into(), "1".into()]);
        table.row(["a-longer-name".into(), String::new(), "2".into()]);
        assert_eq!(table.render(false, false), "NAME           STATUS\nweb            running\na-longer-name");
        assert_eq!(
            table.render(true, false),
            "NAME           STATUS   ID\nweb            running  1\na-longer-name           2"
        );
        assert!(table.render(false, true).contains("\u{1b}["), "colour when it is wanted");
        let fields = Table::of_fields([("name", "web".into()), ("url", String::new()), ("status", "ok".into())]);
        assert_eq!(fields.render(false, false), "name:    web\nstatus:  ok");
    }

    #[test]
    fn text_from_a_server_cannot_steer_the_terminal() {
        for (given, shown) in [
            ("plain\ttext\nand more, grüße", "plain\ttext\nand more, grüße"),
            ("\x1b]52;c;aGk=\x07", "\\u{1b}]52;c;aGk=\\u{7}"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("10%\r20%", "10%\\u{d}20%"),
            ("a\u{202e}b", "a\\u{202e}b"),
        ] {
            assert_eq!(harmless(given), shown, "{given:?}");
        }
        let line = "\x1b[31mred\x1b[0m \x1b]52;c;aGk=\x07\x1b[2J\r";
        assert_eq!(painted(line, false), "red \\u{1b}]52;c;aGk=\\u{7}\\u{1b}[2J\\u{d}");
        assert!(painted(line, true).starts_with("\x1b[31mred\x1b[0m \\u{1b}]52"), "{:?}", painted(line, true));
        let data = serde_json::json!({"name": "\x1b[2J\u{9b}2J\x7f\u{202e}"});
        for text in [data.to_string(), serde_norway::to_string(&data).expect("YAML")] {
            let shown = in_data(text.trim_end()).into_owned();
            assert!(!shown.chars().any(steers), "{shown:?}");
            assert_eq!(serde_norway::from_str::<Value>(&shown).expect("the same data"), data);
        }
        let mut table = Table::new(["NAME"]);
        table.row(["\x1b[2Jweb".into()]);
        assert_eq!(table.render(false, false), "NAME\n\\u{1b}[2Jweb");
    }

    #[test]
    fn ages() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")] {
            assert_eq!(age_at(Timestamp(0), Timestamp(seconds * 1_000)), text);
        }
        assert_eq!(age(Moment(None)), "");
    }
}
