//! Makes any bytes harmless to print: pure.
//!
//! Escape sequences are taken out whole, colours excepted: build tools draw with them, and escaped they would bury the
//! text. Single control characters, and those that turn the direction of text, are rare and suspicious, so they are
//! shown as escapes. Cleaning twice changes nothing: lines from other nodes are cleaned again on arrival.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use super::line::LINE_BYTES_MAX;

const CUT: &str = " … [line cut at 16 KiB]";
const RESET: &str = "\x1b[0m";
/// Longest set of colour parameters kept; real ones are under 40 characters.
const SGR_MAX: usize = 64;
/// Where cutting starts, so that the longest single piece, the marker and the reset still fit.
const CUT_FROM: usize = LINE_BYTES_MAX - CUT.len() - RESET.len();

/// The text of one line, fit to be shown.
pub(super) fn clean(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match plain(line) {
        Some(text) => text.to_owned(),
        None => rewrite(line),
    }
}

/// The common case, for speed: short and nothing but printable ASCII and tabs.
fn plain(line: &[u8]) -> Option<&str> {
    let harmless = line.len() <= CUT_FROM && line.iter().all(|b| matches!(b, b' '..=b'~' | b'\t'));
    if harmless { std::str::from_utf8(line).ok() } else { None }
}

fn rewrite(line: &[u8]) -> String {
    // More than what fits is looked at, since sequences taken out leave nothing; but no 10 MiB line is walked to its end.
    let walked = &line[..line.len().min(4 * LINE_BYTES_MAX)];
    let whole = walked.len() == line.len();
    let text = String::from_utf8_lossy(walked);
    let mut out = String::with_capacity(text.len().min(LINE_BYTES_MAX));
    let mut coloured = false;
    let mut piece = String::new();
    let mut chars = text.chars().peekable();
    // Where to cut back to, should the text turn out too long: the last piece that left room for the marker.
    let mut room = (0, false);
    let mut cut = !whole;
    while let Some(c) = chars.next() {
        piece.clear();
        let mut colours = coloured;
        match c {
            '\x1b' => {
                if let Some(parameters) = escape_sequence(&mut chars) {
                    colours = !matches!(parameters.as_str(), "" | "0");
                    let _infallible = write!(piece, "\x1b[{parameters}m");
                }
            }
            _ => push_visible(&mut piece, c),
        }
        let end = out.len() + piece.len();
        if end + if colours { RESET.len() } else { 0 } > LINE_BYTES_MAX {
            cut = true;
            break;
        }
        out.push_str(&piece);
        coloured = colours;
        if out.len() <= CUT_FROM {
            room = (out.len(), coloured);
        }
    }
    if cut {
        out.truncate(room.0);
        coloured = room.1;
        out.push_str(CUT);
    }
    // A colour left on (or "concealed") would run into the next line, which may be ours.
    if coloured {
        out.push_str(RESET);
    }
    out
}

fn push_visible(out: &mut String, c: char) {
    let _infallible = match c {
        '\t' => {
            out.push(c);
            Ok(())
        }
        '\r' => out.write_str("\\r"),
        '\n' => out.write_str("\\n"),
        '\0'..='\x1f' | '\x7f' => write!(out, "\\x{:02x}", u32::from(c)),
        // C1 controls (U+009B is another way to write ESC [), line separators, marks that turn the writing direction.
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => write!(out, "\\u{{{:x}}}", u32::from(c)),
        _ => {
            out.push(c);
            Ok(())
        }
    };
}

/// Consumes what follows an ESC. Returns the parameters when it was a colour sequence worth keeping.
fn escape_sequence(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    match chars.next_if(|c| matches!(c, ' '..='~'))? {
        '[' => control_sequence(chars),
        // OSC, DCS, SOS, PM, APC: a string up to its terminator, or to the end of the line without one.
        ']' | 'P' | 'X' | '^' | '_' => {
            while let Some(c) = chars.next() {
                match c {
                    '\x07' | '\u{9c}' => break,
                    '\x1b' if chars.next_if_eq(&'\\').is_some() => break,
                    _ => {}
                }
            }
            None
        }
        // Two-character sequences, with intermediates such as in `ESC ( B`.
        ' '..='/' => {
            while chars.next_if(|c| matches!(c, ' '..='/')).is_some() {}
            chars.next_if(|c| matches!(c, '0'..='~'));
            None
        }
        _ => None,
    }
}

/// After `ESC [`: parameters, intermediates, one final character.
fn control_sequence(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut parameters = String::new();
    let mut colour = true;
    while let Some(c) = chars.next_if(|c| matches!(c, ' '..='?')) {
        colour &= matches!(c, '0'..='9' | ';' | ':') && parameters.len() < SGR_MAX;
        if colour {
            parameters.push(c);
        }
    }
    let last = chars.next_if(|c| matches!(c, '@'..='~'))?;
    (colour && last == 'm').then_some(parameters)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stays_and_what_goes() {
        for (raw, expected) in [
            ("plain text", "plain text"),
            ("tab\tstays\r\n", "tab\tstays"),
            ("grüße 🎉", "grüße 🎉"),
            ("<script>alert(1)</script>", "<script>alert(1)</script>"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
            ("\x1b[1;38:5:9mred\x1b[m", "\x1b[1;38:5:9mred\x1b[m"),
            ("\x1b[8mhidden", "\x1b[8mhidden\x1b[0m"),
            ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
            ("\x1b[>4;2mkeys\x1b[?25l", "keys"),
            ("\x1b]52;c;aGk=\x07clip", "clip"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1bPq#0\x1b\\sixel", "sixel"),
            ("\x1b]0;title never ends", ""),
            ("\x1b(Bcharset\x1bc", "charset"),
            ("\x1b", ""),
            ("\x1b\x1b[31", ""),
            ("\x1b[31\u{e9}", "é"),
            ("10%\r20%", "10%\\r20%"),
            ("a\nb", "a\\nb"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("bell\x07 nul\0 del\x7f", "bell\\x07 nul\\x00 del\\x7f"),
        ] {
            assert_eq!(clean(raw.as_bytes()), expected, "{raw:?}");
        }
        assert_eq!(clean(b"bad \xff\xfe utf-8"), "bad \u{fffd}\u{fffd} utf-8");
    }

    #[test]
    fn long_lines_are_cut_with_a_marker() {
        let exact = "x".repeat(LINE_BYTES_MAX);
        assert_eq!(clean(exact.as_bytes()), exact);
        for long in ["x".repeat(LINE_BYTES_MAX + 1), "x".repeat(10 << 20), "é".repeat(LINE_BYTES_MAX)] {
            let text = clean(long.as_bytes());
            assert!(text.len() <= LINE_BYTES_MAX && text.ends_with(CUT), "{} bytes", text.len());
            assert!(text.len() > LINE_BYTES_MAX - 64);
        }
        let coloured = format!("\x1b[31m{}", "x".repeat(LINE_BYTES_MAX));
        assert!(clean(coloured.as_bytes()).ends_with(&format!("{CUT}{RESET}")));
        assert!(clean(&[0x1b; 1 << 20]).ends_with(CUT));
    }

    /// Bytes that are likely to form sequences.
    fn nasty() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\x1b[".to_vec()),
            Just(b"\x1b]".to_vec()),
            Just(b"\x1b\\".to_vec()),
            Just(b"31m".to_vec()),
            Just("\u{9b}".as_bytes().to_vec()),
            Just("\u{202e}".as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..8),
            "[ -~]{0,8}".prop_map(String::into_bytes),
            Just(vec![b'y'; 5_000]),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// Takes the colour sequences out; what is left must hold no control character at all.
    fn without_colours(text: &str) -> String {
        let mut rest = text;
        let mut out = String::new();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            out.push_str(before);
            let end = after.find('m').expect("a colour sequence ends");
            assert!(after[..end].chars().all(|c| matches!(c, '0'..='9' | ';' | ':')), "{after:?}");
            rest = &after[end + 1..];
        }
        out + rest
    }

    proptest! {
        #[test]
        fn nothing_can_take_over_a_terminal(raw in nasty()) {
            let text = clean(&raw);
            prop_assert!(text.len() <= LINE_BYTES_MAX);
            prop_assert!(without_colours(&text).chars().all(|c| c == '\t' || !c.is_control()));
            prop_assert_eq!(clean(text.as_bytes()), text, "cleaning twice changes nothing");
        }
    }
}
