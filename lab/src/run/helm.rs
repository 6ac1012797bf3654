//! Helm: charts rendered, checked and installed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::kube::{Kube, manifest};
use crate::parts::{self, Part};

/// Renders a chart with `part` ([`Part::Helm`] or [`Part::Helm3`]). `values`: YAML texts, of which
/// later ones override earlier ones. Returns the documents with hooks and tests, without notes.
///
/// # Errors
/// Helm rejects the chart or the values; the error has Helm's output.
pub fn helm_template(
    part: Part,
    chart: &Path,
    release: &str,
    namespace: &str,
    values: &[&str],
) -> Result<Vec<Value>> {
    manifest::parse(&helm_template_text(part, chart, release, namespace, values, &[])?)
}

/// [`helm_template`] with more arguments, such as `--show-only`. Returns Helm's output as text.
///
/// # Errors
/// As [`helm_template`].
pub fn helm_template_text(
    part: Part,
    chart: &Path,
    release: &str,
    namespace: &str,
    values: &[&str],
    more: &[&str],
) -> Result<String> {
    let mut helm = Helm::new(part)?;
    helm.command.args(["template", release]).arg(chart).args(["--namespace", namespace]).args(more);
    helm.values(values)?.run()
}

/// `helm lint --strict`: warnings are errors too.
///
/// # Errors
/// Helm finds an error or a warning; the error has Helm's output.
pub fn helm_lint(part: Part, chart: &Path, values: &[&str]) -> Result<String> {
    let mut helm = Helm::new(part)?;
    helm.command.args(["lint", "--strict"]).arg(chart);
    helm.values(values)?.run()
}

/// `helm upgrade --install`, from the API server's host. It doesn't wait, since without nodes no
/// Deployment gets ready.
///
/// # Errors
/// Helm or the API server rejects something.
pub fn helm_install(
    part: Part,
    kube: &Kube,
    chart: &Path,
    release: &str,
    namespace: &str,
    values: &[&str],
) -> Result<String> {
    let mut helm = Helm::new(part)?;
    helm.command.args(["upgrade", "--install", release]).arg(chart).args([
        "--namespace",
        namespace,
        "--create-namespace",
    ]);
    helm.values(values)?.run_with(kube)
}

/// `helm uninstall`, from the API server's host.
///
/// # Errors
/// There is no such release.
pub fn helm_uninstall(part: Part, kube: &Kube, release: &str, namespace: &str) -> Result<String> {
    let mut helm = Helm::new(part)?;
    helm.command.args(["uninstall", release, "--namespace", namespace]);
    helm.run_with(kube)
}

/// One call of Helm with its own directories, so that no plugins, repositories and settings of the
/// user are read.
struct Helm {
    part: Part,
    command: Command,
    home: TempDir,
}

impl Helm {
    fn new(part: Part) -> Result<Self> {
        ensure!(matches!(part, Part::Helm | Part::Helm3), "{part} is not Helm");
        let home = tempfile::tempdir().context("no directory for Helm")?;
        let mut command = Command::new(parts::get(part)?);
        for (variable, directory) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
            // A file that doesn't exist, so that Helm reaches no cluster unless a kubeconfig is
            // given.
            ("KUBECONFIG", "no-kubeconfig"),
        ] {
            command.env(variable, home.path().join(directory));
        }
        Ok(Self { part, command, home })
    }

    fn values(mut self, values: &[&str]) -> Result<Self> {
        for (number, text) in values.iter().enumerate() {
            let path = self.home.path().join(format!("values-{number}.yaml"));
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            self.command.arg("--values").arg(path);
        }
        Ok(self)
    }

    fn run(mut self) -> Result<String> {
        let output =
            self.command.output().with_context(|| format!("cannot start {}", self.part))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let arguments: Vec<_> = self.command.get_args().map(OsStr::to_string_lossy).collect();
        // `helm lint` prints errors on standard output.
        let words = || format!("{}\n{}", text(&output.stderr), text(&output.stdout));
        ensure!(
            output.status.success(),
            "{} {}: {}: {}",
            self.part,
            arguments.join(" "),
            output.status,
            words()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn run_with(mut self, kube: &Kube) -> Result<String> {
        let kubeconfig: PathBuf = kube.admin_kubeconfig();
        self.command.arg("--kubeconfig").arg(kubeconfig);
        kube.host().run(&self.command)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A chart with one ConfigMap of its values.
    fn chart() -> TempDir {
        let chart = tempfile::tempdir().unwrap();
        fs::write(
            chart.path().join("Chart.yaml"),
            "apiVersion: v2\nname: small\nversion: 0.1.0\nicon: https://example.org/i.svg\n",
        )
        .unwrap();
        fs::create_dir(chart.path().join("templates")).unwrap();
        let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}\n\
                        data: {who: {{ required \"who is needed\" .Values.who | quote }}}\n---\n# nothing\n";
        fs::write(chart.path().join("templates/map.yaml"), template).unwrap();
        fs::write(chart.path().join("templates/NOTES.txt"), "Well done.\n").unwrap();
        fs::write(chart.path().join("values.yaml"), "who: me\n").unwrap();
        chart
    }

    #[test]
    fn both_helms_render_and_lint_the_same() {
        let chart = chart();
        for part in [Part::Helm, Part::Helm3] {
            let documents = helm_template(
                part,
                chart.path(),
                "atlas",
                "monitoring",
                &["who: you", "who: they"],
            )
            .unwrap();
            let metadata = json!({"name": "atlas", "namespace": "monitoring"});
            assert_eq!(
                documents,
                [
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"who": "they"}})
                ]
            );
            assert!(helm_lint(part, chart.path(), &[]).unwrap().contains("0 chart(s) failed"));
            let error = helm_template(part, chart.path(), "atlas", "monitoring", &["who: ''"])
                .unwrap_err()
                .to_string();
            assert!(error.contains("who is needed"), "{part}: {error}");
        }
    }
}
