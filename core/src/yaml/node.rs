//! Trees of YAML, in which every node has its line, its depth and its size.

use std::rc::Rc;

use super::scalar::ScalarType;

/// One document of a file.
pub(super) struct Document {
    /// The line of its `---`, or of its first key where it has none.
    pub line: u32,
    /// Whether it begins with `---`.
    pub explicit: bool,
    /// Its value; null if it is empty.
    pub root: Rc<YamlNode>,
}

/// A value and its place.
pub(super) struct YamlNode {
    /// First line, counted from 1. For an alias, the line of the anchor's value.
    pub line: u32,
    pub value: YamlValue,
    /// Levels of nesting below and including this node.
    pub depth: usize,
    /// Size of this node and those below it: the bytes of their text, and one for each node.
    pub size: usize,
}

pub(super) enum YamlValue {
    Scalar(Scalar),
    List(Vec<Rc<YamlNode>>),
    Map(Vec<YamlEntry>),
}

/// A value without parts.
pub(super) struct Scalar {
    pub kind: ScalarType,
    /// Its text without quotes and escapes.
    pub text: String,
}

/// A key with its value. Keys of one mapping are distinct.
#[derive(Clone)]
pub(super) struct YamlEntry {
    pub key: String,
    /// The key's line.
    pub line: u32,
    pub value: Rc<YamlNode>,
}

impl YamlNode {
    /// Whether the value is null, or nothing is written.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, YamlValue::Scalar(scalar) if scalar.kind == ScalarType::Null)
    }

    /// The entries, where this is a mapping.
    pub fn entries(&self) -> Option<&[YamlEntry]> {
        match &self.value {
            YamlValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of `key`, where this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&YamlEntry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// A node without parts.
    pub fn scalar(line: u32, kind: ScalarType, text: String) -> Self {
        Self {
            line,
            depth: 1,
            size: 1 + text.len(),
            value: YamlValue::Scalar(Scalar { kind, text }),
        }
    }

    /// A node with items.
    pub fn list(line: u32, items: Vec<Rc<YamlNode>>) -> Self {
        let (depth, size) = measure(items.iter(), 0);
        Self { line, depth, size, value: YamlValue::List(items) }
    }

    /// A node with entries.
    pub fn map(line: u32, entries: Vec<YamlEntry>) -> Self {
        let keys = entries.iter().map(|entry| entry.key.len()).sum();
        let (depth, size) = measure(entries.iter().map(|entry| &entry.value), keys);
        Self { line, depth, size, value: YamlValue::Map(entries) }
    }
}

/// Depth and size of a list or mapping of these nodes.
fn measure<'a>(nodes: impl Iterator<Item = &'a Rc<YamlNode>>, own_text: usize) -> (usize, usize) {
    nodes.fold((1, 1 + own_text), |(depth, size), node| {
        (depth.max(node.depth + 1), size.saturating_add(node.size))
    })
}

/// Appends a key to a path: `metadata.labels` and `app` give `metadata.labels.app`. A key that
/// isn't a plain word stands in brackets.
pub(super) fn join(path: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}
