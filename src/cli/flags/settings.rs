//! Flags that become [`Settings`], for every command that makes Envoy resources.

use std::net::IpAddr;

use anyhow::{Context, anyhow, ensure};
use atlas_core::model::{Settings, StoreNames};
use atlas_core::name::{
    CookieName, HeaderPattern, Host, HostPort, NameError, TrustDomain, WebUrl, bindable,
    is_dns_name, parse_path_prefix,
};
use atlas_core::ports;
use atlas_core::quantity::Memory;
use atlas_core::validate::parse_selector;
use clap::Args;

use super::values::{dns_label, selector as selector_text};

/// What the operator configures once: the hub, names, the hub's Alertmanagers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The hub")]
pub struct SettingsArgs {
    /// How clusters reach the hub Envoy: HOST[:PORT], comma-separated. Names are best: moving the
    /// hub then touches no cluster. A port is the xDS entry's.
    #[arg(long, visible_alias = "envoy-address", value_delimiter = ',', env = "ATLAS_HUB_ADDRESS")]
    hub_address: Vec<String>,
    /// Where the xDS entry is, if not at the hub's address.
    #[arg(long, alias = "envoy-ads-address", value_delimiter = ',', env = "ATLAS_HUB_XDS_ADDRESS")]
    hub_xds_address: Vec<String>,
    /// Port of the xDS entry.
    #[arg(
        long,
        alias = "envoy-ads-port",
        default_value_t = ports::HUB_XDS,
        env = "ATLAS_HUB_XDS_PORT"
    )]
    hub_xds_port: u16,
    /// Where alerts go in, if not at the hub's address: HOST[:PORT], comma-separated.
    #[arg(long, value_delimiter = ',', env = "ATLAS_HUB_ALERTS_ADDRESS")]
    hub_alerts_address: Vec<String>,
    /// IP addresses at which Thanos Query reaches the hub Envoy's stores: the address records of
    /// the DNS zone [default: the IP addresses among --hub-address].
    #[arg(long, value_delimiter = ',', env = "ATLAS_HUB_STORE_ADDRESS")]
    hub_store_address: Vec<IpAddr>,
    /// Where the hub Envoy binds.
    #[arg(
        long,
        default_value_t = Settings::default().hub_bind,
        value_parser = bind_address,
        env = "ATLAS_BIND_ADDRESS"
    )]
    bind_address: IpAddr,
    /// How the hub Envoy reaches Atlas.
    #[arg(
        long,
        default_value = Settings::default().atlas_xds.host.to_string(),
        env = "ATLAS_ATLAS_ADDRESS"
    )]
    atlas_address: String,
    /// Labels of the hub Envoy's pods, behind the names of the stores, on Kubernetes.
    #[arg(
        long,
        default_value = selector_text(&Settings::default().envoy_selectors),
        env = "ATLAS_ENVOY_SELECTORS"
    )]
    envoy_selectors: String,
    /// Where people reach the hub's web UIs (its port 10904): https://HOST[:PORT][/PATH]. The path
    /// of redirects, links and cookies, whether or not a proxy in front takes it away; and for the
    /// values of clusters' Prometheus.
    #[arg(long, value_name = "URL", env = "ATLAS_WEB_URL")]
    web_url: Option<WebUrl>,
    /// Headers that pass between people and web UIs, comma-separated, beside those that always do
    /// (`x-grafana-*`, or `authorization`). Every downstream cluster sees them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "ATLAS_WEB_PASS_HEADERS")]
    web_pass_headers: Vec<HeaderPattern>,
    /// Cookies that web UIs see, comma-separated, beside those that they set themselves. Every
    /// downstream cluster sees them.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "ATLAS_WEB_PASS_COOKIES")]
    web_pass_cookies: Vec<CookieName>,
    /// How much memory one Envoy of the hub may take, as Kubernetes writes it: near that it sheds
    /// load. The limit of its container.
    #[arg(
        long,
        default_value_t = Settings::default().hub_envoy_memory,
        value_parser = envoy_memory,
        value_name = "MEMORY",
        env = "ATLAS_HUB_ENVOY_MEMORY"
    )]
    hub_envoy_memory: Memory,
    /// How long one request to a store or a web UI may take: as long as Thanos Query's
    /// --query.timeout, and some seconds. 1 s to 1 h.
    #[arg(
        long,
        default_value = format!("{}s", Settings::default().max_request_seconds),
        value_parser = max_request,
        value_name = "DURATION",
        env = "ATLAS_MAX_REQUEST_DURATION"
    )]
    max_request_duration: u32,
    /// Proxies in front of the web UIs (your ingress) whose x-forwarded-for is trusted.
    #[arg(long, default_value_t = Settings::default().trusted_hops, env = "ATLAS_TRUSTED_HOPS")]
    trusted_hops: u32,

    /// Namespace in which Services are downstream clusters.
    #[arg(
        long,
        default_value_t = Settings::default().namespace,
        value_parser = dns_label,
        env = "ATLAS_NAMESPACE",
        help_heading = "Names"
    )]
    namespace: String,
    /// Namespace of the services inside a downstream cluster, where an annotation doesn't say.
    #[arg(
        long,
        default_value_t = Settings::default().downstream_namespace,
        value_parser = dns_label,
        env = "ATLAS_DOWNSTREAM_NAMESPACE",
        help_heading = "Names"
    )]
    downstream_namespace: String,
    /// DNS domain of Kubernetes clusters.
    #[arg(
        long,
        default_value_t = Settings::default().cluster_domain,
        env = "ATLAS_CLUSTER_DOMAIN",
        help_heading = "Names"
    )]
    cluster_domain: String,
    /// DNS zone for Thanos.
    #[arg(
        long,
        default_value_t = Settings::default().dns_zone,
        env = "ATLAS_DNS_ZONE",
        help_heading = "Names"
    )]
    dns_zone: String,
    /// First part of every SPIFFE ID. Changing it issues every certificate anew.
    #[arg(
        long,
        default_value_t = Settings::default().trust_domain,
        env = "ATLAS_TRUST_DOMAIN",
        help_heading = "Names"
    )]
    trust_domain: TrustDomain,

    /// Namespace of the hub's Alertmanagers.
    #[arg(
        long,
        default_value_t = Settings::default().alertmanager_namespace,
        value_parser = dns_label,
        env = "ATLAS_ALERTMANAGER_NAMESPACE",
        help_heading = "The hub's Alertmanagers"
    )]
    alertmanager_namespace: String,
    /// Which Services are Alertmanagers of the hub.
    #[arg(
        long,
        default_value = selector_text(&Settings::default().alertmanager_selector),
        env = "ATLAS_ALERTMANAGER_SELECTOR",
        help_heading = "The hub's Alertmanagers"
    )]
    alertmanager_selector: String,
    /// The Service whose EndpointSlices list the Alertmanager replicas.
    #[arg(
        long,
        default_value_t = Settings::default().alertmanager_endpoints,
        env = "ATLAS_ALERTMANAGER_ENDPOINTS",
        help_heading = "The hub's Alertmanagers"
    )]
    alertmanager_endpoints: String,
    /// Path prefix (routePrefix) of the Alertmanagers.
    #[arg(
        long,
        default_value = format!("{}/", Settings::default().alertmanager_path_prefix),
        env = "ATLAS_ALERTMANAGER_PATH_PREFIX",
        help_heading = "The hub's Alertmanagers"
    )]
    alertmanager_path_prefix: String,

    /// Let clusters and the hub be at loopback, link-local and metadata addresses: for trying Atlas
    /// on one machine.
    #[arg(
        long,
        value_parser = clap::builder::BoolishValueParser::new(),
        env = "ATLAS_ALLOW_LOCAL_ADDRESSES",
        help_heading = "Safety"
    )]
    allow_local_addresses: bool,
}

impl SettingsArgs {
    /// The settings that these flags ask for. `xds_port` and `web_port` are Atlas's own ports.
    ///
    /// # Errors
    /// A flag is wrong; the error names it.
    pub fn settings(&self, xds_port: u16, web_port: u16) -> anyhow::Result<Settings> {
        let hub = self.hub_addresses("--hub-address", &self.hub_address, self.hub_xds_port)?;
        let own_xds =
            self.hub_addresses("--hub-xds-address", &self.hub_xds_address, self.hub_xds_port)?;
        let own_alerts = self.hub_addresses(
            "--hub-alerts-address",
            &self.hub_alerts_address,
            ports::HUB_ALERTS,
        )?;
        let hub_stores = self.hub_stores(&hub)?;
        let alerts_at_hub =
            hub.iter().map(|at| HostPort::new(at.host.clone(), ports::HUB_ALERTS)).collect();
        let atlas: Host =
            with_value("--atlas-address", &self.atlas_address, self.atlas_address.parse())?;
        for (flag, domain) in
            [("--cluster-domain", &self.cluster_domain), ("--dns-zone", &self.dns_zone)]
        {
            // A store's name is the longest that is made of it, and DNS allows 253 characters.
            ensure!(
                is_dns_name(domain) && domain.len() <= 150,
                "{flag}: {domain:?} is not a DNS name of at most 150 characters"
            );
        }
        Ok(Settings {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            alertmanager_namespace: self.alertmanager_namespace.clone(),
            alertmanager_selector: with_value(
                "--alertmanager-selector",
                &self.alertmanager_selector,
                parse_selector(&self.alertmanager_selector),
            )?,
            alertmanager_endpoints: self.alertmanager_endpoints.clone(),
            alertmanager_path_prefix: parse_path_prefix(&self.alertmanager_path_prefix)
                .with_context(|| {
                    format!(
                        "--alertmanager-path-prefix: {:?} is not an absolute path",
                        self.alertmanager_path_prefix
                    )
                })?,
            downstream_namespace: self.downstream_namespace.clone(),
            cluster_domain: self.cluster_domain.trim_matches('.').to_owned(),
            dns_zone: self.dns_zone.trim_matches('.').to_owned(),
            hub_xds: if own_xds.is_empty() { hub } else { own_xds },
            hub_alerts: if own_alerts.is_empty() { alerts_at_hub } else { own_alerts },
            hub_stores,
            hub_bind: self.bind_address,
            atlas_xds: HostPort::new(atlas.clone(), xds_port),
            atlas_web: HostPort::new(atlas, web_port),
            hub_envoy_memory: self.hub_envoy_memory,
            max_request_seconds: self.max_request_duration,
            trusted_hops: self.trusted_hops,
            allow_local_addresses: self.allow_local_addresses,
            envoy_selectors: with_value(
                "--envoy-selectors",
                &self.envoy_selectors,
                parse_selector(&self.envoy_selectors),
            )?,
            store_names: StoreNames::Zone,
            web_url: self.web_url.clone(),
            web_pass_headers: self.web_pass_headers.iter().cloned().collect(),
            web_pass_cookies: self.web_pass_cookies.iter().cloned().collect(),
        })
    }

    /// Addresses of the hub to which clusters' Envoys connect.
    fn hub_addresses(
        &self,
        flag: &str,
        texts: &[String],
        default_port: u16,
    ) -> anyhow::Result<Vec<HostPort>> {
        let one = |text: &String| {
            let at = with_value(flag, text, HostPort::parse(text, default_port))?;
            self.ensure_reachable(flag, &at.host, at.host.is_local())?;
            Ok(at)
        };
        texts.iter().map(one).collect()
    }

    /// Addresses to which Thanos Query connects, by default the same. Loopback is allowed: both may
    /// be on one machine.
    fn hub_stores(&self, hub: &[HostPort]) -> anyhow::Result<Vec<IpAddr>> {
        for ip in &self.hub_store_address {
            let host = Host::Ip(*ip);
            self.ensure_reachable(
                "--hub-store-address",
                &host,
                host.is_local() && !ip.to_canonical().is_loopback(),
            )?;
        }
        if !self.hub_store_address.is_empty() {
            return Ok(self.hub_store_address.clone());
        }
        let mut ips: Vec<IpAddr> = hub
            .iter()
            .filter_map(|at| if let Host::Ip(ip) = at.host { Some(ip) } else { None })
            .collect();
        ips.sort_unstable();
        ips.dedup();
        Ok(ips)
    }

    fn ensure_reachable(&self, flag: &str, host: &Host, local: bool) -> anyhow::Result<()> {
        ensure!(
            !local || self.allow_local_addresses,
            "{flag}: \"{host}\" is a loopback, link-local, multicast or metadata address, which would lead elsewhere than to the hub: \
             write the hub's real address (or add --allow-local-addresses)"
        );
        Ok(())
    }
}

/// Adds the flag and its value to an error: [`NameError`] has neither.
fn with_value<T>(flag: &str, value: &str, parsed: Result<T, NameError>) -> anyhow::Result<T> {
    parsed.map_err(|error| anyhow!("{flag}: {value:?} {error}"))
}

/// Reads the memory of an Envoy.
fn envoy_memory(text: &str) -> Result<Memory, String> {
    let memory: Memory = text.parse().map_err(|error: NameError| error.to_string())?;
    let least = atlas_core::model::LEAST_ENVOY_MEMORY;
    if memory < least {
        Err(format!("is less than an Envoy needs: write at least {least}"))
    } else {
        Ok(memory)
    }
}

/// Reads a duration in whole seconds, the unit of the message about a request that took longer.
fn max_request(text: &str) -> Result<u32, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let most = Settings::LONGEST_REQUEST_SECONDS;
    let seconds = u32::try_from(duration.as_secs())
        .ok()
        .filter(|seconds| duration.subsec_nanos() == 0 && (1..=most).contains(seconds));
    seconds.ok_or_else(|| "must be whole seconds, from 1s to 1h".into())
}

fn bind_address(text: &str) -> Result<IpAddr, NameError> {
    text.parse().map_err(|_| NameError("is not an IP address".into())).and_then(bindable)
}

#[cfg(test)]
mod tests;
