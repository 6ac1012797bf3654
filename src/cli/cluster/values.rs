//! `atlas cluster-values`: prints the Helm values of an Envoy, or manifests with them.

mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use atlas_core::install::helm_values::{PROMETHEUS_VALUES, VALUES};
use atlas_core::install::manifests::{self, ChartInstallation, ChartSource};
use atlas_core::kubernetes::derived_objects::values_secret_name;
use atlas_core::model::Settings;
use atlas_core::name::{NameError, NodeId, WebUrl};
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::cli::Outcome;
use crate::cli::flags::kubernetes::HubArgs;
use crate::cli::flags::values::dns_label;
use crate::cli::output::{print, say, wrong_usage};
use source::ValuesFiles;

const EXAMPLE: &str = "\
Example:
  atlas cluster-values tokyo > tokyo.yaml
  helm --kube-context tokyo -n monitoring upgrade --install atlas-envoy oci://ghcr.io/goatlas-io/charts/envoy -f tokyo.yaml
or, where K3s or Flux installs charts, the whole of it:
  atlas cluster-values tokyo --format helm-chart   | kubectl --context tokyo apply -f -
  atlas cluster-values tokyo --format helm-release | kubectl --context tokyo apply -f -
or for Argo CD and External Secrets, with the values that it says on its standard error (existingSecret, and more):
  atlas cluster-values tokyo --format secret       | kubectl --context tokyo apply -f -
and what kube-prometheus-stack should say there:
  atlas cluster-values tokyo --prometheus > kube-prometheus-stack.yaml";

/// Print the Helm values of an Envoy, or manifests that install it
///
/// They hold a private key: keep them secret, and print them again before the credential ends
/// (`atlas status` says when). Atlas writes them into a Secret of its namespace as soon as it knows
/// the cluster. With --state they are made of a state directory's files instead.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ClusterValues {
    /// The cluster's name; `hub` (in Atlas 0.3: `atlas`) for the hub's own Envoy.
    #[arg(id = "node", value_name = "NAME", value_parser = node, required_unless_present = "name")]
    node: Option<NodeId>,
    /// The same as a flag, as in Atlas 0.3.
    #[arg(long, value_name = "NAME", value_parser = node, env = "ATLAS_NAME")]
    name: Option<NodeId>,
    /// In which form.
    #[arg(long, value_enum, default_value = "raw", env = "ATLAS_FORMAT")]
    format: Format,
    /// Print the values for kube-prometheus-stack in that cluster instead.
    #[arg(long, value_parser = BoolishValueParser::new(), env = "ATLAS_PROMETHEUS")]
    prometheus: bool,
    /// How long to wait until Atlas has written them; 0: not at all.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = wait, env = "ATLAS_WAIT")]
    wait: Duration,

    /// Where the chart is: oci://REGISTRY/PATH/NAME, or https://REPOSITORY/NAME.
    #[arg(
        long,
        value_name = "URL",
        default_value = "oci://ghcr.io/goatlas-io/charts/envoy",
        value_parser = chart,
        env = "ATLAS_CHART",
        help_heading = "The release"
    )]
    chart: ChartSource,
    /// The chart's version.
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"), env = "ATLAS_CHART_VERSION", help_heading = "The release")]
    chart_version: String,
    /// The release's name.
    #[arg(long, value_name = "NAME", default_value = "atlas-envoy", value_parser = dns_label, env = "ATLAS_RELEASE", help_heading = "The release")]
    release: String,
    /// The release's namespace in the downstream cluster.
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value_t = Settings::default().downstream_namespace,
        value_parser = dns_label,
        env = "ATLAS_TARGET_NAMESPACE",
        help_heading = "The release"
    )]
    target_namespace: String,
    /// Namespace of the HelmChart or HelmRelease itself and of its Secret [default: kube-system for
    /// helm-chart, else --target-namespace].
    #[arg(long, value_name = "NAMESPACE", value_parser = dns_label, env = "ATLAS_MANIFEST_NAMESPACE", help_heading = "The release")]
    manifest_namespace: Option<String>,
    /// Name of the Secret that is printed [default: RELEASE-helm-values; for --format secret,
    /// RELEASE-files].
    #[arg(long, value_name = "NAME", value_parser = dns_label, env = "ATLAS_SECRET_NAME", help_heading = "The release")]
    secret_name: Option<String>,

    /// The state directory of `atlas run`, instead of the hub's Kubernetes cluster. It may be
    /// running.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE", help_heading = "Without Kubernetes")]
    state: Option<PathBuf>,
    /// With --state: the directory of manifests, for --prometheus and the number of Envoys.
    #[arg(long, value_name = "DIR", env = "ATLAS_FROM", help_heading = "Without Kubernetes")]
    from: Option<PathBuf>,
    /// With --from: where people reach the hub's web UIs, as in `atlas run`.
    #[arg(long, value_name = "URL", env = "ATLAS_WEB_URL", help_heading = "Without Kubernetes")]
    web_url: Option<WebUrl>,
    #[command(flatten)]
    hub: HubArgs,
}

/// In which form values are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The values file, for `helm --values`.
    Raw,
    /// A Secret and a HelmChart, for the Helm controller of K3s and RKE2.
    HelmChart,
    /// A Secret, the chart's source and a HelmRelease, for Flux.
    HelmRelease,
    /// A Secret with the six files, for the chart's value `existingSecret`.
    Secret,
}

fn node(text: &str) -> Result<NodeId, NameError> {
    // Atlas 0.3's name of the hub. No cluster may have it.
    if text == "atlas" { Ok(NodeId::Hub) } else { text.parse() }
}

fn chart(text: &str) -> Result<ChartSource, String> {
    text.parse::<ChartSource>().map_err(|error| error.to_string())
}

/// Reads how long to wait: `30s`, or `0`.
fn wait(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write `30s`, `2m` or `0`"))
}

impl ClusterValues {
    /// Prints the values.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let node = self.node()?;
        if self.prometheus && self.format != Format::Raw {
            return Err(wrong_usage(
                "--prometheus prints a values file, for which there is no other --format than raw",
            ));
        }
        if self.prometheus && node == NodeId::Hub {
            return Err(wrong_usage(
                "--prometheus: there are values for a cluster's Prometheus, and none for the hub's",
            ));
        }
        let data = match &self.state {
            Some(state) => self.read_state(state, &node)?,
            None => source::from_secret(&self.hub.connect()?, &node, self.wait)?,
        };
        let values = self.values(&node, &data)?;
        print(&self.render(values))?;
        if self.format == Format::Secret {
            let rest = manifests::values_for_existing_secret(&self.installation(), values);
            let rest = rest.trim_end();
            say(format_args!("# values for the chart envoy beside this Secret:\n{rest}"));
        }
        Ok(Outcome::Done)
    }

    fn node(&self) -> anyhow::Result<NodeId> {
        let from_environment = |name: &NodeId| {
            std::env::var("ATLAS_NAME")
                .is_ok_and(|value| node(&value).is_ok_and(|node| node == *name))
        };
        match (&self.node, &self.name) {
            (Some(node), Some(name)) if node != name && !from_environment(name) => {
                Err(wrong_usage(format!(
                    "two names are given, {node} and {name}: leave out one of them"
                )))
            }
            (Some(name), _) | (None, Some(name)) => Ok(name.clone()),
            (None, None) => Err(wrong_usage("NAME is missing")),
        }
    }

    fn values<'a>(&self, node: &NodeId, data: &'a ValuesFiles) -> anyhow::Result<&'a str> {
        let key = if self.prometheus { PROMETHEUS_VALUES } else { VALUES };
        let missing = || {
            format!(
                "the Secret {} has no key {key}: is an Atlas of this version running?",
                values_secret_name(node)
            )
        };
        Ok(data.get(key).with_context(missing)?)
    }

    /// How the chart is installed, by the flags.
    fn installation(&self) -> ChartInstallation {
        ChartInstallation {
            release: self.release.clone(),
            namespace: self.target_namespace.clone(),
            manifests: self.manifest_namespace(),
            secret: self.secret_name(),
            chart: self.chart.clone(),
            version: self.chart_version.clone(),
        }
    }

    fn render(&self, values: &str) -> String {
        let installation = self.installation();
        match self.format {
            Format::Raw => values.to_owned(),
            Format::HelmChart => manifests::helm_chart(&installation, values),
            Format::HelmRelease => manifests::helm_release(&installation, values),
            Format::Secret => manifests::secret(&installation, &manifests::files_in_values(values)),
        }
    }

    fn manifest_namespace(&self) -> String {
        let default =
            if self.format == Format::HelmChart { "kube-system" } else { &self.target_namespace };
        self.manifest_namespace.as_deref().unwrap_or(default).to_owned()
    }

    fn secret_name(&self) -> String {
        let suffix = if self.format == Format::Secret { "files" } else { "helm-values" };
        self.secret_name.clone().unwrap_or_else(|| format!("{}-{suffix}", self.release))
    }

    fn read_state(&self, state: &Path, node: &NodeId) -> anyhow::Result<ValuesFiles> {
        let settings = Settings {
            namespace: self.hub.namespace.clone(),
            web_url: self.web_url.clone(),
            ..Settings::default()
        };
        let cluster = match &self.from {
            Some(manifests) => source::cluster_of(&settings, manifests, node)?,
            None => None,
        };
        ensure!(
            cluster.is_some() || !self.prometheus,
            "--prometheus: add --from with the directory of manifests, where what it depends on is written"
        );
        source::from_state(state, node, &settings, cluster.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        values: ClusterValues,
    }

    fn line(line: &str) -> Result<ClusterValues, String> {
        let line = Line::try_parse_from(["cluster-values"].into_iter().chain(line.split(' ')));
        line.map(|line| line.values).map_err(|error| error.to_string())
    }

    #[test]
    fn the_hub_has_two_names() {
        for name in ["hub", "atlas", "--name atlas", "--name=hub"] {
            assert_eq!(line(name).unwrap().node().unwrap(), NodeId::Hub, "{name}");
        }
        assert!(line("tokyo --name paris").unwrap().node().is_err());
        assert!(line("--format raw").unwrap_err().contains("NAME"));
    }

    #[test]
    fn the_secret_is_in_the_namespace_where_it_is_looked_for() {
        let names = |text: &str| {
            let values = line(text).unwrap();
            (values.manifest_namespace(), values.secret_name())
        };
        assert_eq!(
            names("tokyo --format helm-chart"),
            ("kube-system".into(), "atlas-envoy-helm-values".into())
        );
        assert_eq!(
            names("tokyo --format helm-release --release e"),
            ("monitoring".into(), "e-helm-values".into())
        );
        assert_eq!(
            names("tokyo --format secret --target-namespace o"),
            ("o".into(), "atlas-envoy-files".into())
        );
        assert_eq!(
            names("tokyo --format helm-release --manifest-namespace flux-system").0,
            "flux-system"
        );
        // Atlas's own Secret of the hub's values must stay another one.
        assert_ne!(names("hub --format helm-release").1, atlas_core::object_names::HUB_VALUES);
    }

    #[test]
    fn a_wrong_chart_or_patience_is_named() {
        assert!(line("tokyo --chart ./charts/envoy").unwrap_err().contains("oci://"));
        assert!(line("tokyo --wait soon").unwrap_err().contains("--wait"));
        for url in ["tools.example.com", "https://tools.example.com/?a=b"] {
            let error = line(&format!("tokyo --web-url {url}")).unwrap_err();
            assert!(error.contains("--web-url") && error.contains(url), "{error}");
        }
        assert_eq!(
            line("tokyo --web-url https://t/x/").unwrap().web_url.unwrap().to_string(),
            "https://t/x"
        );
        assert_eq!(line("tokyo --wait 0").unwrap().wait, Duration::ZERO);
    }
}
