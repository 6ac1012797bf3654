//! The charts, rendered by Helm 4 and by Helm 3, which must give the same.
//!
//! ```text
//! charts/<chart> + tests/golden/charts/<chart>/<case>.in.yaml -> helm template -> <case>.out.yaml
//! ```
//!
//! The values of a case begin with comments: what the case is for, and after `# helm:` the name of
//! the release and further flags of `helm template`. `UPDATE_GOLDEN=1` writes what Helm 4 renders,
//! and deletes files that belong to no case.
//!
//! Helm only renders here. Nothing is installed, and no API server is asked.

mod golden;
mod kube;
mod labels;
mod objects;
mod parent;
mod refused;
mod rules;
#[path = "../../core/tests/it/update_golden.rs"]
mod update_golden;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::parts::{self, Part};
use serde_yaml_ng::Value;

/// The Helms that must render the charts in the same way.
const HELMS: [Part; 2] = [Part::Helm, Part::Helm3];
/// The version of Kubernetes for which Helm renders. The default of Helm 3 is an old one.
const KUBERNETES: &str = "1.36.3";
/// The charts.
const CHARTS: [&str; 2] = ["atlas", "envoy"];

/// The values of a chart in `tests/golden/charts`.
struct Case {
    chart: &'static str,
    name: String,
    values: PathBuf,
    /// Release name, then flags of `helm template`.
    arguments: Vec<String>,
}

impl Case {
    /// What `helm` renders.
    fn render(&self, helm: Part) -> Result<String> {
        self.render_with(helm, &self.arguments, &[])
    }

    /// All objects, even if the case's golden file shows some templates only.
    fn objects(&self, extra: &[&str]) -> Result<Vec<Value>> {
        let mut arguments = Vec::new();
        let mut given = self.arguments.iter();
        while let Some(argument) = given.next() {
            if argument == "--show-only" {
                given.next();
            } else {
                arguments.push(argument.clone());
            }
        }
        objects(&self.render_with(Part::Helm, &arguments, extra)?)
    }

    fn render_with(&self, helm: Part, arguments: &[String], extra: &[&str]) -> Result<String> {
        let values = self.values.to_str().context("BUG: the checkout's path is not UTF-8")?;
        let all: Vec<_> = arguments
            .iter()
            .map(String::as_str)
            .chain(["--values", values])
            .chain(extra.iter().copied())
            .collect();
        template(helm, self.chart, &all)
    }

    fn golden(&self) -> PathBuf {
        self.values.with_file_name(format!("{}.out.yaml", self.name))
    }
}

/// Every case of `chart`, by name.
fn cases(chart: &'static str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(root().join("tests/golden/charts").join(chart))? {
        let values = entry?.path();
        let name = values
            .file_name()
            .and_then(|name| name.to_str())
            .context("BUG: a golden's name is not UTF-8")?;
        let Some(name) = name.strip_suffix(".in.yaml").map(str::to_owned) else { continue };
        let text = std::fs::read_to_string(&values)?;
        let line = text.lines().find_map(|line| line.strip_prefix("# helm: "));
        let line = line.with_context(|| {
            format!("{} has no line \"# helm: RELEASE [FLAG…]\"", values.display())
        })?;
        let arguments = line.split_whitespace().map(str::to_owned).collect();
        cases.push(Case { chart, name, values, arguments });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

/// The case `name` of `chart`.
fn case(chart: &'static str, name: &str) -> Result<Case> {
    cases(chart)?
        .into_iter()
        .find(|case| case.name == name)
        .with_context(|| format!("there is no case {chart}/{name}"))
}

/// `helm template` of one of the project's charts, whose first argument is the name of the release.
///
/// # Errors
/// What Helm writes to its standard error.
fn template(helm: Part, chart: &str, arguments: &[&str]) -> Result<String> {
    template_at(helm, &root().join("charts").join(chart), arguments)
}

/// The same for a chart in any directory. The first argument is the name of the release.
fn template_at(helm: Part, chart: &Path, arguments: &[&str]) -> Result<String> {
    let (release, flags) = arguments.split_first().context("BUG: no release")?;
    let output = run(
        helm,
        &["template", release, &chart.to_string_lossy(), "--kube-version", KUBERNETES],
        flags,
    )?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(tidy(&String::from_utf8(output.stdout)?))
}

/// Runs `helm` without the user's own settings.
fn run(helm: Part, arguments: &[&str], more: &[&str]) -> Result<Output> {
    let program = parts::get(helm)?;
    let home = tempfile::tempdir()?;
    let mut command = Command::new(&program);
    command.args(arguments).args(more).env("KUBECONFIG", "/dev/null");
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.path());
    }
    command.output().with_context(|| format!("cannot start {}", program.display()))
}

/// Removes the blank lines that only Helm 4 puts between documents.
fn tidy(text: &str) -> String {
    let documents: Vec<_> = text.split("\n---\n").map(str::trim_end).collect();
    format!("{}\n", documents.join("\n---\n"))
}

/// The objects in a rendered text.
fn objects(text: &str) -> Result<Vec<Value>> {
    use serde::Deserialize;
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let all: Vec<_> = documents.collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(|object| !object.is_null()).collect())
}

/// What lies at `path`, whose steps are separated by slashes; null where nothing does.
fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('/').fold(object, |value, step| match step.parse::<usize>() {
        Ok(index) if value.is_sequence() => value.get(index).unwrap_or(&Value::Null),
        _ => value.get(step).unwrap_or(&Value::Null),
    })
}

/// The text at `path`; empty where there is none.
fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).as_str().unwrap_or_default()
}

/// The list at `path`; empty where there is none.
fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path).as_sequence().map_or(&[], Vec::as_slice)
}

/// The object of this kind and name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects
        .iter()
        .find(|object| text(object, "kind") == kind && text(object, "metadata/name") == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The checkout.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
