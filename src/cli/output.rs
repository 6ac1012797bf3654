//! What commands print: results on standard output, everything else on standard error.
//!
//! Text from elsewhere (names, messages of Envoys and API servers) is made safe for terminals by
//! [`atlas_core::text`].

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use anyhow::Context;
use atlas_core::manifest::ManifestError;
use atlas_core::text;
use atlas_core::validate::{Finding, Severity};
use serde::Serialize;

use super::Outcome;

/// Prints text for people, made safe for terminals.
///
/// # Errors
/// As [`print`].
pub fn show(text: &str) -> anyhow::Result<()> {
    print(&text::lines(text))
}

/// Prints JSON, made safe for terminals.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&text::json(&(serde_json::to_string_pretty(value)? + "\n")))
}

/// Prints text on standard error, made safe for terminals.
pub fn say(what: impl Display) {
    eprintln!("{}", text::lines(&what.to_string()));
}

/// Prints a result unchanged, for programs. That the reader has closed the pipe (`| head`) is no
/// error.
///
/// # Errors
/// Standard output can't be written, for example because a disk is full.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// The log's writer to standard error, which makes each event safe for terminals.
pub struct Log(Box<dyn Fn(&str) -> String>);

impl Log {
    /// Writes lines for people.
    pub fn text(colours: bool) -> Self {
        Self(Box::new(move |line| text::log_line(line, colours)))
    }

    /// Writes JSON objects.
    pub fn json() -> Self {
        Self(Box::new(|line| text::json(line).into_owned()))
    }
}

impl Write for Log {
    /// `event` is a whole event: tracing-subscriber writes each with one call.
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        std::io::stderr().write_all(self.0(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// An error in the command line that only shows after parsing. It ends with exit code 2, as those
/// that clap finds.
pub fn wrong_usage(message: impl std::fmt::Display) -> anyhow::Error {
    clap::Error::raw(
        clap::error::ErrorKind::ValueValidation,
        format!("{message}\n\nFor more information, try '--help'.\n"),
    )
    .into()
}

/// Prints on standard error every file that can't be read, and the findings of severity `least` or
/// graver.
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
