//! A downstream cluster: its Envoy, two Prometheus with a Thanos sidecar each, an Alertmanager, its
//! DNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::hub::admin;
use super::{Hub, Place, program, wait_status};
use crate::http::{self, Response};
use crate::parts::Part;
use crate::run::{
    Alertmanager, AlertmanagerOptions, CoreDns, Envoy, EnvoyOptions, Prometheus, PrometheusOptions,
    Sidecar, SidecarOptions, labels,
};
use crate::world::Host;

/// kube-prometheus-stack's default name for Prometheus's Pods, without the number.
const POD: &str = "prometheus-kube-prometheus-stack-prometheus";

/// Options of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub name: String,
    /// Which Prometheus.
    pub prometheus: Part,
    /// Which Alertmanager.
    pub alertmanager: Part,
    /// Which Envoy.
    pub envoy: Part,
    /// How many Prometheus.
    pub replicas: usize,
    /// Whether its Prometheus sends alerts to its own Alertmanager too, beside the hub's.
    pub local_alerts: bool,
    /// More annotations of its Service.
    pub annotations: Vec<(String, String)>,
    /// Whether it has its own CoreDNS with kube-prometheus-stack's names. The demo has one hosts
    /// file for all clusters and uses [`demo_names`] instead.
    pub own_dns: bool,
}

impl ClusterOptions {
    /// Two Prometheus 3, an Alertmanager and the newest Envoy.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            prometheus: Part::Prometheus,
            alertmanager: Part::Alertmanager,
            envoy: Part::Envoy,
            replicas: 2,
            local_alerts: false,
            annotations: Vec::new(),
            own_dns: true,
        }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    pub name: String,
    pub place: Place,
    pub envoy: Envoy,
    pub prometheus: Vec<Prometheus>,
    pub sidecars: Vec<Sidecar>,
    pub alertmanager: Alertmanager,
    pub dns: Option<CoreDns>,
}

/// Names and addresses of a cluster for a hosts file that all clusters share.
pub fn demo_names(place: &Place, name: &str) -> Vec<(IpAddr, String)> {
    let pods = (0..2).flat_map(|n| {
        let ip = place.programs[n];
        [
            (ip, format!("prometheus-k8s-{n}.prometheus.{name}.demo")),
            (ip, format!("prometheus.{name}.demo")),
        ]
    });
    pods.chain([(place.programs[2], format!("alertmanager.{name}.demo"))]).collect()
}

impl Cluster {
    /// Starts its programs, writes its manifest for Atlas, and starts its Envoy with the bootstrap
    /// that Atlas wrote.
    ///
    /// # Errors
    /// A program doesn't start.
    pub fn start(place: Place, hub: &mut Hub, options: ClusterOptions) -> Result<Self> {
        let name = options.name.as_str();
        let dns = if options.own_dns { Some(own_dns(&place, options.replicas)?) } else { None };
        // The configuration that Atlas documents; it is the same for any number of Alertmanagers.
        let mut alerting = vec![json!({
            "api_version": "v2",
            "http_sd_configs": [{"url": format!("http://{}/alertmanagers", SocketAddr::new(place.envoy, 11903)), "refresh_interval": "1s"}],
            "relabel_configs": [{"source_labels": ["atlas_alerts_path"], "target_label": "__alerts_path__"}],
        })];
        if options.local_alerts {
            let own = SocketAddr::new(alertmanager_ip(&place), 9093).to_string();
            alerting.push(json!({"api_version": "v2", "static_configs": [{"targets": [own]}]}));
        }
        let alerting = Value::from(alerting);
        let web_url = |path: &str| hub.web_url(path);
        let Programs { prometheus, mut sidecars, mut alertmanager } = Programs::start(
            &place,
            name,
            (options.prometheus, options.alertmanager),
            options.replicas,
            &alerting,
            web_url,
        )?;
        hub.atlas
            .write_manifest(&format!("{name}.yaml"), &manifest(&place, &options).to_string())?;
        wait_status(&hub.atlas, "the cluster in Atlas's status", |status| {
            status["clusters"]
                .as_array()
                .is_some_and(|clusters| clusters.iter().any(|cluster| cluster["name"] == name))
        })?;
        hub.resolve_stores()?;
        let envoy = EnvoyOptions::new(carry(&hub.atlas, &place.host, name)?, admin(&place));
        let mut envoy =
            Envoy::start(&place.host, &format!("{name}-envoy"), &program(options.envoy)?, &envoy)?;
        envoy.wait_live()?;
        alertmanager.wait_ready()?;
        for sidecar in &mut sidecars {
            sidecar.wait_ready()?;
        }
        Ok(Self { name: options.name, place, envoy, prometheus, sidecars, alertmanager, dns })
    }

    /// `GET` on its Envoy's alert port, as its Prometheus would.
    ///
    /// # Errors
    /// No answer.
    pub fn alerts_port(&self, path: &str) -> Result<Response> {
        let url = format!("http://{}{path}", SocketAddr::new(self.place.envoy, 11903));
        self.place.host.within(|| http::get(&url))
    }
}

/// Writes the bootstrap files of a node's Envoy on its host, by `atlas bootstrap`.
///
/// # Errors
/// `atlas bootstrap` fails.
fn carry(atlas: &super::Atlas, host: &Host, name: &str) -> Result<std::path::PathBuf> {
    let out = host.dir().join(format!("envoy-{name}"));
    let path = atlas.command(&[
        "bootstrap",
        name,
        "--out",
        out.to_str().context("a directory's name is UTF-8")?,
    ])?;
    Ok(path.trim().into())
}

/// The monitoring programs of a cluster.
#[derive(Debug)]
pub struct Programs {
    pub prometheus: Vec<Prometheus>,
    pub sidecars: Vec<Sidecar>,
    pub alertmanager: Alertmanager,
}

impl Programs {
    /// Starts them on the addresses that [`names`] names. `parts`: which Prometheus and which
    /// Alertmanager; `alertmanagers`: the list for Prometheus's configuration; `web_url`: the URL
    /// of a path at the hub.
    pub(super) fn start(
        place: &Place,
        name: &str,
        parts: (Part, Part),
        replicas: usize,
        alertmanagers: &Value,
        web_url: impl Fn(&str) -> String,
    ) -> Result<Self> {
        // The replicas' alerts must be equal, or each arrives once per replica. The operator writes
        // the same configuration.
        let relabel = json!([{"regex": "prometheus_replica", "action": "labeldrop"}]);
        let alerting =
            json!({"alert_relabel_configs": relabel, "alertmanagers": alertmanagers}).to_string();
        let mut prometheus = Vec::new();
        for n in 0..replicas {
            let replica = format!("prometheus-{n}");
            let options = PrometheusOptions {
                external_labels: labels([
                    ("cluster", name),
                    ("prometheus_replica", replica.as_str()),
                ]),
                external_url: Some(web_url(&format!("/prom/{name}"))),
                route_prefix: Some("/".into()),
                alerting: Some(alerting.clone()),
                rules: Some(rules()),
                ..PrometheusOptions::new(SocketAddr::new(place.programs[n], 9090))
            };
            prometheus.push(Prometheus::start(
                &place.host,
                &format!("{name}-prometheus-{n}"),
                &program(parts.0)?,
                &options,
            )?);
        }
        let external_url = Some(web_url(&format!("/alertmanager/{name}")));
        let listen = SocketAddr::new(alertmanager_ip(place), 9093);
        let options = AlertmanagerOptions {
            external_url,
            route_prefix: Some("/".into()),
            ..AlertmanagerOptions::new(listen)
        };
        let alertmanager = Alertmanager::start(
            &place.host,
            &format!("{name}-alertmanager"),
            &program(parts.1)?,
            &options,
        )?;
        let mut sidecars = Vec::new();
        for (n, server) in prometheus.iter_mut().enumerate() {
            // A sidecar that starts before its Prometheus tries again only after 30 s.
            server.wait_ready()?;
            let ip = place.programs[n];
            let sidecar = SidecarOptions::new(
                SocketAddr::new(ip, 10901),
                SocketAddr::new(ip, 10902),
                server.url(),
            );
            sidecars.push(Sidecar::start(
                &place.host,
                &format!("{name}-sidecar-{n}"),
                &program(Part::Thanos)?,
                &sidecar,
            )?);
        }
        Ok(Self { prometheus, sidecars, alertmanager })
    }
}

/// The names of kube-prometheus-stack's Services and Pods in `namespace` of a cluster with this DNS
/// domain.
pub(super) fn names(
    place: &Place,
    replicas: usize,
    namespace: &str,
    domain: &str,
) -> Vec<(IpAddr, String)> {
    let operated = format!("prometheus-operated.{namespace}.svc.{domain}");
    let pods = (0..replicas).flat_map(|n| {
        [
            (place.programs[n], operated.clone()),
            (place.programs[n], format!("{POD}-{n}.{operated}")),
        ]
    });
    pods.chain([(
        alertmanager_ip(place),
        format!("alertmanager-operated.{namespace}.svc.{domain}"),
    )])
    .collect()
}

fn alertmanager_ip(place: &Place) -> IpAddr {
    place.programs[2]
}

/// One alert that always fires.
fn rules() -> String {
    json!({"groups": [{"name": "atlas", "interval": "1s", "rules": [
        {"alert": "Watchdog", "expr": "vector(1)", "labels": {"severity": "none"}, "annotations": {"summary": "alerts arrive"}},
    ]}]})
    .to_string()
}

/// The cluster's Service.
pub(super) fn manifest(place: &Place, options: &ClusterOptions) -> Value {
    let mut annotations: serde_json::Map<String, Value> =
        options.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let mut annotate = |key: &str, value: String| {
        annotations.entry(format!("goatlas.io/{key}")).or_insert(json!(value));
    };
    annotate("addresses", place.envoy.to_string());
    if let Some(bind) = place.bind {
        annotate("bind-address", bind.to_string());
    }
    if !options.own_dns {
        let name = &options.name;
        annotate("thanos-service", format!("prometheus.{name}.demo"));
        annotate("prometheus-service", format!("prometheus.{name}.demo"));
        annotate("alertmanager-service", format!("alertmanager.{name}.demo"));
        annotate("prometheus-name", "k8s".into());
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": options.name, "namespace": "monitoring",
            "labels": {"goatlas.io/cluster": "true", "goatlas.io/replicas": options.replicas.to_string()},
            "annotations": annotations,
        },
        "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 10901}]},
    })
}

/// Starts the cluster's own DNS, with the names of kube-prometheus-stack's Services and Pods.
fn own_dns(place: &Place, replicas: usize) -> Result<CoreDns> {
    let names = names(place, replicas, "monitoring", "cluster.local");
    let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
    let corefile = CoreDns::corefile(listen, names.iter().map(|(ip, name)| (*ip, name.as_str())));
    let mut dns =
        CoreDns::start(&place.host, "coredns", &program(Part::CoreDns)?, listen, &corefile)?;
    dns.wait_ready()?;
    place.host.write_resolv_conf("nameserver 127.0.0.1\n")?;
    Ok(dns)
}
