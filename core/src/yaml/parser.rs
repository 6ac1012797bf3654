//! Parses YAML into trees in which every node has its line.
//!
//! It uses saphyr-parser's events instead of saphyr's loader for four reasons. The loader recurses
//! as deep as the text nests, so a line of dashes ends the process. It copies the value of an
//! alias. It drops a scalar's text, so messages couldn't quote it. It reports one line of a
//! duplicate key.
//!
//! Depth, and the size of what aliases repeat, are limited.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::node::{Document, YamlEntry, YamlNode, YamlValue, join};
use super::scalar::{self, ScalarType};
use super::syntax;
use crate::manifest::ManifestError;

/// Deepest nesting, with aliases followed. Kubernetes objects nest about 10 levels deep, the
/// schemas in CustomResourceDefinitions about 60.
pub(super) const MAX_DEPTH: usize = 128;

/// Largest total [`YamlNode::size`] of the values that aliases repeat. Anchors that contain aliases
/// could otherwise make a short file arbitrarily large.
const MAX_REPEATED: usize = 1 << 20;

/// Reads every document.
///
/// # Errors
/// The first place where the text is not YAML, or exceeds a limit of this module.
pub(super) fn load(file: &str, text: &str) -> Result<Vec<Document>, ManifestError> {
    let mut builder = Builder::new(file);
    if let Some((line, message)) = syntax::control_character(text) {
        return Err(builder.error(line, &message));
    }
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => builder.handle(event, span)?,
            Err(error) => {
                let (line, message) = syntax::explain(text, &error);
                return Err(builder.error(line, &message));
            }
        }
    }
    Ok(builder.documents)
}

/// A collection that has begun and not ended.
struct OpenCollection {
    line: u32,
    /// The anchor's number; 0 without one.
    anchor: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Rc<YamlNode>>),
    /// The entries so far, what is to be merged, and the key whose value comes next.
    Map {
        entries: Vec<YamlEntry>,
        merges: Vec<YamlEntry>,
        key: Option<Key>,
    },
}

struct Key {
    text: String,
    line: u32,
    merge: bool,
}

struct Builder<'a> {
    file: &'a str,
    documents: Vec<Document>,
    /// From the document's root down to where the parser is.
    open: Vec<OpenCollection>,
    /// Line of the current document's beginning, and whether it begins with `---`.
    start: (u32, bool),
    /// Complete nodes by the number of their anchor, within one document.
    anchors: HashMap<usize, Rc<YamlNode>>,
    /// Total size of the values that aliases have repeated, see [`MAX_REPEATED`].
    repeated: usize,
}

type ParseResult<T = ()> = Result<T, ManifestError>;

impl<'a> Builder<'a> {
    fn new(file: &'a str) -> Self {
        Self {
            file,
            documents: Vec::new(),
            open: Vec::new(),
            start: (1, false),
            anchors: HashMap::new(),
            repeated: 0,
        }
    }

    fn handle(&mut self, event: Event<'_>, span: Span) -> ParseResult {
        let line = syntax::line_number(span.start.line());
        match event {
            Event::DocumentStart(explicit) => {
                self.start = (line, explicit);
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = kind_of(&text, style, tag.as_deref());
                self.add_node(
                    Rc::new(YamlNode::scalar(line, kind, text.into_owned())),
                    anchor,
                    line,
                )
            }
            Event::Alias(anchor) => self.repeat(anchor, line),
            Event::SequenceStart(anchor, _) => self.begin(line, anchor, Parts::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.begin(
                line,
                anchor,
                Parts::Map { entries: Vec::new(), merges: Vec::new(), key: None },
            ),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => Ok(()),
        }
    }

    fn begin(&mut self, line: u32, anchor: usize, parts: Parts) -> ParseResult {
        self.check_depth(line, 1)?;
        self.open.push(OpenCollection { line, anchor, parts });
        Ok(())
    }

    fn end(&mut self) -> ParseResult {
        let Some(OpenCollection { line, anchor, parts }) = self.open.pop() else { return Ok(()) };
        let node = match parts {
            Parts::List(items) => YamlNode::list(line, items),
            Parts::Map { entries, merges, .. } => {
                self.refuse_duplicates(entries.iter().chain(&merges))?;
                YamlNode::map(line, self.merge(entries, merges)?)
            }
        };
        self.add_node(Rc::new(node), anchor, line)
    }

    /// Adds an anchor's value again. The node is shared, but readers of the tree visit it again.
    fn repeat(&mut self, anchor: usize, line: u32) -> ParseResult {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(self.error(line, "an alias (*name) must name an anchor (&name) that ends above it in the same document"));
        };
        self.repeated = self.repeated.saturating_add(node.size);
        if self.repeated > MAX_REPEATED {
            return Err(self.error(
                line,
                "the aliases (*name) of this file repeat more than 1 MiB: write less by alias",
            ));
        }
        self.check_depth(line, node.depth)?;
        self.add_node(node, 0, line)
    }

    fn check_depth(&self, line: u32, below: usize) -> ParseResult {
        if self.open.len() + below > MAX_DEPTH {
            return Err(self.error(line, &format!("nests more than {MAX_DEPTH} levels deep")));
        }
        Ok(())
    }

    /// Adds a complete node at the parser's place: as a key, a value, an item or the root.
    fn add_node(&mut self, node: Rc<YamlNode>, anchor: usize, line: u32) -> ParseResult {
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        match self.open.last_mut().map(|open| &mut open.parts) {
            None => {
                let (line, explicit) = self.start;
                self.documents.push(Document { line, explicit, root: node });
            }
            Some(Parts::List(items)) => items.push(node),
            Some(Parts::Map { entries, merges, key }) => match key.take() {
                Some(Key { text, line, merge }) => {
                    if merge { merges } else { entries }.push(YamlEntry {
                        key: text,
                        line,
                        value: node,
                    });
                }
                None => match key_of(&node, line) {
                    Ok(found) => *key = Some(found),
                    Err(message) => return Err(self.error(line, message)),
                },
            },
        }
        Ok(())
    }

    fn refuse_duplicates<'e>(&self, entries: impl Iterator<Item = &'e YamlEntry>) -> ParseResult {
        let mut lines = HashMap::new();
        for YamlEntry { key, line, .. } in entries {
            if let Some(first) = lines.insert(key.as_str(), *line) {
                let (first, second) = (first.min(*line), first.max(*line));
                let key = join(&self.path(), key);
                return Err(ManifestError {
                    key,
                    ..self.error(
                        second,
                        &format!("is already on line {first}: remove one of the two"),
                    )
                });
            }
        }
        Ok(())
    }

    /// Adds the entries of merged mappings (`<<`). The mapping's own keys take precedence, then
    /// those of earlier merged mappings.
    fn merge(
        &self,
        mut entries: Vec<YamlEntry>,
        merges: Vec<YamlEntry>,
    ) -> ParseResult<Vec<YamlEntry>> {
        let mut more: BTreeMap<String, YamlEntry> = BTreeMap::new();
        for merge in merges {
            for mapping in self.mappings(&merge)? {
                for entry in mapping {
                    more.entry(entry.key.clone()).or_insert_with(|| entry.clone());
                }
            }
        }
        for entry in &entries {
            more.remove(&entry.key);
        }
        entries.extend(more.into_values());
        Ok(entries)
    }

    fn mappings<'e>(&self, merge: &'e YamlEntry) -> ParseResult<Vec<&'e [YamlEntry]>> {
        let all = match &merge.value.value {
            YamlValue::Map(entries) => Some(vec![entries.as_slice()]),
            YamlValue::List(items) => items.iter().map(|item| item.entries()).collect(),
            YamlValue::Scalar(_) => None,
        };
        all.ok_or_else(|| ManifestError {
            key: join(&self.path(), &merge.key),
            ..self.error(merge.line, "must be a mapping to merge, or a list of mappings")
        })
    }

    /// Path of the parser's place.
    fn path(&self) -> String {
        self.open.iter().fold(String::new(), |path, open| match &open.parts {
            Parts::List(items) => format!("{path}[{}]", items.len()),
            Parts::Map { key: Some(key), .. } => join(&path, &key.text),
            Parts::Map { key: None, .. } => path,
        })
    }

    fn error(&self, line: u32, message: &str) -> ManifestError {
        ManifestError {
            file: self.file.to_owned(),
            line,
            key: self.path(),
            message: message.to_owned(),
        }
    }
}

fn kind_of(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> ScalarType {
    let says_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if style == ScalarStyle::Plain && !says_text { scalar::resolve(text) } else { ScalarType::Text }
}

fn key_of(node: &YamlNode, line: u32) -> Result<Key, &'static str> {
    let YamlValue::Scalar(scalar) = &node.value else {
        return Err(
            "a key must be text, is a list or a mapping: if this file is a template ({{ … }}), render it first",
        );
    };
    if scalar.kind == ScalarType::Null && scalar.text.is_empty() {
        return Err("a key is missing before ':'");
    }
    Ok(Key { text: scalar.text.clone(), line, merge: scalar.kind == ScalarType::Merge })
}
