//! Flags of everything that runs for long: where Atlas listens, how long things live, and which Kubernetes cluster.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use atlas_core::model::{Settings, StoreNames};
use atlas_core::pki::Lifetimes;
use atlas_core::ports;
use clap::Args;

use super::output::wrong_usage;
use super::settings::SettingsArgs;
use crate::kube::connect::KubeArgs;
use crate::kube::run::{self, Role};
use crate::process::debounce::Debounce;
use crate::process::serve::{Listen, listen_ip};
use crate::xds::LimitOptions;

/// Where Atlas listens and how long things live.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub settings: SettingsArgs,

    /// Where Atlas itself listens; `::` is all addresses, also where there is no IPv6. Its web page and metrics have no password: keep them on loopback or behind the hub Envoy.
    #[arg(
        long,
        default_value = "127.0.0.1",
        env = "ATLAS_LISTEN_ADDRESS",
        help_heading = "Listening"
    )]
    listen_address: IpAddr,
    /// xDS, mutual TLS.
    #[arg(long, default_value_t = ports::XDS, env = "ATLAS_XDS_PORT", help_heading = "Listening")]
    xds_port: u16,
    /// Metrics, health and readiness.
    #[arg(long, default_value_t = ports::METRICS, env = "ATLAS_METRICS_PORT", help_heading = "Listening")]
    metrics_port: u16,
    /// Web page and read-only API.
    #[arg(long, default_value_t = ports::WEB, env = "ATLAS_WEB_PORT", help_heading = "Listening")]
    web_port: u16,
    /// DNS for the stores' zone, UDP and TCP.
    #[arg(long, default_value_t = ports::DNS, env = "ATLAS_DNS_PORT", help_heading = "Listening")]
    dns_port: u16,

    /// How long the certificates between Envoys live. They are renewed at half of it.
    #[arg(long, default_value = "7d", value_parser = duration, env = "ATLAS_LEAF_LIFETIME", help_heading = "Lifetimes")]
    leaf_lifetime: Duration,
    /// How long a cluster's bootstrap credential lives: how long its Envoy may be away.
    #[arg(long, default_value = "365d", value_parser = duration, env = "ATLAS_BOOTSTRAP_LIFETIME", help_heading = "Lifetimes")]
    bootstrap_lifetime: Duration,
    /// How long the CA lives that issues the certificates between Envoys.
    #[arg(long, default_value = "90d", value_parser = duration, env = "ATLAS_ISSUING_CA_LIFETIME", help_heading = "Lifetimes")]
    issuing_ca_lifetime: Duration,
    /// How long the CA lives that issues bootstrap credentials.
    #[arg(long, default_value = "1095d", value_parser = duration, env = "ATLAS_BOOTSTRAP_CA_LIFETIME", help_heading = "Lifetimes")]
    bootstrap_ca_lifetime: Duration,
    /// How long the root lives. It is made once.
    #[arg(long, default_value = "3650d", value_parser = duration, env = "ATLAS_ROOT_LIFETIME", help_heading = "Lifetimes")]
    root_lifetime: Duration,
    /// Longest life of an xDS stream; some end up to a fifth earlier.
    #[arg(long, default_value = "30m", value_parser = duration, env = "ATLAS_MAX_STREAM_AGE", help_heading = "Lifetimes")]
    pub max_stream_age: Duration,

    /// A burst of changes has ended once nothing happened for so long. The first change of all takes effect at once; a file that is
    /// deleted only after this, since many programs replace a file by deleting it first.
    #[arg(long, default_value = "100ms", value_parser = pause, env = "ATLAS_DEBOUNCE_IDLE", help_heading = "Changes")]
    debounce_idle: Duration,
    /// A burst of changes takes effect after so long even if it goes on.
    #[arg(long, default_value = "1s", value_parser = pause, env = "ATLAS_DEBOUNCE_LONGEST", help_heading = "Changes")]
    debounce_longest: Duration,

    #[command(flatten)]
    limits: LimitArgs,
}

/// How much of everything the xDS port takes. Each limit that is hit is counted in a metric.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Connections to the xDS port, of which every Envoy has one [default: as many files as Atlas may open, less 256; at most 20000].
    #[arg(long, value_name = "COUNT", value_parser = at_least::<1>, env = "ATLAS_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// Connections of each node, so that nobody takes all places with one cluster's credential; one more ends the one that has been
    /// silent for longest [default: four for each of a cluster's Envoys (goatlas.io/envoy-replicas), at least 16; the hub's 64].
    #[arg(long, value_name = "COUNT", value_parser = at_least::<1>, env = "ATLAS_MAX_CONNECTIONS_PER_NODE")]
    max_connections_per_node: Option<usize>,
    /// TLS handshakes that aren't finished. One more ends the oldest of them, so strangers can't lock anybody out [default: an
    /// eighth of the files that Atlas may open, at most 256].
    #[arg(long, value_name = "COUNT", value_parser = at_least::<1>, env = "ATLAS_MAX_HANDSHAKES")]
    max_handshakes: Option<usize>,
    /// Largest request, in bytes; from a cluster's Envoy a quarter of it, at most 1 MiB. The hub's Envoy lists all that it has when it
    /// comes back, some 110 bytes for each resource; for what it should have there is always room.
    #[arg(long, value_name = "BYTES", default_value = "16777216", value_parser = at_least::<65_536>, env = "ATLAS_MAX_REQUEST_BYTES")]
    max_request_bytes: usize,
    /// About how many bytes of resources one incremental response carries; the rest follows when the Envoy has answered.
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = at_least::<1024>, env = "ATLAS_MAX_RESPONSE_BYTES")]
    max_response_bytes: usize,
    /// How long a connection may have no stream. An Envoy opens one at once.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, env = "ATLAS_MAX_CONNECTION_IDLE")]
    max_connection_idle: Duration,
}

/// Which cluster, and who leads.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct ReplicaArgs {
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Name of the Lease by which replicas agree on who writes.
    #[arg(long, alias = "lockname", default_value = "atlas", env = "ATLAS_LEASE_NAME")]
    lease_name: String,
    /// This replica's name: its pod's [default: the host's name].
    #[arg(long, env = "ATLAS_POD_NAME")]
    identity: Option<String>,
    /// Atlas's ServiceAccount: what Atlas writes for the hub as a whole is removed with it.
    #[arg(long, value_name = "NAME", env = "ATLAS_SERVICE_ACCOUNT")]
    owner_service_account: Option<String>,
}

/// `7d`, `90m`, `2h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        Ok(_) => Err("at least one second".into()),
        Err(error) => Err(format!("{error}; write `7d`, `12h` or `30m`")),
    }
}

/// `100ms`, `2s`.
fn pause(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(pause) if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&pause) => {
            Ok(pause)
        }
        Ok(_) => Err("from 1ms to 60s".into()),
        Err(error) => Err(format!("{error}; write `100ms` or `2s`")),
    }
}

/// A number that is no smaller.
fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= LEAST => Ok(number),
        Ok(_) => Err(format!("at least {LEAST}")),
        Err(error) => Err(format!("{error}; write a number without a unit")),
    }
}

impl ServeArgs {
    /// How much of everything the xDS port takes.
    pub fn limits(&self) -> LimitOptions {
        let limits = &self.limits;
        LimitOptions {
            connections: limits.max_connections,
            connections_per_node: limits.max_connections_per_node,
            handshakes: limits.max_handshakes,
            request_bytes: limits.max_request_bytes,
            response_bytes: limits.max_response_bytes,
            idle: limits.max_connection_idle,
            ..LimitOptions::default()
        }
    }

    /// How patient Atlas is with bursts of changes.
    pub fn debounce(&self) -> Debounce {
        Debounce {
            idle: self.debounce_idle,
            longest: self.debounce_longest.max(self.debounce_idle),
        }
    }

    /// What the plan depends on.
    ///
    /// # Errors
    /// A flag is wrong.
    pub fn settings(&self, store_names: StoreNames) -> anyhow::Result<Settings> {
        let settings = self
            .settings
            .settings(self.xds_port, self.web_port)
            .map_err(|error| wrong_usage(format!("{error:#}")))?;
        Ok(Settings { store_names, ..settings })
    }

    /// How long certificates live.
    pub fn lifetimes(&self) -> Lifetimes {
        let seconds =
            |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4);
        Lifetimes {
            root: seconds(self.root_lifetime),
            issuing: seconds(self.issuing_ca_lifetime),
            bootstrap_ca: seconds(self.bootstrap_ca_lifetime),
            leaf: seconds(self.leaf_lifetime),
            bootstrap: seconds(self.bootstrap_lifetime),
        }
    }

    /// Where Atlas listens.
    pub fn listen(&self) -> Listen {
        Listen {
            ip: listen_ip(self.listen_address),
            xds: self.xds_port,
            metrics: self.metrics_port,
            web: self.web_port,
            dns: self.dns_port,
        }
    }

    /// Runs on Kubernetes until a signal.
    ///
    /// # Errors
    /// A flag is wrong, or something that must run can't.
    pub fn run_on_kubernetes(self, replica: ReplicaArgs, role: Role) -> anyhow::Result<()> {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let options = run::Options {
            settings: self.settings(StoreNames::Services)?,
            lifetimes: self.lifetimes(),
            listen: self.listen(),
            max_stream_age: self.max_stream_age,
            limits: self.limits(),
            debounce: self.debounce(),
            kube: replica.kube,
            role,
            lease: replica.lease_name,
            identity: replica.identity.unwrap_or_else(host),
            owner: replica.owner_service_account.filter(|name| !name.is_empty()),
        };
        block_on(run::run(options))
    }
}

/// Runs something to its end.
///
/// # Errors
/// It failed.
pub fn block_on(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(task);
    // A read of a dead network file system may never return.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}
