//! The flags that shape the plan, shared by every command that makes one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context;
use atlas_core::intake::{path_prefix, selector};
use atlas_core::keys::port;
use atlas_core::model::Settings;
use atlas_core::name::{Host, HostPort, TrustDomain};
use clap::Args;

/// What the operator configures once.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The hub")]
pub struct SettingsArgs {
    /// How clusters reach the hub Envoy: HOST[:PORT], comma-separated. Names are best: moving the hub then touches no
    /// cluster. A port is the xDS entry's.
    #[arg(long, visible_alias = "envoy-address", value_delimiter = ',', env = "ATLAS_HUB_ADDRESS")]
    hub_address: Vec<String>,
    /// Where the xDS entry is, if not at the hub's address.
    #[arg(long, alias = "envoy-ads-address", value_delimiter = ',', env = "ATLAS_HUB_XDS_ADDRESS")]
    hub_xds_address: Vec<String>,
    /// Port of the xDS entry.
    #[arg(long, alias = "envoy-ads-port", default_value_t = port::HUB_XDS, env = "ATLAS_HUB_XDS_PORT")]
    hub_xds_port: u16,
    /// Where alerts go in, if not at the hub's address: HOST[:PORT], comma-separated.
    #[arg(long, value_delimiter = ',', env = "ATLAS_HUB_ALERTS_ADDRESS")]
    hub_alerts_address: Vec<String>,
    /// IP addresses at which Thanos Query reaches the hub Envoy's stores: the address records of the DNS zone.
    #[arg(long, value_delimiter = ',', env = "ATLAS_HUB_STORE_ADDRESS")]
    hub_store_address: Vec<IpAddr>,
    /// Where the hub Envoy binds.
    #[arg(long, default_value = "::", env = "ATLAS_BIND_ADDRESS")]
    bind_address: IpAddr,
    /// How the hub Envoy reaches Atlas.
    #[arg(long, default_value = "127.0.0.1", env = "ATLAS_ATLAS_ADDRESS")]
    atlas_address: String,
    /// Proxies in front of the web UIs (your ingress) whose x-forwarded-for is trusted.
    #[arg(long, default_value_t = 0, env = "ATLAS_TRUSTED_HOPS")]
    trusted_hops: u32,

    /// Namespace in which Services are downstream clusters.
    #[arg(long, default_value = "monitoring", env = "ATLAS_NAMESPACE", help_heading = "Names")]
    namespace: String,
    /// Namespace of the services inside a downstream cluster, where an annotation doesn't say.
    #[arg(long, default_value = "monitoring", env = "ATLAS_DOWNSTREAM_NAMESPACE", help_heading = "Names")]
    downstream_namespace: String,
    /// DNS domain of Kubernetes clusters.
    #[arg(long, default_value = "cluster.local", env = "ATLAS_CLUSTER_DOMAIN", help_heading = "Names")]
    cluster_domain: String,
    /// DNS zone for Thanos.
    #[arg(long, default_value = "atlas", env = "ATLAS_DNS_ZONE", help_heading = "Names")]
    dns_zone: String,
    /// First part of every SPIFFE ID. Changing it issues every certificate anew.
    #[arg(long, default_value = "atlas", env = "ATLAS_TRUST_DOMAIN", help_heading = "Names")]
    trust_domain: TrustDomain,

    /// Namespace of the hub's Alertmanagers.
    #[arg(long, default_value = "monitoring", env = "ATLAS_ALERTMANAGER_NAMESPACE", help_heading = "The hub's Alertmanagers")]
    alertmanager_namespace: String,
    /// Which Services are Alertmanagers of the hub.
    #[arg(
        long,
        default_value = "app=kube-prometheus-stack-alertmanager",
        env = "ATLAS_ALERTMANAGER_SELECTOR",
        help_heading = "The hub's Alertmanagers"
    )]
    alertmanager_selector: String,
    /// The Service whose EndpointSlices list the Alertmanager replicas.
    #[arg(long, default_value = "alertmanager-operated", env = "ATLAS_ALERTMANAGER_ENDPOINTS", help_heading = "The hub's Alertmanagers")]
    alertmanager_endpoints: String,
    /// Path prefix (routePrefix) of the Alertmanagers.
    #[arg(long, default_value = "/", env = "ATLAS_ALERTMANAGER_PATH_PREFIX", help_heading = "The hub's Alertmanagers")]
    alertmanager_path_prefix: String,

    /// Let clusters be at loopback, link-local and metadata addresses: for trying Atlas on one machine.
    #[arg(long, value_parser = clap::builder::BoolishValueParser::new(), env = "ATLAS_ALLOW_LOCAL_ADDRESSES", help_heading = "Safety")]
    allow_local_addresses: bool,
}

impl SettingsArgs {
    /// Checks what can't be checked by a type alone. `xds_port` and `web_port` are Atlas's own.
    ///
    /// # Errors
    /// The flag and what is wrong with it.
    pub fn settings(&self, xds_port: u16, web_port: u16) -> anyhow::Result<Settings> {
        let hub = parse_all("--hub-address", &self.hub_address, self.hub_xds_port)?;
        let own_xds = parse_all("--hub-xds-address", &self.hub_xds_address, self.hub_xds_port)?;
        let own_alerts = parse_all("--hub-alerts-address", &self.hub_alerts_address, port::HUB_ALERTS)?;
        let alerts_at_hub = hub.iter().map(|at| HostPort::new(at.host.clone(), port::HUB_ALERTS)).collect();
        let atlas: Host = self.atlas_address.parse().context("--atlas-address")?;
        for (flag, domain) in [("--cluster-domain", &self.cluster_domain), ("--dns-zone", &self.dns_zone)] {
            // The longest name made of it, that of a store, must stay within DNS's 253 characters.
            anyhow::ensure!(
                atlas_core::name::is_dns_name(domain) && domain.len() <= 150,
                "{flag}: {domain:?} is not a DNS name of at most 150 characters"
            );
        }
        Ok(Settings {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
            alertmanager_namespace: self.alertmanager_namespace.clone(),
            alertmanager_selector: selector(&self.alertmanager_selector).context("--alertmanager-selector")?,
            alertmanager_endpoints: self.alertmanager_endpoints.clone(),
            alertmanager_path_prefix: path_prefix(&self.alertmanager_path_prefix)
                .with_context(|| format!("--alertmanager-path-prefix: {:?} is not an absolute path", self.alertmanager_path_prefix))?,
            downstream_namespace: self.downstream_namespace.clone(),
            cluster_domain: self.cluster_domain.trim_matches('.').to_owned(),
            dns_zone: self.dns_zone.trim_matches('.').to_owned(),
            hub_xds: if own_xds.is_empty() { hub } else { own_xds },
            hub_alerts: if own_alerts.is_empty() { alerts_at_hub } else { own_alerts },
            hub_stores: self.hub_store_address.clone(),
            hub_bind: self.bind_address,
            atlas_xds: HostPort::new(atlas.clone(), xds_port),
            atlas_web: HostPort::new(atlas, web_port),
            trusted_hops: self.trusted_hops,
            allow_local_addresses: self.allow_local_addresses,
            envoy_selectors: BTreeMap::from([("app".into(), "envoy".into()), ("release".into(), "atlas".into())]),
        })
    }
}

fn parse_all(flag: &str, texts: &[String], default_port: u16) -> anyhow::Result<Vec<HostPort>> {
    texts.iter().map(|text| HostPort::parse(text, default_port).with_context(|| flag.to_owned())).collect()
}
