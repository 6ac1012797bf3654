//! Explains where and why a text is not YAML.

use saphyr_parser::ScanError;

/// Line and description of the first control character. They are refused since the parser takes NUL
/// for the end of the text and would ignore the rest.
pub(super) fn control_character(text: &str) -> Option<(u32, String)> {
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    let (index, found) = text.char_indices().find(|(_, c)| control(*c))?;
    let line = line_number(line_starts(&text[..index]).count());
    Some((
        line,
        format!("contains the control character U+{:04X}: is this a text file?", u32::from(found)),
    ))
}

/// Line and explanation of the parser's error.
pub(super) fn explain(text: &str, error: &ScanError) -> (u32, String) {
    let line = error.marker().line();
    // The parser may report the line before the one with the tab.
    if let Some(tabbed) = [line, line + 1].into_iter().find(|line| is_indented_by_tab(text, *line))
    {
        return (line_number(tabbed), "is indented with a tab: YAML wants spaces there".to_owned());
    }
    let info = error.info();
    let message = match hint(info, line_of(text, line)) {
        Some(hint) => format!("is not YAML: {info}: {hint}"),
        None => format!("is not YAML: {info}"),
    };
    (line_number(line), message)
}

fn hint(info: &str, line: &str) -> Option<&'static str> {
    let hints = [
        (
            "mapping values are not allowed",
            "check the indentation of this line and the one above; text that contains ': ' needs quotes",
        ),
        ("illegal placement of ':'", "is a bracket or quote above this line not closed?"),
        ("in flow construct", "is a bracket or quote above this line not closed?"),
        ("did not find expected key", "check the indentation of this line"),
        ("simple key expect ':'", "a line above lacks its ':', or is indented wrongly"),
        ("quoted scalar", "is a quote not closed?"),
        ("invalid indentation", "indent this line further"),
        ("valid YAML whitespace", "write a space there, not a tab"),
        (
            "unknown anchor",
            "an alias (*name) must name an anchor (&name) above it; text that begins with * needs quotes",
        ),
        ("unexpected character", "text that begins with this character needs quotes"),
        ("recursion limit", "it nests too deep"),
    ];
    if line.contains("{{") {
        return Some("if this file is a template, render it first");
    }
    hints.iter().find(|(part, _)| info.contains(part)).map(|(_, hint)| *hint)
}

/// Byte offsets of the lines: YAML breaks lines at `\n`, `\r\n` and a lone `\r`.
pub(super) fn line_starts(text: &str) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    let breaks = bytes.iter().enumerate().filter(|(i, byte)| match byte {
        b'\n' => true,
        b'\r' => bytes.get(i + 1) != Some(&b'\n'),
        _ => false,
    });
    std::iter::once(0).chain(breaks.map(|(i, _)| i + 1))
}

/// Line `number`, counted from 1, to the end of the text.
fn line_of(text: &str, number: usize) -> &str {
    let start = line_starts(text).nth(number.saturating_sub(1)).unwrap_or(text.len());
    text[start..].split(['\n', '\r']).next().unwrap_or_default()
}

fn is_indented_by_tab(text: &str, number: usize) -> bool {
    line_of(text, number).chars().take_while(|c| matches!(c, ' ' | '\t')).any(|c| c == '\t')
}

/// A line's number for messages.
pub(super) fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}
