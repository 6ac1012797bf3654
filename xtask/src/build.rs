//! Builds programs of this checkout.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A cargo profile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As for tests: fast to build.
    Dev,
    /// As it is deployed, for measurements.
    Release,
}

/// Builds a package and returns the path of its program of the same name.
pub fn program(package: &str, profile: Profile) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (how, patience) = match profile {
        Profile::Dev => ("", "some two minutes"),
        Profile::Release => (" with --release", "some six minutes on two cores"),
    };
    eprintln!("building {package}{how} (the first time takes {patience})");
    let output = Command::new(cargo)
        .current_dir(&root)
        .args(["build", "--package", package, "--message-format", "json-render-diagnostics"])
        .args((profile == Profile::Release).then_some("--release"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "{package} doesn't build");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut program = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == package)
            .then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    });
    program.next().with_context(|| format!("cargo built no program called {package}"))
}
