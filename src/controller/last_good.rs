//! What each manifest said when it was last right, kept across restarts: a wrong file changes nothing, also where Atlas
//! is restarted while it is wrong.
//!
//! A file counts as right once a whole round accepted it: it could be read, and none of its objects was rejected. Files
//! that are gone are forgotten, so nothing comes back that was deleted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use atlas_core::fact::Fact;
use atlas_core::intake::{Finding, Severity, intake};
use atlas_core::manifest::{self, ManifestError};
use atlas_core::model::{Fleet, Settings};

use crate::source::files::Report;
use crate::state_dir::StateDir;

const DIR: &str = "last-good";
/// Longest name of a file on the usual file systems. A manifest whose path takes more is not kept.
const MAX_NAME: usize = 255;

/// The texts, in memory and in the state directory.
pub struct LastGood {
    state: StateDir,
    texts: BTreeMap<String, Arc<str>>,
}

impl LastGood {
    /// Reads what an earlier process kept. What can't be read is as if it hadn't been kept, and is said.
    pub fn load(state: StateDir) -> Self {
        let mut texts = BTreeMap::new();
        let names = state.list(DIR).unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "cannot see what manifests said before");
            Vec::new()
        });
        for name in names {
            let Some(file) = decode(&name) else { continue };
            match state.read(&format!("{DIR}/{name}")) {
                Ok(Some(text)) => drop(texts.insert(file, text.into())),
                Ok(None) => {}
                Err(error) => tracing::warn!(error = format!("{error:#}"), "cannot read what a manifest said before"),
            }
        }
        Self { state, texts }
    }

    /// Adds what the files said that have been wrong ever since this process began, and says so of each. An object that
    /// another file has now is that file's.
    pub fn complete(&self, report: &mut Report) {
        let owned = |fact: &Fact| {
            let (kind, namespace, name) = manifest::identity(fact);
            (kind, namespace.map(str::to_owned), name.to_owned())
        };
        let mut there: HashSet<_> = report.facts.iter().map(owned).collect();
        let never_right = |file: &str| report.files.get(file).is_none_or(|manifest| manifest.good.is_none());
        let missing: Vec<_> = self.texts.iter().filter(|(file, _)| never_right(file) && may_exist(report, file)).collect();
        for (file, text) in missing {
            let Ok(facts) = manifest::parse(file, text) else { continue };
            let is_empty = !report.errors.iter().any(|error| error.file == *file) && report.files.contains_key(file);
            report.errors.push(stays(file, is_empty));
            report.facts.extend(facts.into_iter().filter(|fact| there.insert(owned(fact))));
        }
    }

    /// The fleet as it was when everything was right, as far as its files are still there: what clusters that are
    /// rejected in the first round were before.
    pub fn fleet(&self, settings: &Settings, report: &Report) -> Fleet {
        let texts = self.texts.iter().filter(|(file, _)| may_exist(report, file));
        let facts: Vec<Fact> = texts.filter_map(|(file, text)| manifest::parse(file, text).ok()).flatten().collect();
        intake(settings, &facts, None).fleet
    }

    /// Keeps what a round accepted, and forgets files that are gone. Returns what couldn't be written.
    pub fn keep(&mut self, report: &Report, findings: &[Finding]) -> Vec<String> {
        let rejected: BTreeSet<&str> =
            findings.iter().filter(|finding| finding.severity == Severity::Rejected).filter_map(file_of).collect();
        let mut failed = Vec::new();
        let right = report.files.iter().filter(|(file, manifest)| manifest.is_good && !rejected.contains(file.as_str()));
        for (file, text) in right.filter_map(|(file, manifest)| Some((file, manifest.good.as_ref()?))) {
            if self.texts.get(file) == Some(text) {
                continue;
            }
            let Some(name) = encode(file) else { continue };
            match self.state.write(&format!("{DIR}/{name}"), text) {
                Ok(_) => drop(self.texts.insert(file.clone(), Arc::clone(text))),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        failed.append(&mut self.forget_gone(report));
        failed
    }

    fn forget_gone(&mut self, report: &Report) -> Vec<String> {
        let gone: Vec<String> = self.texts.keys().filter(|file| !may_exist(report, file)).cloned().collect();
        let mut failed = Vec::new();
        for file in gone {
            let removed = encode(&file).map_or(Ok(()), |name| self.state.remove(&format!("{DIR}/{name}")));
            match removed {
                Ok(()) => drop(self.texts.remove(&file)),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        failed
    }
}

/// Whether a file is there, or is in a directory that can't be read.
fn may_exist(report: &Report, file: &str) -> bool {
    report.files.contains_key(file) || report.unreadable.iter().any(|dir| Path::new(file).starts_with(dir))
}

fn stays(file: &str, is_empty: bool) -> ManifestError {
    let message = if is_empty {
        "is empty (to remove what it said, delete it): what it said before Atlas was started stays in force"
    } else {
        "what it said before Atlas was started stays in force"
    };
    ManifestError { file: file.to_owned(), line: 0, key: String::new(), message: message.into() }
}

/// The file that a finding is about: its place is `file:line`.
fn file_of(finding: &Finding) -> Option<&str> {
    finding.place.rsplit_once(':').map(|(file, _)| file)
}

/// A path as the name of one file: everything but letters, digits, `-`, `_` and inner dots as `%2F`. It never begins with a
/// dot, as temporary files do.
fn encode(path: &str) -> Option<String> {
    let plain = |place: usize, byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && place > 0);
    let one = |(place, byte)| if plain(place, byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    let name: String = path.bytes().enumerate().map(one).collect();
    (!name.is_empty() && name.len() <= MAX_NAME).then_some(name)
}

/// The path that [`encode`] made a name of; `None` for any other name.
fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let path = String::from_utf8(bytes).ok()?;
    (encode(&path).as_deref() == Some(name)).then_some(path)
}

#[cfg(test)]
mod tests;
