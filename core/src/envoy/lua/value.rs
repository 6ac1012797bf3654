//! Values in the syntax of Lua. All of a script's text that isn't in a `.lua` file is written here.

use std::fmt::{self, Display, Formatter};

/// A value that a script uses.
pub(super) enum LuaValue {
    /// A string.
    Text(String),
    Number(i64),
    Boolean(bool),
    /// A table in which each of these keys is `true`.
    Set(Vec<String>),
    /// A table of these strings, in order.
    List(Vec<String>),
    /// A table with keys that are names.
    Record(Vec<(&'static str, LuaValue)>),
    /// A table with keys that are strings, an entry a line.
    Lines(Vec<(String, LuaValue)>),
}

impl LuaValue {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn set<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self::Set(keys.into_iter().map(str::to_owned).collect())
    }

    pub(super) fn list<'a>(items: impl IntoIterator<Item = &'a str>) -> Self {
        Self::List(items.into_iter().map(str::to_owned).collect())
    }
}

impl Display for LuaValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            LuaValue::Text(text) => write_string(f, text),
            LuaValue::Number(number) => write!(f, "{number}"),
            LuaValue::Boolean(boolean) => write!(f, "{boolean}"),
            LuaValue::Set(keys) => write_table(f, keys, |f, key| {
                f.write_str("[")?;
                write_string(f, key)?;
                f.write_str("] = true")
            }),
            LuaValue::List(items) => write_table(f, items, |f, item| write_string(f, item)),
            LuaValue::Record(fields) => {
                write_table(f, fields, |f, (name, value)| write!(f, "{name} = {value}"))
            }
            LuaValue::Lines(entries) => {
                f.write_str("{\n")?;
                for (key, value) in entries {
                    f.write_str("  [")?;
                    write_string(f, key)?;
                    writeln!(f, "] = {value},")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_table<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    write: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("{")?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write(f, item)?;
    }
    f.write_str("}")
}

fn write_string(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
            0x20..0x7f => write!(f, "{}", char::from(byte))?,
            _ => write!(f, "\\{byte:03}")?,
        }
    }
    f.write_str("\"")
}

/// The line that declares variables of a script: `local a, b = 1, 2`.
pub(super) fn declaration(variables: &[(&str, LuaValue)]) -> String {
    let names: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = variables.iter().map(|(_, value)| value.to_string()).collect();
    format!("local {} = {}\n", names.join(", "), values.join(", "))
}
