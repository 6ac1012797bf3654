//! `atlas run`

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use atlas_core::keys::port;
use atlas_core::pki::Lifetimes;
use clap::Args;

use super::Outcome;
use super::output::wrong_usage;
use super::settings::SettingsArgs;
use crate::app::{self, Options};

/// Run Atlas on a directory of manifests: Services (the downstream clusters; the hub's Alertmanagers) and EndpointSlices
/// (the hub's Alertmanagers). A saved file takes effect at once; a wrong one is reported and changes nothing.
#[derive(Debug, Args)]
pub struct Run {
    /// Directory of Kubernetes manifests (*.yaml, *.yml, *.json), watched.
    #[arg(long, value_name = "DIR", env = "ATLAS_FROM")]
    from: PathBuf,
    /// Where keys, certificates and results are kept. Back it up: who loses it must give every cluster a new credential.
    #[arg(long, value_name = "DIR", env = "ATLAS_STATE")]
    state: PathBuf,
    /// Write endpoints.yaml and atlas.zone to this directory too, readable by everyone: for Thanos and CoreDNS that run as
    /// other users, since the state directory is its owner's alone.
    #[arg(long, value_name = "DIR", env = "ATLAS_PUBLIC_DIR")]
    public_dir: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,

    /// Where Atlas itself listens. Its web page and metrics have no password: keep them on loopback or behind the hub Envoy.
    #[arg(long, default_value = "127.0.0.1", env = "ATLAS_LISTEN_ADDRESS", help_heading = "Listening")]
    listen_address: IpAddr,
    /// xDS, mutual TLS.
    #[arg(long, default_value_t = port::XDS, env = "ATLAS_XDS_PORT", help_heading = "Listening")]
    xds_port: u16,
    /// Metrics, health and readiness.
    #[arg(long, default_value_t = port::METRICS, env = "ATLAS_METRICS_PORT", help_heading = "Listening")]
    metrics_port: u16,
    /// Web page and read-only API.
    #[arg(long, default_value_t = port::WEB, env = "ATLAS_WEB_PORT", help_heading = "Listening")]
    web_port: u16,
    /// DNS for the stores' zone, UDP and TCP.
    #[arg(long, default_value_t = port::DNS, env = "ATLAS_DNS_PORT", help_heading = "Listening")]
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
    max_stream_age: Duration,
}

/// `7d`, `90m`, `2h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        Ok(_) => Err("at least one second".into()),
        Err(error) => Err(format!("{error}; write `7d`, `12h` or `30m`")),
    }
}

impl Run {
    /// Runs until a signal.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let settings = self.settings.settings(self.xds_port, self.web_port).map_err(|error| wrong_usage(format!("{error:#}")))?;
        if !self.from.is_dir() {
            let dir = self.from.display();
            return Err(wrong_usage(format!("--from: {dir} is not a directory: make it, and put one manifest per cluster into it")));
        }
        if let Some(dir) = self.public_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(wrong_usage(format!("--public-dir: {} is not a directory", dir.display())));
        }
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4);
        let options = Options {
            from: self.from,
            state: self.state,
            public_dir: self.public_dir,
            settings,
            lifetimes: Lifetimes {
                root: seconds(self.root_lifetime),
                issuing: seconds(self.issuing_ca_lifetime),
                bootstrap_ca: seconds(self.bootstrap_ca_lifetime),
                leaf: seconds(self.leaf_lifetime),
                bootstrap: seconds(self.bootstrap_lifetime),
            },
            listen: self.listen_address,
            xds_port: self.xds_port,
            metrics_port: self.metrics_port,
            web_port: self.web_port,
            dns_port: self.dns_port,
            max_stream_age: self.max_stream_age,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
        let result = runtime.block_on(app::run(options));
        // A read of a dead network file system may never return.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result?;
        Ok(Outcome::Done)
    }
}
