//! How commands speak: results on standard output, everything else on standard error.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use atlas_core::intake::{Finding, Severity};
use atlas_core::manifest::ManifestError;

use super::Outcome;

/// Prints a result. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// Standard output can't be written, e.g. because a disk is full.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

/// A mistake in how the command was called, found only after parsing: it ends with exit code 2, like those clap finds.
pub fn wrong_usage(message: impl std::fmt::Display) -> anyhow::Error {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{message}\n\nFor more information, try '--help'.\n")).into()
}

/// Says on standard error what is wrong: every file that can't be read, and findings that are `least` or graver.
pub fn complain(errors: &[ManifestError], findings: &[Finding], least: Severity) -> Outcome {
    for error in errors {
        eprintln!("not read: {error}");
    }
    for finding in findings.iter().filter(|finding| finding.severity <= least) {
        eprintln!("{}: {finding}", label(finding.severity));
    }
    let rejected = !errors.is_empty() || findings.iter().any(|finding| finding.severity == Severity::Rejected);
    if rejected { Outcome::SomethingRejected } else { Outcome::Done }
}

fn label(severity: Severity) -> &'static str {
    match severity {
        Severity::Rejected => "rejected",
        Severity::FellBack => "fell back to the default",
        Severity::Note => "note",
    }
}
