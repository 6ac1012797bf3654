//! Builds the web pages of Go modules that contain only the pages' JavaScript sources.
//!
//! ```text
//! go.sum ─▶ module in Go's cache ─▶ a copy ─▶ pages by pnpm or npm (Part::Node)
//!                                        └▶ go.mod with `replace`
//! ```
//!
//! The module is copied, since Go's cache is read-only and Go doesn't allow overlays of it. Go has
//! verified the module against `go.sum`; the packages are verified against a lock file:
//! Prometheus's own, which is in its module, or one in `peers/`. No package's install script runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cache::{Bench, pin};
use super::{Part, tool};

/// Pages of a Go program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pages {
    /// Prometheus's, built by its own script with its own lock file.
    Prometheus,
    /// Alertmanager's new ones, at `/ui/`. The older ones, at `/`, are written in Elm, whose
    /// compiler gets its packages from its own site only.
    Alertmanager,
}

/// The Go file that embeds Prometheus's pages; its build tag is `builtinassets`.
const EMBED: &str = "package ui\n\nimport \"embed\"\n\n//go:embed static\nvar EmbedFS embed.FS\n";

/// The lock file of Alertmanager's pages, in the directory of its part.
const ALERTMANAGERS: [&str; 2] = ["ui/package.json", "ui/package-lock.json"];

impl Pages {
    /// Inputs of the cache key, beside Node.js and the pins of the module in `peers/DIRECTORY`.
    pub fn inputs(self, directory: &str) -> Result<Vec<Vec<u8>>> {
        match self {
            Pages::Prometheus => Ok(vec![EMBED.as_bytes().to_vec()]),
            Pages::Alertmanager => {
                ALERTMANAGERS.iter().map(|file| pin(&format!("{directory}/{file}"))).collect()
            }
        }
    }

    fn module(self) -> &'static str {
        match self {
            Pages::Prometheus => "github.com/prometheus/prometheus",
            Pages::Alertmanager => "github.com/prometheus/alertmanager",
        }
    }

    /// Builds the pages in a copy of the module that `directory` pins. Returns the path of a
    /// `go.mod` that names the copy, with its `go.sum`.
    pub fn make(self, bench: &Bench, directory: &Path, still: &str) -> Result<PathBuf> {
        let node = super::get(Part::Node)?;
        let node = node.ancestors().nth(2).context("BUG: node is not in bin")?;
        let copy = copy_of_module(bench, directory, self.module(), still)?;
        let run = |command: &mut Command| tool::run(command, &bench.log, still);
        match self {
            Pages::Prometheus => {
                let ui = copy.join("web/ui");
                let node_program = |program: &str| {
                    let mut command = Command::new(program);
                    tool::with_node(&mut command, node, &ui, &bench.work);
                    command
                };
                // The pages and the two packages that they need. The pages of Prometheus 2 are
                // another tree.
                let only = ["--filter", "@prometheus-io/mantine-ui..."];
                run(node_program("pnpm")
                    .args(["install", "--frozen-lockfile", "--ignore-scripts"])
                    .args(only))?;
                run(node_program("bash").args(["build_ui.sh", "--mantine-ui"]))?;
                fs::write(ui.join("embed.go"), EMBED).context("cannot write embed.go")?;
            }
            Pages::Alertmanager => {
                let ui = copy.join("ui/mantine-ui");
                tool::copy_npm_pins(&directory.join("ui"), &ui)?;
                run(&mut tool::npm_ci(node, &ui, &bench.work))?;
                let mut vite = Command::new("node");
                tool::with_node(&mut vite, node, &ui, &bench.work);
                run(vite.args(["node_modules/vite/bin/vite.js", "build"]))?;
            }
        }
        replaced(bench, directory, self.module(), &copy)
    }
}

/// Copies the module out of Go's cache, which fetches and verifies it if necessary.
fn copy_of_module(bench: &Bench, directory: &Path, module: &str, still: &str) -> Result<PathBuf> {
    tool::run(tool::go_in(directory).args(["mod", "download", module]), &bench.log, still)?;
    let listed = tool::go_in(directory)
        .args(["list", "-m", "-f", "{{.Dir}}", module])
        .output()
        .context("cannot run go")?;
    let from = String::from_utf8(listed.stdout).context("the path of Go's cache is not UTF-8")?;
    ensure!(
        listed.status.success() && !from.trim().is_empty(),
        "go does not say where it keeps {module}"
    );
    let copy = bench.work.join("module");
    // Go's cache is read-only, and so would be a copy with its modes.
    let mut cp = Command::new("cp");
    cp.args(["--recursive", "--no-preserve=mode", from.trim()]).arg(&copy);
    tool::run(&mut cp, &bench.log, still)?;
    Ok(copy)
}

/// The pins of `directory`, with the module replaced by the copy.
fn replaced(bench: &Bench, directory: &Path, module: &str, copy: &Path) -> Result<PathBuf> {
    let pins = fs::read_to_string(directory.join("go.mod")).context("cannot read go.mod")?;
    let copy = copy.to_str().context("the path of the cache is not UTF-8")?;
    let file = bench.work.join("go.mod");
    fs::write(&file, format!("{pins}\nreplace {module} => {copy:?}\n"))
        .context("cannot write go.mod")?;
    fs::copy(directory.join("go.sum"), bench.work.join("go.sum")).context("cannot copy go.sum")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_part_of_the_cache_key() {
        assert_eq!(Pages::Prometheus.inputs("prometheus").unwrap().len(), 1);
        assert_eq!(Pages::Alertmanager.inputs("alertmanager-newest").unwrap().len(), 2);
    }

    #[test]
    fn every_package_is_pinned_by_a_checksum_and_no_registry_is_named() {
        for lock in ["node/package-lock.json", "alertmanager-newest/ui/package-lock.json"] {
            let lock: serde_json::Value = serde_json::from_slice(&pin(lock).unwrap()).unwrap();
            let packages = lock["packages"].as_object().unwrap();
            assert!(packages.len() > 1);
            for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
                assert!(
                    package["integrity"].is_string() && package["resolved"].is_null(),
                    "{name}: {package}"
                );
            }
        }
    }

    #[test]
    fn a_module_is_replaced_by_its_copy_and_keeps_its_other_pins() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("pins");
        fs::create_dir(&pins).unwrap();
        fs::write(pins.join("go.mod"), "module m\n\nrequire example.com/p v1.0.0\n").unwrap();
        fs::write(pins.join("go.sum"), "example.com/p v1.0.0 h1:x\n").unwrap();
        let work = directory.path().to_owned();
        let bench = Bench { part: work.join("part"), log: work.join("log"), work };
        let file = replaced(&bench, &pins, "example.com/p", Path::new("/a b/module")).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("module m\n")
                && text.ends_with("replace example.com/p => \"/a b/module\"\n"),
            "{text}"
        );
        assert!(file.with_file_name("go.sum").is_file());
    }
}
