//! Foreign text, made fit to be shown: what an Envoy says of itself and of what it refuses, what manifests and Kubernetes
//! objects hold, what a certificate or an API server says. Everything that shows such text goes through here: the terminal,
//! the log, the page, the API, Events.
//!
//! A character that is invisible, that moves the cursor, that ends a line, or that turns the direction of reading is shown as its
//! number, `\u{202e}`. So is one that Unicode has not assigned or keeps for private use, every blank but the space, and the fourth
//! of several combining marks in a row: floods of them cover other lines. Letters that are read from right to left stay letters.
//!
//! Which characters these are says std (`char::escape_debug`, of the Unicode version of the compiler), but for those few that
//! Unicode calls letters or marks although nobody sees them.

use std::borrow::Cow;
use std::fmt::Write;

/// Longest text that is shown, in characters: one annotation may have 256 KiB.
pub const LONGEST: usize = 2048;

/// Combining marks that a character may carry. Vietnamese has two, Hebrew with cantillation three.
const MARKS: usize = 3;

/// How a character is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// A combining mark: it is drawn on the character before it.
    Mark,
    /// It is shown as its number.
    Hidden,
}

/// Text on one line, of at most so many characters; what is left out is told by `…`.
pub fn line(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    let (mut length, mut marks) = (0, 0);
    // Where to cut, should the text go on: before the last character for which there is room beside the `…`.
    let mut cut = 0;
    for c in text.chars() {
        if is_shown(c, &mut marks) {
            out.push(c);
            length += 1;
        } else {
            // The escapes of std are plain ASCII.
            let escaped = c.escape_default();
            length += escaped.len();
            out.extend(escaped);
        }
        if length < longest {
            cut = out.len();
        } else if length > longest {
            out.truncate(cut);
            if longest > 0 {
                out.push('…');
            }
            break;
        }
    }
    out
}

/// Text as it is, but for what is beyond so many characters: for the log, whose writer shows the rest.
pub fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    match text.char_indices().nth(longest) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Text of several lines: their ends and tabulators stay, all else is as in [`line`]. Nothing is left out.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c, out| match c {
        '\n' | '\t' => out.push(c),
        c => out.extend(c.escape_default()),
    })
}

/// A line of the log, which ends with the only line feed. `colours`: the sequences by which a terminal is told colours stay.
pub fn log_line(text: &str, colours: bool) -> String {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    for (place, part) in body.split('\x1b').enumerate() {
        if place > 0 {
            out.push_str(if colours && is_colour(part) { "\x1b" } else { "\\u{1b}" });
        }
        out.push_str(&replaced(part, |c, out| {
            if c == '\t' { out.push(c) } else { out.extend(c.escape_default()) }
        }));
    }
    out.push('\n');
    out
}

/// JSON that says the same, and in which nothing is hidden: within its strings the characters are escapes (`\u202e`).
pub fn json(text: &str) -> Cow<'_, str> {
    replaced(text, |c, out| {
        if c.is_ascii() && c != '\x7f' {
            // Of ASCII's control characters JSON has none within strings but DEL, and line feeds and the like between its values.
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    })
}

/// Whether a text has nothing that must not be shown as it is. A line's end must not.
pub fn is_plain(text: &str) -> bool {
    let mut marks = 0;
    text.chars().all(|c| is_shown(c, &mut marks))
}

/// Whether a character may be shown as it is, by itself or after others.
pub fn is_plain_char(c: char) -> bool {
    kind(c) != Kind::Hidden
}

/// Replaces what must not be shown.
fn replaced(text: &str, replace: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut marks) = (String::with_capacity(text.len() + 16), 0);
    for c in text.chars() {
        if is_shown(c, &mut marks) { out.push(c) } else { replace(c, &mut out) }
    }
    Cow::Owned(out)
}

/// `marks` counts the combining marks in a row; no character goes before the first.
fn is_shown(c: char, marks: &mut usize) -> bool {
    match kind(c) {
        Kind::Plain => *marks = 0,
        Kind::Mark => *marks += 1,
        Kind::Hidden => {
            *marks = 0;
            return false;
        }
    }
    *marks <= MARKS
}

fn kind(c: char) -> Kind {
    match c {
        ' '..='~' => Kind::Plain,
        // Default_Ignorable_Code_Point that is a letter or a mark: Hangul fillers, the grapheme joiner, vowels that are never
        // drawn, variation selectors. And a Braille pattern without a dot.
        '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}' => Kind::Hidden,
        '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}' => Kind::Hidden,
        _ if c.escape_debug().len() == 1 => Kind::Plain,
        // Alone a mark is escaped too; after a letter it isn't.
        _ => {
            let mut text = String::from("x");
            text.push(c);
            if text.escape_debug().eq(text.chars()) { Kind::Mark } else { Kind::Hidden }
        }
    }
}

/// Whether what follows an escape is a sequence for a colour: `[`, numbers, `m` (ECMA-48's SGR).
fn is_colour(after: &str) -> bool {
    let numbers =
        |(numbers, _): (&str, &str)| numbers.bytes().all(|b| b.is_ascii_digit() || b == b';');
    after.strip_prefix('[').and_then(|after| after.split_once('m')).is_some_and(numbers)
}

#[cfg(test)]
mod tests;
