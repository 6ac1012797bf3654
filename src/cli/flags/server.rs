//! Flags of `atlas run`, `atlas controller` and `atlas envoy-ads`: where Atlas listens, how long
//! things live, and the rest of what becomes [`Config`].

use std::net::IpAddr;
use std::time::Duration;

use atlas_core::model::{Settings, StoreNames};
use atlas_core::pki::Lifetimes;
use clap::Args;

use super::limits::LimitArgs;
use super::settings::SettingsArgs;
use super::values::{lifetime, pause, written};
use crate::cli::output::wrong_usage;
use crate::config::Config;
use crate::process::debounce::Debounce;
use crate::process::listen::{ListenOptions, available_ip};

/// Where Atlas listens and how long things live.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Where Atlas itself listens; `::` is all addresses, also where there is no IPv6. Its web page
    /// and metrics have no password: keep them on loopback or behind the hub Envoy.
    #[arg(
        long,
        default_value_t = ListenOptions::default().ip,
        env = "ATLAS_LISTEN_ADDRESS",
        help_heading = "Listening"
    )]
    listen_address: IpAddr,
    /// xDS, mutual TLS.
    #[arg(
        long,
        default_value_t = ListenOptions::default().xds,
        env = "ATLAS_XDS_PORT",
        help_heading = "Listening"
    )]
    xds_port: u16,
    /// Metrics, health and readiness.
    #[arg(
        long,
        default_value_t = ListenOptions::default().metrics,
        env = "ATLAS_METRICS_PORT",
        help_heading = "Listening"
    )]
    metrics_port: u16,
    /// Web page and read-only API.
    #[arg(
        long,
        default_value_t = ListenOptions::default().web,
        env = "ATLAS_WEB_PORT",
        help_heading = "Listening"
    )]
    web_port: u16,
    /// DNS for the stores' zone, UDP and TCP.
    #[arg(
        long,
        default_value_t = ListenOptions::default().dns,
        env = "ATLAS_DNS_PORT",
        help_heading = "Listening"
    )]
    dns_port: u16,

    /// How long the certificates between Envoys live. They are renewed at half of it.
    #[arg(
        long,
        default_value = seconds(Lifetimes::default().leaf),
        value_parser = lifetime,
        env = "ATLAS_LEAF_LIFETIME",
        help_heading = "Lifetimes"
    )]
    leaf_lifetime: Duration,
    /// How long a cluster's bootstrap credential lives: how long its Envoy may be away.
    #[arg(
        long,
        default_value = seconds(Lifetimes::default().bootstrap),
        value_parser = lifetime,
        env = "ATLAS_BOOTSTRAP_LIFETIME",
        help_heading = "Lifetimes"
    )]
    bootstrap_lifetime: Duration,
    /// How long the CA lives that issues the certificates between Envoys.
    #[arg(
        long,
        default_value = seconds(Lifetimes::default().issuing),
        value_parser = lifetime,
        env = "ATLAS_ISSUING_CA_LIFETIME",
        help_heading = "Lifetimes"
    )]
    issuing_ca_lifetime: Duration,
    /// How long the CA lives that issues bootstrap credentials.
    #[arg(
        long,
        default_value = seconds(Lifetimes::default().bootstrap_ca),
        value_parser = lifetime,
        env = "ATLAS_BOOTSTRAP_CA_LIFETIME",
        help_heading = "Lifetimes"
    )]
    bootstrap_ca_lifetime: Duration,
    /// How long the root lives. It is made once.
    #[arg(
        long,
        default_value = seconds(Lifetimes::default().root),
        value_parser = lifetime,
        env = "ATLAS_ROOT_LIFETIME",
        help_heading = "Lifetimes"
    )]
    root_lifetime: Duration,
    /// Longest life of an xDS stream; some end up to a fifth earlier.
    #[arg(
        long,
        default_value = written(Config::default().max_stream_age),
        value_parser = lifetime,
        env = "ATLAS_MAX_STREAM_AGE",
        help_heading = "Lifetimes"
    )]
    max_stream_age: Duration,

    /// A burst of changes has ended once nothing happened for so long. The first change of all
    /// takes effect at once; a file that is deleted only after this, since many programs replace a
    /// file by deleting it first.
    #[arg(
        long,
        default_value = written(Debounce::default().idle),
        value_parser = pause,
        env = "ATLAS_DEBOUNCE_IDLE",
        help_heading = "Changes"
    )]
    debounce_idle: Duration,
    /// A burst of changes takes effect after so long even if it goes on.
    #[arg(
        long,
        default_value = written(Debounce::default().longest),
        value_parser = pause,
        env = "ATLAS_DEBOUNCE_LONGEST",
        help_heading = "Changes"
    )]
    debounce_longest: Duration,

    #[command(flatten)]
    limits: LimitArgs,
}

/// A number of seconds as people write it.
fn seconds(number: i64) -> String {
    written(Duration::from_secs(number.unsigned_abs()))
}

impl ServerArgs {
    /// The configuration that these flags ask for.
    ///
    /// # Errors
    /// A flag is wrong.
    pub fn config(&self, store_names: StoreNames) -> anyhow::Result<Config> {
        let settings = self
            .settings
            .settings(self.xds_port, self.web_port)
            .map_err(|error| wrong_usage(format!("{error:#}")))?;
        Ok(Config {
            settings: Settings { store_names, ..settings },
            lifetimes: self.lifetimes(),
            listen: ListenOptions {
                ip: available_ip(self.listen_address),
                xds: self.xds_port,
                metrics: self.metrics_port,
                web: self.web_port,
                dns: self.dns_port,
            },
            max_stream_age: self.max_stream_age,
            limits: self.limits.options(),
            debounce: Debounce {
                idle: self.debounce_idle,
                longest: self.debounce_longest.max(self.debounce_idle),
            },
        })
    }

    fn lifetimes(&self) -> Lifetimes {
        // A quarter of the range, so that sums of times stay within it.
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
}
