//! Kubernetes manifests as people write them: text in, facts out, and the little editing that the command line needs.
//!
//! ```text
//! text ──▶ yaml ──▶ documents ──▶ object ──▶ facts
//!           │                       │
//!           └──── ManifestError ◀───┘   file, line and key of what is wrong
//! ```
//!
//! A file is all or nothing: one mistake in it and it contributes no fact, so that a half-written file is never taken for
//! a smaller fleet. The caller keeps what the file said before.
//!
//! YAML is read as Kubernetes reads it, so that a manifest means the same in a directory and in a cluster: `yes` and `on`
//! are booleans, merge keys (`<<`) merge, and JSON is YAML.
//!
//! Architecture invariant: nothing here panics, recurses deeper than 128 levels or copies without bound, whatever the
//! text.

use std::collections::BTreeMap;
use std::fmt;

use crate::fact::Fact;
use crate::text;

mod edit;
mod node;
mod object;
mod reader;
mod scalar;
mod syntax;
mod whole;
mod yaml;

pub use edit::{NewCluster, remove_document, render_cluster};
pub use whole::{Arrival, Doubt, doubt};

/// Most errors reported of one file: beyond that, the file is simply not what it should be.
const MAX_ERRORS: usize = 50;

/// One mistake in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestError {
    /// The file as [`parse`] was told.
    pub file: String,
    /// Line, counted from 1; 0 where the whole file is meant.
    pub line: u32,
    /// The key by its path, e.g. `metadata.labels["goatlas.io/replicas"]`; empty where there is none.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = if self.line > 0 { format!(":{}", self.line) } else { String::new() };
        let key = if self.key.is_empty() { String::new() } else { format!(": {}", self.key) };
        f.write_str(&text::line(
            &format!("{}{line}{key}: {}", self.file, self.message),
            text::LONGEST,
        ))
    }
}

impl std::error::Error for ManifestError {}

/// Reads the facts of one file. `file` is what messages and origins call it.
///
/// `v1` Services and `discovery.k8s.io` EndpointSlices become facts, `v1` Endpoints as slices, also as items of lists; other
/// kinds are none of Atlas's business and are passed over. Nothing is checked beyond the types of what is read: what keys and
/// addresses mean is [`crate::intake`]'s to judge.
///
/// # Errors
/// Every mistake in the order of the lines; the first one only, where the text is not YAML at all.
pub fn parse(file: &str, text: &str) -> Result<Vec<Fact>, Vec<ManifestError>> {
    let documents = read(file, text)?;
    Ok(documents.into_iter().flat_map(|document| document.facts).collect())
}

/// What makes an object the same object: kind, namespace and name.
///
/// A namespace that is left out differs from every one that is written: which it is, intake knows.
pub fn identity(fact: &Fact) -> (&'static str, Option<&str>, &str) {
    let meta = fact.meta();
    (fact.kind(), meta.namespace.as_deref(), &meta.name)
}

/// The object in messages: `Service monitoring/tokyo`.
pub fn title(fact: &Fact) -> String {
    match identity(fact) {
        (kind, Some(namespace), name) => format!("{kind} {namespace}/{name}"),
        (kind, None, name) => format!("{kind} {name}"),
    }
}

/// A document and what it says.
struct Document {
    /// First line: of its `---`, or of its first key where it has none.
    line: u32,
    /// Whether it begins with `---`.
    explicit: bool,
    /// Whether it holds nothing but comments.
    empty: bool,
    /// Whether it is a list of objects.
    list: bool,
    facts: Vec<Fact>,
}

fn read(file: &str, text: &str) -> Result<Vec<Document>, Vec<ManifestError>> {
    let mut reader = reader::Reader::new(file);
    let documents: Vec<Document> = yaml::load(file, text)
        .map_err(|error| vec![error])?
        .iter()
        .map(|document| Document {
            line: document.line,
            explicit: document.explicit,
            empty: document.root.is_null(),
            list: object::is_list(&document.root),
            facts: object::facts(&mut reader, document),
        })
        .collect();
    let mut errors = reader.into_errors();
    errors.extend(duplicates(file, documents.iter().flat_map(|document| &document.facts)));
    if errors.is_empty() { Ok(documents) } else { Err(tidy(file, errors)) }
}

/// Objects that the file has twice: which of the two is meant cannot be told.
fn duplicates<'a>(file: &str, facts: impl Iterator<Item = &'a Fact>) -> Vec<ManifestError> {
    let mut first = BTreeMap::new();
    let mut errors = Vec::new();
    for fact in facts {
        let line = fact.meta().origin.line_of("metadata.name");
        if let Some(earlier) = first.get(&identity(fact)) {
            errors.push(ManifestError {
                file: file.to_owned(),
                line,
                key: "metadata.name".into(),
                message: format!(
                    "{} is already on line {earlier}: remove one of the two",
                    title(fact)
                ),
            });
        } else {
            first.insert(identity(fact), line);
        }
    }
    errors
}

fn tidy(file: &str, mut errors: Vec<ManifestError>) -> Vec<ManifestError> {
    errors.sort_by_key(|error| error.line);
    if errors.len() > MAX_ERRORS {
        let message = format!("{} more errors are not shown", errors.len() - MAX_ERRORS);
        errors.truncate(MAX_ERRORS);
        errors.push(ManifestError { file: file.to_owned(), line: 0, key: String::new(), message });
    }
    errors
}

#[cfg(test)]
mod tests;
