//! What each manifest's objects were when they were last right, kept across restarts: a wrong file changes nothing, also
//! where Atlas is restarted while it is wrong.
//!
//! ```text
//! a file that is right     its objects, as they are
//! an object is rejected    that object, as it was; the file's others, as they are
//! a file can't be read     all as it was
//! a file is gone           nothing
//! ```
//!
//! So nothing comes back that was deleted, and nothing good is shadowed by what it was before.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use atlas_core::fact::Fact;
use atlas_core::intake::{Finding, Severity, intake};
use atlas_core::manifest::{self, ManifestError};
use atlas_core::model::{Fleet, Settings};
use atlas_core::name::ClusterName;

use crate::source::files::Report;
use crate::state_dir::StateDir;

const DIR: &str = "last-good";
/// Longest name of a file on the usual file systems. A manifest whose path takes more is not kept.
const MAX_NAME: usize = 255;

/// The objects of each file, in memory and in the state directory.
pub struct LastGood {
    state: StateDir,
    facts: BTreeMap<String, Vec<Fact>>,
}

impl LastGood {
    /// Reads what an earlier process kept. What can't be read is as if it hadn't been kept, and is said.
    pub fn load(state: StateDir) -> Self {
        let mut facts = BTreeMap::new();
        let names = state.list(DIR).unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "cannot see what manifests said before");
            Vec::new()
        });
        for name in names {
            let Some(file) = decode(&name) else { continue };
            let read = state.read(&path(&name)).and_then(|text| Ok(text.map(|text| serde_json::from_str(&text)).transpose()?));
            match read {
                Ok(read) => facts.extend(read.map(|read| (file, read))),
                Err(error) => tracing::warn!(name, error = format!("{error:#}"), "cannot read what a manifest said before"),
            }
        }
        Self { state, facts }
    }

    /// Whether every manifest has vanished since an earlier process: more likely a mount that isn't there yet than a wish.
    pub fn all_gone(&self, report: &Report) -> bool {
        !self.facts.is_empty() && report.files.is_empty() && report.unreadable.is_empty()
    }

    /// Adds what the files said that have been wrong ever since this process began, and says so of each. An object that
    /// another file has now is that file's.
    pub fn complete(&self, report: &mut Report) {
        let mut there: HashSet<_> = report.facts.iter().map(identity).collect();
        let missing: Vec<_> = self.facts.iter().filter(|(file, _)| never_right(report, file) && may_exist(report, file)).collect();
        for (file, facts) in missing {
            let is_empty = !report.errors.iter().any(|error| error.file == *file) && report.files.contains_key(file);
            report.errors.push(stays(file, is_empty));
            report.facts.extend(facts.iter().filter(|fact| there.insert(identity(fact))).cloned());
        }
    }

    /// The fleet as it was when everything was right, as far as its files are still there: what clusters that are
    /// rejected in the first round were before.
    pub fn fleet(&self, settings: &Settings, report: &Report) -> Fleet {
        let there = self.facts.iter().filter(|(file, _)| may_exist(report, file));
        let facts: Vec<Fact> = there.flat_map(|(_, facts)| facts).cloned().collect();
        intake(settings, &facts, None).fleet
    }

    /// Keeps what a round accepted, and forgets files that are gone. Returns what couldn't be written.
    pub fn keep(&mut self, settings: &Settings, report: &Report, findings: &[Finding]) -> Vec<String> {
        let rejected: BTreeSet<(&str, &str)> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Rejected)
            .filter_map(|finding| Some((file_of(finding)?, finding.object.as_str())))
            .collect();
        let mut failed = Vec::new();
        let right = report.files.iter().filter(|(file, manifest)| manifest.is_good && !never_right(report, file));
        for file in right.map(|(file, _)| file) {
            let before = self.facts.get(file).map(Vec::as_slice).unwrap_or_default();
            let of_file = report.facts.iter().filter(|fact| fact.meta().origin.file.as_ref() == Some(file));
            let kept = |fact: &Fact| {
                if rejected.contains(&(file.as_str(), object(settings, fact).as_str())) {
                    return before.iter().find(|old| identity(old) == identity(fact)).cloned();
                }
                Some(fact.clone())
            };
            let facts: Vec<Fact> = of_file.filter_map(kept).collect();
            failed.extend(self.set(file, facts).err().map(|error| format!("{error:#}")));
        }
        let gone: Vec<String> = self.facts.keys().filter(|file| !may_exist(report, file)).cloned().collect();
        failed.extend(gone.iter().filter_map(|file| Some(format!("{:#}", self.set(file, Vec::new()).err()?))));
        failed
    }

    /// Forgets a cluster that was removed.
    ///
    /// # Errors
    /// The state directory can't be written.
    pub fn forget(&mut self, cluster: &ClusterName) -> anyhow::Result<()> {
        let files: Vec<String> = self.facts.keys().cloned().collect();
        for file in files {
            let facts = self.facts.get(&file).into_iter().flatten();
            let others = facts.filter(|fact| !matches!(fact, Fact::Service(service) if service.meta.name == cluster.as_str()));
            let others = others.cloned().collect();
            self.set(&file, others)?;
        }
        Ok(())
    }

    /// What a file's objects are from now on; none: nothing is kept of it.
    fn set(&mut self, file: &str, facts: Vec<Fact>) -> anyhow::Result<()> {
        if self.facts.get(file).map(Vec::as_slice).unwrap_or_default() == facts {
            return Ok(());
        }
        let Some(name) = encode(file) else { return Ok(()) };
        if facts.is_empty() {
            self.state.remove(&path(&name))?;
            self.facts.remove(file);
        } else {
            self.state.write(&path(&name), &serde_json::to_string_pretty(&facts)?)?;
            self.facts.insert(file.to_owned(), facts);
        }
        Ok(())
    }
}

fn path(name: &str) -> String {
    format!("{DIR}/{name}")
}

fn identity(fact: &Fact) -> (&'static str, Option<String>, String) {
    let (kind, namespace, name) = manifest::identity(fact);
    (kind, namespace.map(str::to_owned), name.to_owned())
}

/// An object as findings name it.
fn object(settings: &Settings, fact: &Fact) -> String {
    let meta = fact.meta();
    format!("{} {}/{}", fact.kind(), meta.namespace.as_deref().unwrap_or(&settings.namespace), meta.name)
}

/// Whether a file has said nothing since this process began: it can't be read, or is blank, as many writers leave it for a
/// moment.
fn never_right(report: &Report, file: &str) -> bool {
    let good = report.files.get(file).and_then(|manifest| manifest.good.as_ref());
    good.is_none_or(|text| text.trim_ascii().is_empty())
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
