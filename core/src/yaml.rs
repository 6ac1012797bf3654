//! Reads Kubernetes manifests from text, and edits such text for the command line.
//!
//! ```text
//! text ──▶ yaml ──▶ documents ──▶ object ──▶ manifests
//!           │                       │
//!           └──── ManifestError ◀───┘   file, line and key of what is wrong
//! ```
//!
//! A file with a mistake gives no manifest at all, so a half-written file is never taken for a
//! smaller fleet. The caller keeps the file's last valid manifests.
//!
//! YAML is read as Kubernetes reads it, so a manifest means the same in a directory and in a
//! cluster: `yes` and `on` are booleans, merge keys (`<<`) merge, and JSON is YAML.
//!
//! Architecture invariant: no text makes this panic, recurse deeper than 128 levels or copy without
//! bound.

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

/// Most errors that are reported of one file.
const MAX_ERRORS: usize = 50;

/// Reads the manifests of one file. `file` is its name in messages and origins.
///
/// `v1` Services, `discovery.k8s.io` EndpointSlices and `v1` Endpoints (as slices) become
/// manifests, also as items of lists. Other kinds are ignored. Only the types of fields are checked
/// here; [`crate::validate`] checks what keys and addresses mean.
///
/// # Errors
/// Every mistake, in the order of lines; only the first one if the text is not YAML.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, Vec<ManifestError>> {
    let documents = read(file, text)?;
    Ok(documents.into_iter().flat_map(|document| document.manifests).collect())
}

struct ManifestDocument {
    /// The line of its `---`, or of its first key where it has none.
    line: u32,
    /// Whether it begins with `---`.
    explicit: bool,
    /// Whether it holds nothing but comments.
    empty: bool,
    /// Whether it is a list of objects.
    list: bool,
    manifests: Vec<Manifest>,
}

fn read(file: &str, text: &str) -> Result<Vec<ManifestDocument>, Vec<ManifestError>> {
    let mut reader = reader::DocumentReader::new(file);
    let documents: Vec<ManifestDocument> = parser::load(file, text)
        .map_err(|error| vec![error])?
        .iter()
        .map(|document| ManifestDocument {
            line: document.line,
            explicit: document.explicit,
            empty: document.root.is_null(),
            list: object::is_list(&document.root),
            manifests: object::manifests(&mut reader, document),
        })
        .collect();
    let mut errors = reader.into_errors();
    errors.extend(duplicates(file, documents.iter().flat_map(|document| &document.manifests)));
    if errors.is_empty() { Ok(documents) } else { Err(sort_and_limit(file, errors)) }
}

/// Reports objects that are in the file twice.
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

/// Sorts errors by line and leaves out those beyond [`MAX_ERRORS`].
fn sort_and_limit(file: &str, mut errors: Vec<ManifestError>) -> Vec<ManifestError> {
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
