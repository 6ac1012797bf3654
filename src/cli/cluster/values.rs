//! `atlas cluster-values`: the values of an Envoy, in the form in which they are carried to its cluster.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use atlas_core::install::bootstrap_files::FILES;
use atlas_core::install::helm_values::{self, PROMETHEUS_VALUES, VALUES};
use atlas_core::install::manifests::{self, ChartInstallation, ChartSource};
use atlas_core::kubernetes::derived_objects::values_secret_name;
use atlas_core::model::{Cluster, Settings};
use atlas_core::name::{NameError, NodeId, WebUrl};
use atlas_core::validate::validate;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::cli::Outcome;
use crate::cli::flags::kubernetes::HubArgs;
use crate::cli::flags::values::dns_label;
use crate::cli::output::{print, say, wrong_usage};
use crate::kube::admin::Admin;
use crate::standalone::bootstrap_files;
use crate::standalone::state_dir::{StateDir, read_swapped};
use crate::standalone::watch;

/// Between two looks at a Secret that is not there yet.
const POLL: Duration = Duration::from_millis(250);

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
/// They hold a private key: keep them secret, and print them again before the credential ends (`atlas status` says when).
/// Atlas writes them into a Secret of its namespace as soon as it knows the cluster. With --state they are made of a state
/// directory's files instead.
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
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = patience, env = "ATLAS_WAIT")]
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
    /// Namespace of the HelmChart or HelmRelease itself and of its Secret [default: kube-system for helm-chart, else
    /// --target-namespace].
    #[arg(long, value_name = "NAMESPACE", value_parser = dns_label, env = "ATLAS_MANIFEST_NAMESPACE", help_heading = "The release")]
    manifest_namespace: Option<String>,
    /// Name of the Secret that is printed [default: RELEASE-helm-values; for --format secret, RELEASE-files].
    #[arg(long, value_name = "NAME", value_parser = dns_label, env = "ATLAS_SECRET_NAME", help_heading = "The release")]
    secret_name: Option<String>,

    /// The state directory of `atlas run`, instead of the hub's Kubernetes cluster. It may be running.
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
    // As 0.3 called the hub; no cluster may be called so.
    if text == "atlas" { Ok(NodeId::Hub) } else { text.parse() }
}

fn chart(text: &str) -> Result<ChartSource, String> {
    text.parse::<ChartSource>().map_err(|error| error.to_string())
}

fn patience(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write `30s`, `2m` or `0`"))
}

impl ClusterValues {
    /// Finds, renders and prints them.
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
            Some(state) => self.of_state(state, &node)?,
            None => wait_for(&self.hub.connect()?, &node, self.wait)?,
        };
        let values = self.values(&node, &data)?;
        print(&self.render(values))?;
        if self.format == Format::Secret {
            let beside = manifests::values_for_existing_secret(&self.delivery(), values);
            say(format_args!(
                "# values for the chart envoy beside this Secret:
{}",
                beside.trim_end()
            ));
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

    fn values<'a>(
        &self,
        node: &NodeId,
        data: &'a BTreeMap<String, String>,
    ) -> anyhow::Result<&'a str> {
        let key = if self.prometheus { PROMETHEUS_VALUES } else { VALUES };
        let missing = || {
            format!(
                "the Secret {} has no key {key}: is an Atlas of this version running?",
                values_secret_name(node)
            )
        };
        Ok(data.get(key).with_context(missing)?)
    }

    fn delivery(&self) -> ChartInstallation {
        ChartInstallation {
            release: self.release.clone(),
            namespace: self.target_namespace.clone(),
            manifests: self.manifests(),
            secret: self.secret(),
            chart: self.chart.clone(),
            version: self.chart_version.clone(),
        }
    }

    fn render(&self, values: &str) -> String {
        let to = self.delivery();
        match self.format {
            Format::Raw => values.to_owned(),
            Format::HelmChart => manifests::helm_chart(&to, values),
            Format::HelmRelease => manifests::helm_release(&to, values),
            Format::Secret => manifests::secret(&to, &manifests::files_in_values(values)),
        }
    }

    fn manifests(&self) -> String {
        let default =
            if self.format == Format::HelmChart { "kube-system" } else { &self.target_namespace };
        self.manifest_namespace.as_deref().unwrap_or(default).to_owned()
    }

    fn secret(&self) -> String {
        let suffix = if self.format == Format::Secret { "files" } else { "helm-values" };
        self.secret_name.clone().unwrap_or_else(|| format!("{}-{suffix}", self.release))
    }

    /// Makes the values of the files in a state directory.
    fn of_state(&self, state: &Path, node: &NodeId) -> anyhow::Result<BTreeMap<String, String>> {
        let dir = bootstrap_files::existing(&StateDir::at(state)?, node)?;
        let files = read_swapped(&dir, &FILES)?.into_iter().collect();
        let files = manifests::replace_directory(
            files,
            &dir.display().to_string(),
            atlas_core::object_names::ENVOY_DIR,
        )
        .context("BUG: Atlas has written what is not YAML")?;
        let settings = Settings {
            namespace: self.hub.namespace.clone(),
            web_url: self.web_url.clone(),
            ..Settings::default()
        };
        let cluster =
            self.from.as_ref().map(|from| cluster(&settings, from, node)).transpose()?.flatten();
        let (replicas, memory) = match (&cluster, node) {
            (Some(cluster), _) => (cluster.envoy_replicas, cluster.envoy_memory),
            (None, NodeId::Hub) => {
                (atlas_core::model::DEFAULT_ENVOY_REPLICAS, settings.hub_envoy_memory)
            }
            (None, NodeId::Cluster(_)) => {
                (atlas_core::model::DEFAULT_ENVOY_REPLICAS, atlas_core::model::DEFAULT_ENVOY_MEMORY)
            }
        };
        let mut data = BTreeMap::from([(
            VALUES.to_owned(),
            helm_values::envoy(&node.to_string(), replicas, memory, &files),
        )]);
        if self.prometheus {
            let cluster =
                cluster.context("--prometheus: add --from with the directory of manifests, where what it depends on is written")?;
            data.insert(PROMETHEUS_VALUES.to_owned(), helm_values::prometheus(&settings, &cluster));
        }
        Ok(data)
    }
}

fn cluster(settings: &Settings, from: &Path, node: &NodeId) -> anyhow::Result<Option<Cluster>> {
    let NodeId::Cluster(name) = node else { return Ok(None) };
    let mut fleet = validate(settings, &watch::read_once(from)?.manifests, None).fleet;
    let cluster = fleet.clusters.remove(name).map(std::sync::Arc::unwrap_or_clone);
    ensure!(
        cluster.is_some(),
        "there is no cluster {name} in {} that is right: `atlas cluster-list` says what is wrong",
        from.display()
    );
    Ok(cluster)
}

/// What Atlas wrote for a node, once it has.
fn wait_for(
    hub: &Admin,
    node: &NodeId,
    wait: Duration,
) -> anyhow::Result<BTreeMap<String, String>> {
    let (secret, namespace) = (values_secret_name(node), &hub.namespace);
    let deadline = Instant::now() + wait;
    let mut told = false;
    loop {
        if let Some(data) = hub.secret(&secret)?.filter(|data| data.contains_key(VALUES)) {
            return Ok(data);
        }
        if Instant::now() >= deadline {
            bail!(
                "the Secret {secret} is not in {namespace}{}: {}",
                waited(wait),
                reason(hub, node)?
            );
        }
        if !std::mem::replace(&mut told, true) {
            say(format_args!(
                "waiting for Atlas to write the Secret {secret} in {namespace}, for {} at most",
                humantime::format_duration(wait)
            ));
        }
        std::thread::sleep(POLL);
    }
}

fn waited(wait: Duration) -> String {
    if wait.is_zero() {
        String::new()
    } else {
        format!(" after {}", humantime::format_duration(wait))
    }
}

fn reason(hub: &Admin, node: &NodeId) -> anyhow::Result<String> {
    if let NodeId::Cluster(name) = node
        && hub.service(name.as_str())?.is_none()
    {
        return Ok(format!(
            "there is no cluster {name} either: add it with `atlas cluster-add {name}`, or see `atlas cluster-list`"
        ));
    }
    Ok("does Atlas run, and was it told where the hub is (--hub-address)? `atlas status` says what is wrong".into())
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
    fn a_secret_has_a_name_of_its_own_and_lies_where_it_is_looked_for() {
        let names = |text: &str| {
            let values = line(text).unwrap();
            (values.manifests(), values.secret())
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
