//! Builds the static program reproducibly: the same source gives the same bytes in any directory.
//!
//! Otherwise a program contains paths of its machine: of the checkout, of cargo's crates, of the
//! toolchain. They are replaced by neutral names, and symbols are stripped.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::pack::PROGRAM;
use super::platform::Platform;

/// The profile's name, which is also a directory under `target/`.
const PROFILE: &str = "dist";
/// The profile's settings. They are here and not in `Cargo.toml`, to have all settings of the image
/// in one place.
const SETTINGS: &[&str] = &[
    "inherits = \"release\"",
    // Symbols contain paths, and are half of the size.
    "strip = \"symbols\"",
    // One unit per crate gives a smaller program.
    "codegen-units = 1",
    "incremental = false",
];

/// The checkout to build, and the environment.
#[derive(Debug, Clone)]
pub struct Place {
    /// The checkout.
    pub source: PathBuf,
    /// Variables for cargo beside this process's environment.
    pub environment: BTreeMap<&'static str, OsString>,
}

/// The result of a build.
#[derive(Debug)]
pub struct Built {
    pub program: Vec<u8>,
    /// Cargo's ids of the packages that were compiled for the target, so are in the program.
    pub packages: BTreeSet<String>,
    /// Paths of this machine, which must not be in the program.
    pub paths: Vec<PathBuf>,
}

/// The toolchain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// This machine's triple.
    pub host: String,
    pub version: String,
    commit: String,
    sysroot: PathBuf,
}

impl Toolchain {
    /// # Errors
    /// rustc cannot be started.
    pub fn of(place: &Place) -> Result<Self> {
        let told = run(place.command("rustc").args(["-vV"]))?;
        let field = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned).with_context(|| format!("rustc -vV names no {name}"))
        };
        let sysroot = run(place.command("rustc").args(["--print", "sysroot"]))?.trim().into();
        Ok(Self {
            host: field("host")?,
            version: field("release")?,
            commit: field("commit-hash")?,
            sysroot,
        })
    }

    /// # Errors
    /// The standard library for the platform isn't installed.
    pub fn check_target(&self, platform: &Platform) -> Result<()> {
        let dir = self.sysroot.join("lib/rustlib").join(&platform.triple).join("lib");
        ensure!(
            dir.is_dir(),
            "--target {0}: Rust's standard library for it is not installed ({1} is missing): rustup target add {0}",
            platform.triple,
            dir.display()
        );
        Ok(())
    }
}

impl Place {
    /// This checkout, without further variables.
    pub fn here() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let source =
            root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
        Ok(Self { source, environment: BTreeMap::new() })
    }

    /// Cargo's metadata of the workspace and its dependencies on that platform.
    ///
    /// # Errors
    /// Cargo's, e.g. that the lock file is not up to date.
    pub fn metadata(&self, platform: &Platform) -> Result<Value> {
        let told = run(self.command("cargo").args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            &platform.triple,
        ]))?;
        serde_json::from_str(&told).context("cargo metadata printed no JSON")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The caller's profile settings would change the program.
        for (name, _) in std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PROFILE_"))
        {
            command.env_remove(name);
        }
        command.current_dir(&self.source).envs(&self.environment).stdin(Stdio::null());
        command
    }
}

/// Builds the program for one platform. Cargo's progress goes to stderr.
///
/// # Errors
/// The build fails, or gives no program.
pub fn build(
    place: &Place,
    platform: &Platform,
    toolchain: &Toolchain,
    metadata: &Value,
) -> Result<Built> {
    let paths = paths(place, toolchain, metadata)?;
    let mut flags: Vec<OsString> = vec!["-Ctarget-feature=+crt-static".into()];
    for (path, name) in &paths {
        let mut flag = OsString::from("--remap-path-prefix=");
        for part in [path.as_os_str(), "=".as_ref(), name.as_ref()] {
            flag.push(part);
        }
        flags.push(flag);
    }
    let mut cargo = place.command("cargo");
    cargo.args([
        "build",
        "--locked",
        "--package",
        "atlas",
        "--bin",
        PROGRAM,
        "--target",
        &platform.triple,
        "--profile",
        PROFILE,
    ]);
    for setting in SETTINGS {
        cargo.arg("--config").arg(format!("profile.{PROFILE}.{setting}"));
    }
    // The variable overrides flags of cargo's configuration files, which differ between machines.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\u{1f}")));
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo build for {0} failed, see above; another architecture needs its linker and C compiler: CARGO_TARGET_{1}_LINKER and CC_{2}",
        platform.triple,
        platform.triple.to_uppercase().replace('-', "_"),
        platform.triple.replace('-', "_"),
    );
    let (program, packages) =
        artifacts(&String::from_utf8_lossy(&output.stdout), &platform.triple)?;
    let program =
        fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    Ok(Built { program, packages, paths: paths.into_iter().map(|(path, _)| path).collect() })
}

/// Directories of this machine, each with its neutral name. Later ones take precedence, so inner
/// directories come last.
fn paths(place: &Place, toolchain: &Toolchain, metadata: &Value) -> Result<Vec<(PathBuf, String)>> {
    let mut paths = vec![(place.source.clone(), "/atlas".to_owned())];
    for key in ["target_directory", "build_directory"] {
        paths.extend(metadata[key].as_str().map(|path| (path.into(), "/target".to_owned())));
    }
    // The directories of unpacked crates: in cargo's home or in a vendored directory.
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let foreign = packages.iter().filter(|package| !package["source"].is_null());
    let manifests = foreign
        .filter_map(|package| Path::new(package["manifest_path"].as_str()?).parent()?.parent());
    let sources: BTreeSet<&Path> = manifests.collect();
    paths.extend(sources.into_iter().map(|path| (path.to_owned(), "/crates".to_owned())));
    // The name that the precompiled standard library uses.
    paths.push((toolchain.sysroot.clone(), "/rust".to_owned()));
    paths.push((
        toolchain.sysroot.join("lib/rustlib/src/rust"),
        format!("/rustc/{}", toolchain.commit),
    ));
    Ok(paths)
}

/// The program and its packages, from cargo's messages. What runs during the build, such as
/// procedural macros, is not in the target's directory.
fn artifacts(messages: &str, triple: &str) -> Result<(PathBuf, BTreeSet<String>)> {
    let (mut program, mut packages) = (None, BTreeSet::new());
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line)
            .context("cargo build printed something else than its messages")?;
        let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut files = files
            .filter(|file| Path::new(file).components().any(|part| part.as_os_str() == triple));
        if message["reason"] != "compiler-artifact" || files.next().is_none() {
            continue;
        }
        packages.extend(message["package_id"].as_str().map(str::to_owned));
        if message["target"]["name"] == PROGRAM && message["target"]["kind"][0] == "bin" {
            program = message["executable"].as_str().map(PathBuf::from);
        }
    }
    Ok((program.context("cargo build made no program")?, packages))
}

/// Runs a command and returns its standard output.
fn run(command: &mut Command) -> Result<String> {
    let title = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {title}"))?;
    if !output.status.success() {
        bail!("{title}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{title} printed no text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_target_that_is_not_installed_is_named_with_how_to_get_it() {
        let toolchain = Toolchain::of(&Place::here().unwrap()).unwrap();
        if let Ok(here) = Platform::of(&toolchain.host) {
            toolchain.check_target(&here).unwrap();
        }
        let nowhere = Toolchain { sysroot: "/nonexistent".into(), ..toolchain };
        let error = nowhere
            .check_target(&Platform::of("s390x-unknown-linux-gnu").unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("rustup target add s390x-unknown-linux-gnu"), "{error}");
    }

    #[test]
    fn what_runs_in_the_build_only_is_not_in_the_program() {
        let message = |id: &str, kind: &str, file: &str| {
            let (name, executable) =
                if kind == "bin" { ("atlas", Some(file)) } else { ("x", None) };
            let target = json!({ "name": name, "kind": [kind] });
            let (reason, files) = ("compiler-artifact", [file]);
            json!({ "reason": reason, "package_id": id, "target": target, "filenames": files, "executable": executable }).to_string()
        };
        let messages = [
            message("macro", "proc-macro", "/t/dist/deps/libm.so"),
            message("lib", "lib", "/t/a-b-linux-gnu/dist/deps/libl.rlib"),
            message("both", "custom-build", "/t/dist/build/x"),
            message("atlas", "bin", "/t/a-b-linux-gnu/dist/atlas"),
            "{\"reason\":\"build-finished\",\"success\":true}".into(),
        ];
        let (program, packages) = artifacts(&messages.join("\n"), "a-b-linux-gnu").unwrap();
        assert_eq!(program, Path::new("/t/a-b-linux-gnu/dist/atlas"));
        assert_eq!(packages, ["atlas".to_owned(), "lib".to_owned()].into());
    }
}
