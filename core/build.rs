//! Finds the descriptor set that envoy-types ships (`src/generated/types.bin`) and tells the crate where it lies, as
//! `ENVOY_DESCRIPTORS`: [`atlas_core::render`] needs the names of fields, which the generated messages don't carry.
//!
//! Cargo tells a build script nothing of where its crate's dependencies are, so this looks where cargo unpacks them, and
//! else asks `cargo metadata`.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a build script is an edge")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

/// The crate that has the descriptor set, and where in it.
const CRATE: &str = "envoy-types";
const FILE: &str = "src/generated/types.bin";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    match descriptors() {
        Ok(file) => {
            println!("cargo::rerun-if-changed={}", file.display());
            println!("cargo::rustc-env=ENVOY_DESCRIPTORS={}", file.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("cargo::error={}", error.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn descriptors() -> Result<PathBuf, String> {
    let file = match registry() {
        Some(file) => file,
        None => manifest(&metadata()?)?.with_file_name("").join(FILE),
    };
    if file.is_file() { Ok(file) } else { Err(format!("{CRATE} has no {FILE} any more ({}): look where it is now", file.display())) }
}

/// Where cargo unpacks crates of a registry, for the version in the lock file.
fn registry() -> Option<PathBuf> {
    let lock = std::fs::read_to_string(Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).join("../Cargo.lock")).ok()?;
    let (_, package) = lock.split_once(&format!("name = \"{CRATE}\"\nversion = \""))?;
    let (version, _) = package.split_once('"')?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    let file = |registry: std::fs::DirEntry| registry.path().join(format!("{CRATE}-{version}")).join(FILE);
    registries.flatten().map(file).find(|file| file.is_file())
}

/// Asks cargo, which knows vendored sources too. It wants every dependency, those of tests included, so it may go online.
fn metadata() -> Result<Value, String> {
    let variable = |name: &str| std::env::var_os(name).ok_or_else(|| format!("{name} is not set: run this by cargo"));
    let output = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        // Without it cargo wants the crates of every other platform too, which nobody has downloaded.
        .arg("--filter-platform")
        .arg(variable("TARGET")?)
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata printed no JSON: {error}"))
}

/// The path of the crate's `Cargo.toml`.
fn manifest(metadata: &Value) -> Result<PathBuf, String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found: Vec<&Value> = packages.iter().filter(|package| package["name"] == CRATE).collect();
    match found.as_slice() {
        [package] => package["manifest_path"].as_str().map(PathBuf::from).ok_or_else(|| format!("cargo metadata gives {CRATE} no path")),
        _ => Err(format!("there are {} versions of {CRATE}, where one is needed", found.len())),
    }
}
