//! Typed access to a document. A mistake is recorded with its line and key, and reading continues.

use super::node::{Scalar, YamlEntry, YamlNode, YamlValue, join};
use super::scalar::{self, ScalarType};
use crate::manifest::ManifestError;

/// Longest value quoted in a message, in characters.
const MAX_QUOTED: usize = 60;

/// Collects the mistakes of one file.
pub(super) struct DocumentReader<'f> {
    file: &'f str,
    errors: Vec<ManifestError>,
    /// Objects without a name so far.
    nameless: usize,
}

/// A value with its path and line.
pub(super) struct LocatedNode<'n> {
    pub path: String,
    /// Line of its key; for an item of a list, of the value.
    pub line: u32,
    pub node: &'n YamlNode,
}

impl<'n> LocatedNode<'n> {
    /// The root of a document.
    pub fn root(node: &'n YamlNode) -> Self {
        LocatedNode { path: String::new(), line: node.line, node }
    }

    /// The value of `key`. A key without a value counts as absent.
    pub fn get(&self, key: &str) -> Option<LocatedNode<'n>> {
        self.node.get(key).filter(|entry| !entry.value.is_null()).map(|entry| self.child(entry))
    }

    fn child(&self, entry: &'n YamlEntry) -> LocatedNode<'n> {
        LocatedNode { path: join(&self.path, &entry.key), line: entry.line, node: &entry.value }
    }
}

impl<'f> DocumentReader<'f> {
    pub fn new(file: &'f str) -> Self {
        Self { file, errors: Vec::new(), nameless: 0 }
    }

    pub fn file(&self) -> &'f str {
        self.file
    }

    /// Counts one more object without a name, from 1.
    pub fn count_nameless(&mut self) -> usize {
        self.nameless += 1;
        self.nameless
    }

    pub fn into_errors(self) -> Vec<ManifestError> {
        self.errors
    }

    /// Records a mistake at `at`.
    pub fn fail(&mut self, at: &LocatedNode<'_>, message: impl Into<String>) {
        self.note(at.line, at.path.clone(), message.into());
    }

    /// Records that `key` of `parent` is missing.
    pub fn missing(&mut self, parent: &LocatedNode<'_>, key: &str, message: impl Into<String>) {
        let line = parent.node.get(key).map_or(parent.line, |entry| entry.line);
        self.note(line, join(&parent.path, key), message.into());
    }

    fn note(&mut self, line: u32, key: String, message: String) {
        self.errors.push(ManifestError { file: self.file.to_owned(), line, key, message });
    }

    /// The mapping under `key`.
    pub fn mapping<'n>(&mut self, parent: &LocatedNode<'n>, key: &str) -> Option<LocatedNode<'n>> {
        let at = parent.get(key)?;
        if !matches!(at.node.value, YamlValue::Map(_)) {
            self.fail(&at, format!("must be a mapping, is {}", describe(at.node)));
            return None;
        }
        Some(at)
    }

    /// The items of the list under `key`.
    pub fn list<'n>(&mut self, parent: &LocatedNode<'n>, key: &str) -> Vec<LocatedNode<'n>> {
        let Some(at) = parent.get(key) else { return Vec::new() };
        let YamlValue::List(items) = &at.node.value else {
            self.fail(
                &at,
                format!("must be a list, is {}: begin each item with '- '", describe(at.node)),
            );
            return Vec::new();
        };
        let item = |(index, node): (usize, &'n std::rc::Rc<YamlNode>)| LocatedNode {
            path: format!("{}[{index}]", at.path),
            line: node.line,
            node,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The items of the list of mappings under `key`.
    pub fn mappings<'n>(&mut self, parent: &LocatedNode<'n>, key: &str) -> Vec<LocatedNode<'n>> {
        let mut items = self.list(parent, key);
        items.retain(|item| {
            let is_mapping = matches!(item.node.value, YamlValue::Map(_));
            if !is_mapping {
                self.fail(item, format!("must be a mapping, is {}", describe(item.node)));
            }
            is_mapping
        });
        items
    }

    /// The items of the list of strings under `key`.
    pub fn strings(&mut self, parent: &LocatedNode<'_>, key: &str) -> Vec<String> {
        self.list(parent, key).iter().filter_map(|item| self.string(item)).collect()
    }

    /// The string under `key`, where there is one.
    pub fn text(&mut self, parent: &LocatedNode<'_>, key: &str) -> Option<String> {
        parent.get(key).and_then(|at| self.string(&at))
    }

    /// The entries of the mapping from string to string under `key`, with the line of each.
    pub fn string_map(
        &mut self,
        parent: &LocatedNode<'_>,
        key: &str,
    ) -> Vec<(String, String, u32)> {
        let Some(at) = self.mapping(parent, key) else { return Vec::new() };
        let YamlValue::Map(entries) = &at.node.value else { return Vec::new() };
        let read = |entry: &YamlEntry| {
            self.string(&at.child(entry)).map(|value| (entry.key.clone(), value, entry.line))
        };
        entries.iter().filter_map(read).collect()
    }

    fn string(&mut self, at: &LocatedNode<'_>) -> Option<String> {
        match &at.node.value {
            YamlValue::Scalar(Scalar { kind: ScalarType::Text | ScalarType::Merge, text }) => return Some(text.clone()),
            YamlValue::Scalar(Scalar { kind: ScalarType::Null, .. }) => self.fail(at, r#"must be a string, has no value: write one, or """#),
            YamlValue::Scalar(Scalar { text, .. }) => {
                let quoted = quote(text);
                self.fail(at, format!("must be a string, is {}: write {quoted} in quotes", describe(at.node)));
            }
            YamlValue::List(_) => self.fail(at, "must be a string, is a list: write the items into one string, separated by commas"),
            YamlValue::Map(_) => self.fail(at, "must be a string, is a mapping: text that contains ': ' or ends in ':' needs quotes"),
        }
        None
    }

    /// A port: a whole number from 1 to 65535.
    pub fn port(&mut self, at: &LocatedNode<'_>) -> Option<u16> {
        let what = describe(at.node);
        let message = match &at.node.value {
            YamlValue::Scalar(Scalar { kind: ScalarType::Number, text }) => {
                match text.parse::<u16>() {
                    // `010` is 8 to Kubernetes and 10 in YAML 1.2.
                    Ok(port) if port > 0 && !text.starts_with('0') => return Some(port),
                    _ => format!("must be a port from 1 to 65535 in plain digits, is {what}"),
                }
            }
            YamlValue::Scalar(Scalar { kind: ScalarType::Text, text })
                if text.parse::<u16>().is_ok() =>
            {
                format!("must be a number, is {what}: remove the quotes")
            }
            _ => format!("must be a port from 1 to 65535, is {what}"),
        };
        self.fail(at, message);
        None
    }
}

/// A value in words, such as `the number 2`.
pub(super) fn describe(node: &YamlNode) -> String {
    let YamlValue::Scalar(Scalar { kind, text }) = &node.value else {
        return if matches!(node.value, YamlValue::List(_)) { "a list" } else { "a mapping" }
            .to_owned();
    };
    match kind {
        ScalarType::Null => "empty".to_owned(),
        ScalarType::Boolean if scalar::is_boolean_of_yaml_1_1(text) => {
            format!("{text}, which Kubernetes takes for a boolean")
        }
        ScalarType::Boolean => format!("the boolean {text}"),
        ScalarType::Number => format!("the number {}", shorten(text)),
        ScalarType::Text | ScalarType::Merge => format!("the string {}", quote(text)),
    }
}

fn quote(text: &str) -> String {
    format!("{:?}", shorten(text))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
