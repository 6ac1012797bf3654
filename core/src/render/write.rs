//! Writes trees as YAML that every parser reads alike.
//!
//! Envoy's parser (yaml-cpp) doesn't read an unquoted `on`, `y` or `1e3` as text, as in YAML 1.1,
//! and the usual writers leave some of these unquoted. So text is unquoted only if no parser can
//! read it as anything else.

use std::net::Ipv4Addr;

use serde_yaml_ng::{Mapping, Value};

use crate::text::is_plain_char;

/// The document, with a newline at its end.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Mapping(fields) if !fields.is_empty() => entries(&mut out, fields, 0),
        Value::Sequence(list) if !list.is_empty() => items(&mut out, list, 0),
        leaf => out.push_str(&scalar(leaf, 0)),
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Writes a mapping. The first key continues the current line.
fn entries(out: &mut String, fields: &Mapping, indent: usize) {
    for (place, (key, value)) in fields.iter().enumerate() {
        if place > 0 {
            new_line(out, indent);
        }
        out.push_str(&flat(key));
        out.push(':');
        match value {
            Value::Mapping(fields) if !fields.is_empty() => {
                new_line(out, indent + 2);
                entries(out, fields, indent + 2);
            }
            Value::Sequence(list) if !list.is_empty() => {
                new_line(out, indent);
                items(out, list, indent);
            }
            leaf => {
                out.push(' ');
                out.push_str(&scalar(leaf, indent + 2));
            }
        }
    }
}

/// Writes a list. The first dash continues the current line.
fn items(out: &mut String, list: &[Value], indent: usize) {
    for (place, value) in list.iter().enumerate() {
        if place > 0 {
            new_line(out, indent);
        }
        out.push_str("- ");
        match value {
            Value::Mapping(fields) if !fields.is_empty() => entries(out, fields, indent + 2),
            Value::Sequence(list) if !list.is_empty() => items(out, list, indent + 2),
            leaf => out.push_str(&scalar(leaf, indent + 2)),
        }
    }
}

fn new_line(out: &mut String, indent: usize) {
    // A block of text has ended with a newline.
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A value without children. Lines of a block are indented by `indent`.
fn scalar(value: &Value, indent: usize) -> String {
    match value {
        Value::String(text) if is_block(text) => block(text, indent),
        other => flat(other),
    }
}

/// The same on one line.
fn flat(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if is_plain(text) => text.clone(),
        Value::String(text) if text.chars().all(is_plain_char) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        Value::String(text) => escaped(text),
        Value::Sequence(_) => "[]".into(),
        Value::Mapping(_) => "{}".into(),
        Value::Tagged(tagged) => flat(&tagged.value),
    }
}

/// Words that YAML 1.1 or a lenient parser doesn't read as text.
const AMBIGUOUS: &[&str] =
    &["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"];

/// Whether every parser reads the unquoted text as text.
fn is_plain(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let inside = |c: char| c.is_ascii_alphanumeric() || "_-./:,;=+()^$*?%\\\" ".contains(c);
    let ends = !text.ends_with([' ', ':']) && !text.contains(": ");
    let safe = begins
        && ends
        && text.chars().all(inside)
        && !AMBIGUOUS.contains(&text.to_ascii_lowercase().as_str());
    safe || is_duration(text) || text.parse::<Ipv4Addr>().is_ok()
}

/// `5s`, `0.250s`
fn is_duration(text: &str) -> bool {
    let number = text.strip_suffix('s').unwrap_or_default();
    number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// Whether to write the text as a block. Text that needs an indentation indicator or escapes isn't.
fn is_block(text: &str) -> bool {
    let lines = text.strip_suffix('\n').unwrap_or(text);
    text.contains('\n')
        && !lines.is_empty()
        && !lines.starts_with(char::is_whitespace)
        && !lines.ends_with(char::is_whitespace)
        && lines.chars().all(|c| is_plain_char(c) || c == '\n' || c == '\t')
}

fn block(text: &str, indent: usize) -> String {
    let mut out = String::from(if text.ends_with('\n') { "|\n" } else { "|-\n" });
    for line in text.lines() {
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_plain_char(c) => out.push(c),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}
