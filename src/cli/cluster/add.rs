//! `atlas cluster-add`: into a directory here, into a Kubernetes cluster in [`super::hub`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use atlas_core::annotations;
use atlas_core::model::Settings;
use atlas_core::name::{ClusterName, HostPort};
use atlas_core::ports;
use atlas_core::validate::{Finding, Severity, is_cluster, validate};
use atlas_core::yaml::{self, NewCluster, render_cluster};
use clap::Args;
use clap::builder::BoolishValueParser;

use super::edit::{self, Edit};
use super::{NameArgs, file, hub, place, services};
use crate::cli::Outcome;
use crate::cli::flags::kubernetes::KubeconfigArgs;
use crate::cli::flags::values::dns_label;
use crate::cli::output::{complain, print, say, wrong_usage};
use crate::kube::admin::Admin;
use crate::standalone::watch::{self, DirectoryContents};

const EXAMPLE: &str = "\
Example:
  atlas cluster-add tokyo --address tokyo.example.com --replicas 2
makes the Service tokyo in the namespace monitoring of the hub's Kubernetes cluster. Atlas takes it up at once:
  atlas cluster-values tokyo > tokyo-values.yaml

Without Kubernetes:
  atlas cluster-add tokyo --from clusters --address tokyo.example.com --replicas 2
writes clusters/tokyo.yaml. A running Atlas takes it up at once, and `atlas bootstrap tokyo` has its Envoy's files.";

/// Add a cluster: a Service in the hub's Kubernetes cluster, or with --from a manifest in a
/// directory
///
/// It is checked first as a running Atlas would check it, and not written if it would be rejected.
/// Without an address the cluster is awaiting one: its Envoy's files exist already, and the address
/// can be added later.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ClusterAdd {
    #[command(flatten)]
    name: NameArgs,
    /// Directory of manifests, as in `atlas run`; it is made if need be. Without it: the hub's
    /// Kubernetes cluster.
    #[arg(long, value_name = "DIR", env = "ATLAS_FROM")]
    from: Option<PathBuf>,
    /// Where the cluster's Envoy is reached: HOST[:PORT], port 11901 unless given. Repeat it, or
    /// separate by commas.
    #[arg(long = "address", value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = address, env = "ATLAS_ADDRESS")]
    addresses: Vec<String>,
    /// The same as spec.externalIPs, which is what Atlas 0.3 read; addresses win over it.
    #[arg(
        long = "external-ip",
        value_name = "IP",
        value_delimiter = ',',
        env = "ATLAS_EXTERNAL_IP"
    )]
    external_ips: Vec<IpAddr>,
    /// Prometheus (and so Thanos sidecar) replicas there.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(atlas_core::model::MAX_STORES)), env = "ATLAS_REPLICAS")]
    replicas: u32,
    /// Name of the Prometheus resource there (`kubectl get prometheus`): with it, every replica is
    /// addressed exactly.
    #[arg(long, value_name = "NAME", env = "ATLAS_PROMETHEUS_NAME")]
    prometheus_name: Option<String>,
    /// Any other annotation, e.g. goatlas.io/thanos-service=thanos.example.com. May be repeated.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation, env = "ATLAS_ANNOTATION")]
    annotations: Vec<(String, String)>,
    /// Atlas's namespace [default: monitoring; with --from, left out of the manifest, so that any
    /// does].
    #[arg(long, value_name = "NAMESPACE", value_parser = dns_label, env = "ATLAS_NAMESPACE")]
    namespace: Option<String>,
    /// Let the address be a loopback, link-local or metadata address: for trying Atlas on one
    /// machine.
    #[arg(long, value_parser = BoolishValueParser::new(), env = "ATLAS_ALLOW_LOCAL_ADDRESSES")]
    allow_local_addresses: bool,
    /// If the cluster is there already: replace its manifest; on Kubernetes, change its Service to
    /// what is given here and keep what others have set.
    #[arg(long, value_parser = BoolishValueParser::new(), env = "ATLAS_OVERWRITE")]
    overwrite: bool,
    /// Print the manifest and write nothing; on Kubernetes, the API server is asked whether it
    /// would take it.
    #[arg(long, value_parser = BoolishValueParser::new(), env = "ATLAS_DRY_RUN")]
    dry_run: bool,
    #[command(flatten)]
    kubeconfig: KubeconfigArgs,
}

fn address(text: &str) -> Result<String, String> {
    HostPort::parse(text, ports::CLUSTER_INBOUND)
        .map(|_| text.trim().to_owned())
        .map_err(|error| error.to_string())
}

fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

impl ClusterAdd {
    /// Checks the manifest, writes it, and prints what to do next.
    pub fn run(mut self) -> anyhow::Result<Outcome> {
        let name = self.name.get()?;
        let Some(from) = self.from.clone() else {
            let namespace =
                self.namespace.get_or_insert_with(|| Settings::default().namespace).clone();
            let text = render_cluster(&self.spec(&name)?);
            let findings = self.check(&name, &text)?;
            let how = hub::Add {
                name: &name,
                text: &text,
                overwrite: self.overwrite,
                dry_run: self.dry_run,
            };
            hub::add(&Admin::connect(&self.kubeconfig.access(), &namespace)?, &how)?;
            return Ok(complain(&[], &findings, Severity::Note));
        };
        let text = render_cluster(&self.spec(&name)?);
        let findings = self.check(&name, &text)?;
        let report = read(&from)?;
        let edit = self.edit(&from, &report, &name, &text)?;
        // A file that can't be read may have a cluster of this name too, so the exit code shows it.
        let outcome = complain(&report.errors, &findings, Severity::Note);
        if self.dry_run {
            print(&text)?;
            return Ok(outcome);
        }
        if !from.is_dir() {
            std::fs::create_dir(&from)
                .with_context(|| format!("--from: cannot make the directory {}", from.display()))?;
        }
        edit.apply()?;
        print(&format!("{}\n", edit.path().display()))?;
        say(format_args!(
            "{} the manifest of {name}. An Atlas that runs with --from {} takes it up at once.\n\
             next, its Envoy's files: atlas bootstrap {name} --state DIR --out {name}",
            if matches!(edit, Edit::Create(..)) { "wrote" } else { "replaced" },
            from.display(),
        ));
        Ok(outcome)
    }

    fn spec(&self, name: &ClusterName) -> anyhow::Result<NewCluster> {
        let named =
            self.prometheus_name.iter().map(|name| (annotations::PROMETHEUS_NAME, name.as_str()));
        let given = self.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut annotations = BTreeMap::new();
        for (key, value) in named.chain(given) {
            let twice = annotations.insert(key.to_owned(), value.to_owned()).is_some();
            if twice || (key == annotations::ADDRESSES && !self.addresses.is_empty()) {
                return Err(wrong_usage(format!(
                    "the annotation {key} is given twice: leave out one of them"
                )));
            }
        }
        Ok(NewCluster {
            name: name.to_string(),
            namespace: self.namespace.clone(),
            replicas: self.replicas,
            addresses: self.addresses.clone(),
            external_ips: self.external_ips.iter().map(ToString::to_string).collect(),
            annotations,
        })
    }

    /// The findings of a running Atlas about the manifest, without lines, since the file isn't
    /// there yet, and without those about the hub, whose address only the running Atlas is told.
    fn check(&self, name: &ClusterName, text: &str) -> anyhow::Result<Vec<Finding>> {
        let mut settings =
            Settings { allow_local_addresses: self.allow_local_addresses, ..Settings::default() };
        if let Some(namespace) = &self.namespace {
            settings.namespace.clone_from(namespace);
        }
        let manifests = yaml::parse("the new manifest", text)
            .map_err(|errors| anyhow!(edit::lines(&errors)))?;
        let mut findings = validate(&settings, &manifests, None).findings;
        findings.retain(|finding| !finding.is_about_the_hub());
        for finding in &mut findings {
            finding.place.clear();
        }
        let rejected = findings.iter().filter(|finding| finding.severity == Severity::Rejected);
        let reasons: Vec<String> = rejected.map(ToString::to_string).collect();
        ensure!(
            reasons.is_empty(),
            "nothing was written, since {name} would be rejected:\n{}",
            reasons.join("\n")
        );
        Ok(findings)
    }

    fn edit(
        &self,
        from: &Path,
        report: &DirectoryContents,
        name: &ClusterName,
        text: &str,
    ) -> anyhow::Result<Edit> {
        let there: Vec<_> = services(report, name).collect();
        if let Some(other) = there.iter().find(|service| !is_cluster(service)) {
            bail!(
                "{}: a Service called {name} is there already, and is no cluster: choose another name",
                place(from, other)
            );
        }
        match there.as_slice() {
            [] => new_file(from, report, name, text),
            [one] if self.overwrite => Edit::substitute(from, file(one), name.as_str(), text),
            [one] => {
                bail!(
                    "{}: there is a cluster {name} already: choose another name, or replace it with --overwrite",
                    place(from, one)
                )
            }
            [first, second, ..] => {
                let (first, second) = (place(from, first), place(from, second));
                bail!(
                    "{first} and {second}: there are two clusters called {name} already: remove one of them first"
                )
            }
        }
    }
}

/// Reads a directory; one that isn't there is empty.
fn read(from: &Path) -> anyhow::Result<DirectoryContents> {
    if from.exists() { watch::read_once(from) } else { Ok(DirectoryContents::default()) }
}

fn new_file(
    dir: &Path,
    report: &DirectoryContents,
    name: &ClusterName,
    text: &str,
) -> anyhow::Result<Edit> {
    let file = format!("{name}.yaml");
    let path = dir.join(&file);
    if std::fs::symlink_metadata(&path).is_ok() {
        let errors: Vec<_> =
            report.errors.iter().filter(|error| error.file == file).cloned().collect();
        let reason =
            if errors.is_empty() { String::new() } else { format!(":\n{}", edit::lines(&errors)) };
        bail!(
            "{} is there already, and holds no readable cluster {name}: mend, move or delete that file first{reason}",
            path.display()
        );
    }
    Ok(Edit::Create(path, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        add: ClusterAdd,
    }

    fn check(line: &str) -> anyhow::Result<Vec<String>> {
        let add = Line::try_parse_from(["cluster-add"].into_iter().chain(line.split(' ')))?.add;
        let name = add.name.get()?;
        let findings = add.check(&name, &render_cluster(&add.spec(&name)?))?;
        Ok(findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn there_are_no_findings_about_the_hub() {
        assert_eq!(
            check("tokyo --from clusters --address tokyo.example.com --prometheus-name k8s")
                .unwrap(),
            [""; 0]
        );
        assert_eq!(
            check("tokyo --from clusters --external-ip 203.0.113.7 --prometheus-name k8s").unwrap(),
            [""; 0]
        );
        let awaiting = check("tokyo --from clusters --prometheus-name k8s").unwrap();
        assert!(awaiting.len() == 1 && awaiting[0].contains("awaiting"), "{awaiting:?}");
        let wrong = check("tokyo --from clusters --annotation goatlas.io/hub-addresses=hub:0")
            .unwrap_err()
            .to_string();
        assert!(
            wrong.contains("goatlas.io/hub-addresses: \"hub:0\": has the port \"0\""),
            "{wrong}"
        );
    }

    #[test]
    fn a_missing_prometheus_name_is_a_finding() {
        let inexact = check("tokyo --from clusters --address tokyo.example.com").unwrap();
        assert!(
            inexact.len() == 1 && inexact[0].contains("goatlas.io/prometheus-name: isn't given"),
            "{inexact:?}"
        );
    }

    #[test]
    fn a_namespace_is_a_dns_label() {
        assert!(
            check("tokyo --from clusters --namespace a.b")
                .unwrap_err()
                .to_string()
                .contains("DNS label")
        );
    }
}
