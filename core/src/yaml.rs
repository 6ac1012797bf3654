//! Kubernetes manifests as people write them: text in, manifests out, and the little editing that the command line needs.
//!
//! ```text
//! text ──▶ yaml ──▶ documents ──▶ object ──▶ manifests
//!           │                       │
//!           └──── ManifestError ◀───┘   file, line and key of what is wrong
//! ```
//!
//! A file is all or nothing: one mistake in it and it contributes no manifest, so that a half-written file is never taken for
//! a smaller fleet. The caller keeps what the file said before.
//!
//! YAML is read as Kubernetes reads it, so that a manifest means the same in a directory and in a cluster: `yes` and `on`
//! are booleans, merge keys (`<<`) merge, and JSON is YAML.
//!
//! Architecture invariant: nothing here panics, recurses deeper than 128 levels or copies without bound, whatever the
//! text.

use std::collections::BTreeMap;

use crate::manifest::{Manifest, ManifestError};

mod completeness;
mod edit;
mod node;
mod object;
mod parser;
mod reader;
mod scalar;
mod syntax;

pub use completeness::{IncompleteReason, WriteEvent, incomplete_reason};
pub use edit::{NewCluster, remove_document, render_cluster};

/// Most errors reported of one file: beyond that, the file is simply not what it should be.
const MAX_ERRORS: usize = 50;

/// Reads the manifests of one file. `file` is what messages and origins call it.
///
/// `v1` Services and `discovery.k8s.io` EndpointSlices become manifests, `v1` Endpoints as slices, also as items of lists; other
/// kinds are none of Atlas's business and are passed over. Nothing is checked beyond the types of what is read: what keys and
/// addresses mean is [`crate::validate`]'s to judge.
///
/// # Errors
/// Every mistake in the order of the lines; the first one only, where the text is not YAML at all.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, Vec<ManifestError>> {
    let documents = read(file, text)?;
    Ok(documents.into_iter().flat_map(|document| document.manifests).collect())
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
    manifests: Vec<Manifest>,
}

fn read(file: &str, text: &str) -> Result<Vec<Document>, Vec<ManifestError>> {
    let mut reader = reader::Reader::new(file);
    let documents: Vec<Document> = parser::load(file, text)
        .map_err(|error| vec![error])?
        .iter()
        .map(|document| Document {
            line: document.line,
            explicit: document.explicit,
            empty: document.root.is_null(),
            list: object::is_list(&document.root),
            manifests: object::manifests(&mut reader, document),
        })
        .collect();
    let mut errors = reader.into_errors();
    errors.extend(duplicates(file, documents.iter().flat_map(|document| &document.manifests)));
    if errors.is_empty() { Ok(documents) } else { Err(tidy(file, errors)) }
}

/// Objects that the file has twice: which of the two is meant cannot be told.
fn duplicates<'a>(file: &str, manifests: impl Iterator<Item = &'a Manifest>) -> Vec<ManifestError> {
    let mut first = BTreeMap::new();
    let mut errors = Vec::new();
    for manifest in manifests {
        let line = manifest.meta().origin.line_of("metadata.name");
        if let Some(earlier) = first.get(&manifest.key()) {
            errors.push(ManifestError {
                file: file.to_owned(),
                line,
                key: "metadata.name".into(),
                message: format!(
                    "{} is already on line {earlier}: remove one of the two",
                    manifest.key()
                ),
            });
        } else {
            first.insert(manifest.key(), line);
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
