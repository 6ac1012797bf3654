//! How commands speak: results on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use anyhow::Context;
use atlas_core::manifest::ManifestError;
use atlas_core::text;
use atlas_core::validate::{Finding, Severity};
use serde::Serialize;

use super::Outcome;

/// Prints what people read: whatever is in it, nothing of it is hidden, or moves the cursor.
///
/// # Errors
/// As [`print`].
pub fn show(text: &str) -> anyhow::Result<()> {
    print(&text::lines(text))
}

/// Prints JSON, of which the same holds.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&text::json(&(serde_json::to_string_pretty(value)? + "\n")))
}

/// Says something on standard error, as [`show`] does.
pub fn say(what: impl Display) {
    eprintln!("{}", text::lines(&what.to_string()));
}

/// Prints a result as it is: a file for a program. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// Standard output can't be written, e.g. because a disk is full.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Standard error as the log writes to it: one event at a time, whatever of it comes from elsewhere.
pub struct Log(Box<dyn Fn(&str) -> String>);

impl Log {
    /// Lines for people.
    pub fn text(colours: bool) -> Self {
        Self(Box::new(move |line| text::log_line(line, colours)))
    }

    /// Objects for programs.
    pub fn json() -> Self {
        Self(Box::new(|line| text::json(line).into_owned()))
    }
}

impl Write for Log {
    /// Takes it all: the log hands over each event at once.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        std::io::stderr().write_all(self.0(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A mistake in how the command was called, found only after parsing: it ends with exit code 2, like those clap finds.
pub fn wrong_usage(message: impl std::fmt::Display) -> anyhow::Error {
    clap::Error::raw(
        clap::error::ErrorKind::ValueValidation,
        format!("{message}\n\nFor more information, try '--help'.\n"),
    )
    .into()
}

/// Says on standard error what is wrong: every file that can't be read, and findings that are `least` or graver.
pub fn complain(errors: &[ManifestError], findings: &[Finding], least: Severity) -> Outcome {
    for error in errors {
        say(format_args!("not read: {error}"));
    }
    for finding in findings.iter().filter(|finding| finding.severity <= least) {
        say(format_args!("{}: {finding}", label(finding.severity)));
    }
    let rejected =
        !errors.is_empty() || findings.iter().any(|finding| finding.severity == Severity::Rejected);
    if rejected { Outcome::SomethingRejected } else { Outcome::Done }
}

fn label(severity: Severity) -> &'static str {
    match severity {
        Severity::Rejected => "rejected",
        Severity::FellBack => "fell back to the default",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}
