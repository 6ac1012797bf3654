//! A downstream cluster of a hub on Kubernetes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::{HUB_NAME, KubeHub, deployment, install, rendered};
use crate::http::{self, Response};
use crate::parts::Part;
use crate::process::wait_until;
use crate::run::{CoreDns, Corefile, Kubelet, Pod, START};
use crate::scene::cluster::{ClusterOptions, Programs, manifest, names};
use crate::scene::{Place, program};
use crate::world::World;

/// The name of the Helm release and of the chart's objects.
const RELEASE: &str = "envoy";

/// A running cluster.
#[derive(Debug)]
pub struct KubeCluster {
    /// Its name, and its namespace's.
    pub name: String,
    pub place: Place,
    pub envoy: Pod,
    pub programs: Programs,
    pub dns: CoreDns,
    /// The names in its DNS beside the hub's.
    names: Vec<(IpAddr, String)>,
}

impl KubeCluster {
    /// Adds the cluster to the hub, installs its Envoy with the values that Atlas writes, and
    /// starts its programs.
    ///
    /// # Errors
    /// A program doesn't start.
    pub fn start(world: &World, hub: &KubeHub, name: &str, replicas: usize) -> Result<Self> {
        let (place, kube, options) = (Place::in_world(world, name)?, &hub.kube, &hub.options);
        let values = if options.by_commands {
            hub.command(&[
                "cluster-add",
                name,
                "--address",
                &place.envoy.to_string(),
                "--replicas",
                &replicas.to_string(),
            ])?;
            hub.command(&["cluster-values", "--name", name])?
        } else {
            kube.apply_objects(&options.namespace, &[service(hub, &place, name, replicas)])?;
            values(hub, name)?
        };

        kube.namespace(name, &[("pod-security.kubernetes.io/enforce", "restricted")])?;
        let values = [values.as_str(), "logLevel: warning\nservice: {type: ClusterIP}\n"];
        let objects = rendered("envoy", RELEASE, name, &values)?;
        install(kube, "envoy", RELEASE, name, &values)?;
        let alerts = hub.proxy.serve(name, &format!("{RELEASE}-alerts"))?;
        hub.proxy.route(&place.host)?;

        let mut names = names(&place, replicas, &options.namespace, &options.domain);
        // Short, as the search path of a Pod's resolv.conf allows.
        names.push((alerts, format!("{RELEASE}-alerts.{name}.svc")));
        write_names(&place, &names, hub.place.envoy)?;
        let dns = start_dns(&place)?;

        let envoy = deployment(&objects, RELEASE)?;
        let mut envoy = Kubelet::run(
            kube,
            &place.host,
            envoy,
            &format!("{name}-envoy-0"),
            &program(Part::Envoy)?,
        )?;
        envoy.wait_ready(START)?;
        // Prometheus reads the list once a minute, so it has to be complete from the start.
        wait_until("the Envoy lists the hub's Alertmanagers", START, || {
            let answer = alerts_port(&place, "/alertmanagers")?;
            let list: Value = answer.json()?;
            ensure!(list.as_array().is_some_and(|list| !list.is_empty()), "it lists {list}");
            Ok(Some(()))
        })?;
        let alertmanagers = alertmanager_configs(&objects)?;
        let web_url = |path: &str| hub.web_url(path);
        let mut programs = Programs::start(
            &place,
            name,
            (Part::Prometheus, Part::Alertmanager),
            replicas,
            &alertmanagers,
            web_url,
        )?;
        programs.alertmanager.wait_ready()?;
        for sidecar in &mut programs.sidecars {
            sidecar.wait_ready()?;
        }
        Ok(Self { name: name.to_owned(), place, envoy, programs, dns, names })
    }

    /// Its Service at the hub.
    pub fn service(&self, hub: &KubeHub, replicas: usize) -> Value {
        service(hub, &self.place, &self.name, replicas)
    }

    /// Changes the hub's address in its DNS.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn move_hub(&self, to: IpAddr) -> Result<()> {
        write_names(&self.place, &self.names, to)
    }

    /// `GET` on its Envoy's alert port, as its Prometheus would.
    ///
    /// # Errors
    /// No answer.
    pub fn alerts_port(&self, path: &str) -> Result<Response> {
        alerts_port(&self.place, path)
    }
}

/// Waits for the Helm values that Atlas writes for a cluster's Envoy.
///
/// # Errors
/// They are not written in time.
pub fn values(hub: &KubeHub, name: &str) -> Result<String> {
    let secret =
        hub.kube.wait_for(&hub.at(&format!("secrets/{name}-envoy-values")), START, |_| true)?;
    let encoded =
        secret["data"]["values.yaml"].as_str().context("the values Secret has no values.yaml")?;
    Ok(String::from_utf8(BASE64_STANDARD.decode(encoded)?)?)
}

fn service(hub: &KubeHub, place: &Place, name: &str, replicas: usize) -> Value {
    let mut service = manifest(place, &ClusterOptions { replicas, ..ClusterOptions::new(name) });
    service["metadata"]["namespace"] = hub.options.namespace.clone().into();
    service
}

/// The list of Alertmanagers that the chart gives to the cluster's Prometheus.
fn alertmanager_configs(objects: &[Value]) -> Result<Value> {
    let secret =
        objects.iter().find(|object| object["metadata"]["name"] == "atlas-alertmanager-configs");
    let text = secret
        .and_then(|secret| secret["stringData"]["config.yaml"].as_str())
        .context("the chart has no list of Alertmanagers")?;
    Ok(serde_yaml_ng::from_str(text)?)
}

fn alerts_port(place: &Place, path: &str) -> Result<Response> {
    let url = format!("http://{}{path}", SocketAddr::new(place.envoy, 11903));
    place.host.within(|| http::get(&url))
}

/// Starts the cluster's own DNS, which reads its names again every second.
fn start_dns(place: &Place) -> Result<CoreDns> {
    let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
    let corefile =
        Corefile::new(listen).zone(".", "hosts names {\n        ttl 1\n        reload 1s\n    }");
    let mut dns =
        CoreDns::start(&place.host, "coredns", &program(Part::CoreDns)?, listen, corefile.text())?;
    dns.wait_ready()?;
    place.host.write_resolv_conf("nameserver 127.0.0.1\n")?;
    Ok(dns)
}

fn write_names(place: &Place, names: &[(IpAddr, String)], hub: IpAddr) -> Result<()> {
    let lines = names
        .iter()
        .map(|(ip, name)| format!("{ip} {name}\n"))
        .chain([format!("{hub} {HUB_NAME}\n")]);
    let half = place.host.write("coredns/names.new", lines.collect::<String>())?;
    // By a rename, so that CoreDNS never reads a partial file.
    fs::rename(&half, half.with_file_name("names")).context("cannot replace the names")
}
