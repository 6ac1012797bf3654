//! `cargo xtask licences`: checks the licences of all crates of Atlas and its tests.
//!
//! ```text
//! cargo metadata ─▶ every crate of this platform ─▶ its SPDX expression ─▶ checked against ALLOWED
//! ```
//!
//! It uses cargo only, offline, since a built workspace has all crates of the lock file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use spdx::{Expression, LicenseReq, ParseMode};

/// The platform that Atlas is built for. Crates of other platforms aren't downloaded.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// The allowed licences, each with the reason. All are permissive and compatible with Apache-2.0.
const ALLOWED: &[(&str, &str)] = &[
    ("Apache-2.0", "Atlas's own"),
    ("MIT", "asks for its notice only"),
    ("BSD-3-Clause", "asks for its notice only: subtle, and parts of matchit"),
    ("ISC", "asks for its notice only: ring, rustls-webpki, inotify"),
    ("Unicode-3.0", "asks for its notice only: Unicode's tables, in icu and unicode-ident"),
    ("Zlib", "asks for no notice in binaries: foldhash, in kube"),
    ("Apache-2.0 WITH LLVM-exception", "Apache-2.0, and asks for less: ar_archive_writer, in kube"),
    ("CC0-1.0", "a waiver of all rights, but of no patents: notify, which has none to grant"),
];

/// A crate of cargo's metadata.
#[derive(Debug)]
struct Package {
    /// Name and version.
    title: String,
    /// Its SPDX expression, if it has one.
    licence: Option<String>,
    /// Its `Cargo.toml`.
    manifest: String,
}

/// All crates that are built, by cargo's id, and their dependencies.
#[derive(Debug)]
struct Graph {
    packages: BTreeMap<String, Package>,
    needs: BTreeMap<String, Vec<String>>,
    members: Vec<String>,
}

/// Checks every crate, and prints how many there are.
///
/// # Errors
/// A crate's licence isn't allowed (the error has its dependants and its directory), or cargo
/// fails.
pub fn run() -> Result<()> {
    let graph = Graph::of(&metadata()?)?;
    let offences = graph.offences(&allowed());
    ensure!(offences.is_empty(), "{}", complaint(&offences));
    println!(
        "{} crates, all under licences that Atlas may use: {}",
        graph.packages.len(),
        allowed().into_iter().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

fn allowed() -> BTreeSet<&'static str> {
    ALLOWED.iter().map(|(licence, _)| *licence).collect()
}

fn complaint(offences: &[String]) -> String {
    format!(
        "{} crates have a licence that isn't allowed:\n{}\nchoose another crate, or allow the licence in xtask/src/licences.rs and say why",
        offences.len(),
        offences.join("\n")
    )
}

/// Cargo's metadata of the workspace and its dependencies.
fn metadata() -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            PLATFORM,
        ])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!(
            "cargo metadata: {reason}\nif crates are missing here: cargo fetch --locked --target {PLATFORM}"
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

impl Graph {
    fn of(metadata: &Value) -> Result<Self> {
        let nodes = metadata["resolve"]["nodes"]
            .as_array()
            .context("cargo metadata has no resolve.nodes")?;
        let needs: BTreeMap<String, Vec<String>> =
            nodes.iter().map(|node| (text(&node["id"]), texts(&node["dependencies"]))).collect();
        let described =
            metadata["packages"].as_array().context("cargo metadata has no packages")?;
        // Packages of other platforms are listed too, but nothing depends on them.
        let packages = described.iter().map(|package| (text(&package["id"]), Package::of(package)));
        let packages = packages.filter(|(id, _)| needs.contains_key(id)).collect();
        Ok(Self { packages, needs, members: texts(&metadata["workspace_members"]) })
    }

    /// A line for every crate whose licence isn't in `allowed`.
    fn offences(&self, allowed: &BTreeSet<&str>) -> Vec<String> {
        let wrong = self
            .packages
            .iter()
            .filter_map(|(id, package)| Some((id, package, package.problem(allowed)?)));
        wrong
            .map(|(id, package, why)| {
                format!(
                    "  - {}: {why}\n    {}\n    {}",
                    package.title,
                    self.way_to(id),
                    package.manifest
                )
            })
            .collect()
    }

    /// The shortest dependency path from a crate of the workspace: `atlas 0.4.0 → axum 0.8.0 →
    /// matchit 0.8.4`.
    fn way_to(&self, wanted: &str) -> String {
        let mut ways: VecDeque<Vec<&str>> =
            self.members.iter().map(|id| vec![id.as_str()]).collect();
        let mut seen: BTreeSet<&str> = self.members.iter().map(String::as_str).collect();
        while let Some(way) = ways.pop_front() {
            let last = way.last().copied().unwrap_or_default();
            if last == wanted {
                let titles = way
                    .iter()
                    .map(|id| self.packages.get(*id).map_or(*id, |package| package.title.as_str()));
                return titles.collect::<Vec<_>>().join(" → ");
            }
            for next in self.needs.get(last).into_iter().flatten().filter(|next| seen.insert(next))
            {
                ways.push_back([way.as_slice(), &[next.as_str()]].concat());
            }
        }
        "nobody needs it".into()
    }
}

impl Package {
    fn of(package: &Value) -> Self {
        Self {
            title: format!("{} {}", text(&package["name"]), text(&package["version"])),
            licence: package["license"].as_str().map(str::to_owned),
            manifest: text(&package["manifest_path"]),
        }
    }

    /// Why it must not be used; `None`: it may.
    fn problem(&self, allowed: &BTreeSet<&str>) -> Option<String> {
        let Some(licence) = &self.licence else { return Some("names no licence".into()) };
        // Lax mode accepts `MIT/Apache-2.0`, an older notation of `OR`.
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Err(error) => Some(format!("{licence:?} is no SPDX expression: {}", error.reason)),
            Ok(expression) => {
                (!expression.evaluate(|req| permits(allowed, req))).then(|| licence.clone())
            }
        }
    }
}

/// Exceptions (`WITH …`) change a licence's terms, so they need their own entry.
fn permits(allowed: &BTreeSet<&str>, req: &LicenseReq) -> bool {
    allowed.contains(req.to_string().as_str())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_dependency_has_an_allowed_licence() {
        let offences = Graph::of(&metadata().unwrap()).unwrap().offences(&allowed());
        assert!(offences.is_empty(), "{}", complaint(&offences));
    }

    #[test]
    fn no_licence_is_allowed_that_nobody_needs() {
        let graph = Graph::of(&metadata().unwrap()).unwrap();
        for (licence, why) in ALLOWED {
            assert!(Expression::parse(licence).is_ok() && !why.is_empty(), "{licence}");
            let others = allowed().into_iter().filter(|other| other != licence).collect();
            assert!(
                !graph.offences(&others).is_empty(),
                "{licence} is allowed, and everything is fine without"
            );
        }
    }

    #[test]
    fn expressions_are_evaluated_and_not_compared() {
        let allowed = BTreeSet::from(["MIT", "Apache-2.0"]);
        let problem = |licence: &str| {
            Package { title: "x 1".into(), licence: Some(licence.into()), manifest: "x".into() }
                .problem(&allowed)
        };
        for fine in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "MIT AND (Apache-2.0 OR Zlib)",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert_eq!(problem(fine), None, "{fine}");
        }
        for wrong in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "Apache-2.0 WITH LLVM-exception",
            "LicenseRef-own",
            "free",
        ] {
            assert!(problem(wrong).is_some_and(|problem| problem.contains(wrong)), "{wrong}");
        }
    }

    #[test]
    fn an_offender_is_named_with_the_way_to_it() {
        let package = |name: &str, licence: Value| json!({"id": name, "name": name, "version": "1.0.0", "license": licence, "manifest_path": format!("/{name}/Cargo.toml")});
        let node = |id: &str, needs: &[&str]| json!({"id": id, "dependencies": needs});
        let metadata = json!({
            "packages": [package("atlas", json!("MIT")), package("a", json!("MIT")), package("b", json!("SSPL-1.0")), package("c", Value::Null), package("d", json!("SSPL-1.0"))],
            "resolve": {"nodes": [node("atlas", &["a", "c"]), node("a", &["b"]), node("b", &[]), node("c", &[])]},
            "workspace_members": ["atlas"],
        });
        let offences = Graph::of(&metadata).unwrap().offences(&BTreeSet::from(["MIT"]));
        assert_eq!(
            offences,
            [
                "  - b 1.0.0: SSPL-1.0\n    atlas 1.0.0 → a 1.0.0 → b 1.0.0\n    /b/Cargo.toml",
                "  - c 1.0.0: names no licence\n    atlas 1.0.0 → c 1.0.0\n    /c/Cargo.toml",
            ]
        );
    }
}
