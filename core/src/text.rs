//! Makes text of others safe to show: an Envoy's node metadata and NACKs, fields of manifests and
//! Kubernetes objects, certificates, an API server's messages. The terminal, the log, the web page,
//! the API and Events show such text only through this module.
//!
//! These characters are shown as their number, `\u{202e}`: those that are invisible, move the
//! cursor, end a line or change the direction of reading; those that Unicode has not assigned or
//! reserves for private use; every blank but the space; and every combining mark after the third in
//! a row, since a flood of marks covers other lines. Letters that are read from right to left stay
//! as they are.
//!
//! std decides which characters these are (`char::escape_debug`, by the compiler's version of
//! Unicode), except for a few that Unicode calls letters or marks although they are invisible.

use std::borrow::Cow;
use std::fmt::Write;

/// Longest text that a message shows, in characters. An annotation may have 256 KiB.
pub const LONGEST: usize = 2048;

/// How many combining marks a character may have. Vietnamese needs two, Hebrew with cantillation
/// three.
const MAX_MARKS: usize = 3;

/// How a character is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CharacterClass {
    Plain,
    /// A combining mark: it is drawn on the character before it.
    Mark,
    /// Shown as its number.
    Escaped,
}

/// Text on one line of at most `longest` characters. `…` at its end replaces what is left out.
pub fn line(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    let (mut length, mut marks) = (0, 0);
    // Where to cut if the text is too long: there is room for `…` behind it.
    let mut cut = 0;
    for c in text.chars() {
        if is_shown(c, &mut marks) {
            out.push(c);
            length += 1;
        } else {
            // std escapes in ASCII.
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

/// The first `longest` characters of a text, not escaped: for the log, whose writer escapes.
pub fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    match text.char_indices().nth(longest) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Text of several lines. Line feeds and tabs stay; other characters are as in [`line()`]. Nothing
/// is left out.
pub fn lines(text: &str) -> Cow<'_, str> {
    replace_escaped(text, |c, out| match c {
        '\n' | '\t' => out.push(c),
        c => out.extend(c.escape_default()),
    })
}

/// One line of the log: the only line feed is at its end. With `colours`, escape sequences that set
/// a terminal's colours stay.
pub fn log_line(text: &str, colours: bool) -> String {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    for (place, part) in body.split('\x1b').enumerate() {
        if place > 0 {
            out.push_str(if colours && is_colour(part) { "\x1b" } else { "\\u{1b}" });
        }
        out.push_str(&replace_escaped(part, |c, out| {
            if c == '\t' { out.push(c) } else { out.extend(c.escape_default()) }
        }));
    }
    out.push('\n');
    out
}

/// JSON with the same value, in which those characters are written as JSON's escapes (`\u202e`).
pub fn json(text: &str) -> Cow<'_, str> {
    replace_escaped(text, |c, out| {
        if c.is_ascii() && c != '\x7f' {
            // Within strings, JSON escapes ASCII's control characters except DEL. Others are
            // whitespace between values.
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    })
}

/// Whether [`line()`] shows a text unchanged, apart from its length.
pub fn is_plain(text: &str) -> bool {
    let mut marks = 0;
    text.chars().all(|c| is_shown(c, &mut marks))
}

/// Whether a character may be shown unchanged, alone or after others.
pub fn is_plain_char(c: char) -> bool {
    kind(c) != CharacterClass::Escaped
}

/// Calls `replace` for each character that must not be shown unchanged.
fn replace_escaped(text: &str, replace: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut marks) = (String::with_capacity(text.len() + 16), 0);
    for c in text.chars() {
        if is_shown(c, &mut marks) { out.push(c) } else { replace(c, &mut out) }
    }
    Cow::Owned(out)
}

/// Whether the next character of a text is shown unchanged. `marks` counts the combining marks in a
/// row; it is 0 at the text's beginning.
fn is_shown(c: char, marks: &mut usize) -> bool {
    match kind(c) {
        CharacterClass::Plain => *marks = 0,
        CharacterClass::Mark => *marks += 1,
        CharacterClass::Escaped => {
            *marks = 0;
            return false;
        }
    }
    *marks <= MAX_MARKS
}

fn kind(c: char) -> CharacterClass {
    match c {
        ' '..='~' => CharacterClass::Plain,
        // Letters and marks of Unicode's Default_Ignorable_Code_Point: Hangul fillers, the grapheme
        // joiner, vowels that are never drawn, variation selectors. And the Braille pattern blank.
        '\u{34f}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}' => CharacterClass::Escaped,
        '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}' => CharacterClass::Escaped,
        _ if c.escape_debug().len() == 1 => CharacterClass::Plain,
        // escape_debug escapes a mark at a text's beginning, but not after a letter.
        _ => {
            let mut text = String::from("x");
            text.push(c);
            if text.escape_debug().eq(text.chars()) {
                CharacterClass::Mark
            } else {
                CharacterClass::Escaped
            }
        }
    }
}

/// Whether the text after an escape character begins with a colour sequence: `[`, numbers, `m`
/// (ECMA-48, SGR).
fn is_colour(after: &str) -> bool {
    let numbers =
        |(numbers, _): (&str, &str)| numbers.bytes().all(|b| b.is_ascii_digit() || b == b';');
    after.strip_prefix('[').and_then(|after| after.split_once('m')).is_some_and(numbers)
}

#[cfg(test)]
mod tests;
