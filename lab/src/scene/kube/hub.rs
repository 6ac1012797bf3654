//! The hub on Kubernetes: two Atlas and an Envoy of the chart, Alertmanagers and Thanos Query.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::proxy::Proxy;
use super::{HUB_NAME, KubeOptions, Stores, Zone, deployment, install, rendered};
use crate::http::{self, Response};
use crate::parts::Part;
use crate::process::wait_until;
use crate::run::{
    Alertmanager, AlertmanagerOptions, CoreDns, Corefile, Endpoints, Kube, Kubelet, Pod, Query,
    QueryOptions, START,
};
use crate::scene::hub::synced;
use crate::scene::{Place, program};
use crate::world::{Host, World};

/// The name of the Helm release.
const RELEASE: &str = "atlas";

/// A running hub.
#[derive(Debug)]
pub struct KubeHub {
    pub options: KubeOptions,
    /// The host of most programs.
    pub place: Place,
    /// The host of the second Atlas, and of the second Envoy if there is one.
    pub second: Host,
    /// Thanos Query.
    pub query: Query,
    /// The hub's Alertmanagers, by index.
    pub alertmanagers: Vec<Alertmanager>,
    /// The hub Envoy's Pods.
    pub envoys: Vec<Pod>,
    /// Atlas's Pods, by index.
    pub atlas: Vec<Pod>,
    /// The cluster's DNS.
    pub dns: CoreDns,
    /// The chart's objects.
    pub objects: Vec<Value>,
    /// The Pod of the chart's own CoreDNS.
    pub zone_dns: Option<Pod>,
    /// Mounts the SD file for Thanos Query.
    _mount: Pod,
    /// Forwards cluster IPs to Pods.
    pub(super) proxy: Proxy,
    pub kube: Kube,
}

impl KubeHub {
    /// Starts the hub's programs, without clusters.
    ///
    /// # Errors
    /// A program doesn't start.
    pub fn start(world: &World, options: KubeOptions) -> Result<Self> {
        let (place, second) = (Place::in_world(world, "hub")?, world.host("hub2")?);
        let zone_host = (options.zone == Zone::CoreDns).then(|| world.host("dns")).transpose()?;
        let kube = Kube::start(&place.host)?;
        let namespace = options.namespace.as_str();
        kube.namespace(namespace, &[])?;
        let mut alertmanagers = start_alertmanagers(&kube, &place, namespace)?;

        let objects = rendered("atlas", RELEASE, namespace, &[&values(&options)])?;
        install(&kube, "atlas", RELEASE, namespace, &[&values(&options)])?;
        let proxy = Proxy::start(world, &kube)?;
        proxy.serve(namespace, RELEASE)?;
        for host in [&place.host, &second] {
            proxy.route(host)?;
        }
        let zone_servers: Vec<IpAddr> = match &zone_host {
            Some(host) => vec![host.ip().into()],
            None => vec![place.host.ip().into(), second.ip().into()],
        };
        let dns = start_dns(&kube, &place.host, &second, &options.domain, &zone_servers)?;

        let (atlas_of, envoy_of) =
            (deployment(&objects, "atlas")?, deployment(&objects, "atlas-envoy")?);
        // The Envoy's Pod waits for the Secret that the leader writes, so it starts first.
        let (atlas, envoy) = thread::scope(|scope| {
            let envoy = scope.spawn(|| {
                Kubelet::run(&kube, &place.host, envoy_of, "atlas-envoy-0", &program(Part::Envoy)?)
            });
            let atlas: Result<Vec<Pod>> = [(&place.host, "atlas-0"), (&second, "atlas-1")]
                .into_iter()
                .map(|(host, name)| Kubelet::run(&kube, host, atlas_of, name, &options.atlas))
                .collect();
            (atlas, envoy.join())
        });
        let mut atlas = atlas?;
        atlas.iter_mut().try_for_each(|pod| pod.wait_ready(START))?;
        let mut envoys = vec![envoy.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?];
        envoys.iter_mut().try_for_each(|pod| pod.wait_ready(START))?;
        let zone_dns = zone_host.map(|host| -> Result<Pod> {
            let mut pod = Kubelet::run(
                &kube,
                &host,
                deployment(&objects, "atlas-coredns")?,
                "atlas-coredns-0",
                &program(Part::CoreDns)?,
            )?;
            pod.wait_ready(START)?;
            Ok(pod)
        });
        let zone_dns = zone_dns.transpose()?;

        let mount = Kubelet::run(
            &kube,
            &place.host,
            &mounting(namespace),
            "thanos-query-0",
            Path::new("/bin/sleep"),
        )?;
        let endpoints = match options.stores {
            Stores::File => Endpoints::File(
                mount.volume(ENDPOINTS).context("BUG: nothing is mounted")?.join("endpoints.yaml"),
            ),
            Stores::Srv => {
                Endpoints::Address("dnssrvnoa+_thanos._tcp.sidecars.thanos.atlas".into())
            }
        };
        let (grpc, web) =
            (SocketAddr::new(place.programs[0], 10911), SocketAddr::new(place.programs[0], 10902));
        let query = QueryOptions {
            replica_labels: vec!["prometheus_replica".into()],
            ..QueryOptions::new(grpc, web, [endpoints])
        };
        let mut query = Query::start(&place.host, "thanos-query", &program(Part::Thanos)?, &query)?;
        query.wait_ready()?;
        alertmanagers.iter_mut().try_for_each(Alertmanager::wait_ready)?;
        Ok(Self {
            options,
            place,
            second,
            query,
            alertmanagers,
            envoys,
            atlas,
            dns,
            objects,
            zone_dns,
            _mount: mount,
            proxy,
            kube,
        })
    }

    /// Starts another Envoy, on the second host.
    ///
    /// # Errors
    /// It doesn't start.
    pub fn start_second_envoy(&mut self) -> Result<()> {
        let deployment = deployment(&self.objects, "atlas-envoy")?;
        let mut pod = Kubelet::run(
            &self.kube,
            &self.second,
            deployment,
            "atlas-envoy-1",
            &program(Part::Envoy)?,
        )?;
        pod.wait_ready(START)?;
        self.envoys.push(pod);
        Ok(())
    }

    /// The API path of an object in the hub's namespace, such as `services/tokyo`.
    pub fn at(&self, path: &str) -> String {
        format!("/api/v1/namespaces/{}/{path}", self.options.namespace)
    }

    /// The status page's JSON of one Atlas.
    ///
    /// # Errors
    /// It doesn't answer.
    pub fn status(&self, replica: usize) -> Result<Value> {
        let url =
            format!("http://{}/api/v1/status", SocketAddr::new(self.atlas[replica].ip(), 6310));
        self.place.host.within(|| http::get(&url))?.ok()?.json()
    }

    /// The status of every Atlas that answers.
    pub fn statuses(&self) -> Vec<Value> {
        (0..self.atlas.len()).filter_map(|replica| self.status(replica).ok()).collect()
    }

    /// The index of the leader, by the first status that names it.
    ///
    /// # Errors
    /// No status names a leader.
    pub fn leader(&self) -> Result<usize> {
        let statuses = self.statuses();
        let names = statuses.iter().filter_map(|status| status["leader"].as_str());
        let find = |name: &str| {
            self.atlas.iter().position(|pod| name.starts_with(&format!("{}_", pod.name())))
        };
        names.filter_map(find).next().with_context(|| format!("nobody leads: {statuses:#?}"))
    }

    /// The Envoys of a node with an open stream to any Atlas.
    pub fn instances(&self, node: &str) -> Vec<Value> {
        let statuses = self.statuses();
        let nodes = statuses.iter().filter_map(|status| status["nodes"].as_array()).flatten();
        nodes
            .filter(|entry| entry["node"] == node)
            .filter_map(|entry| entry["instances"].as_array())
            .flatten()
            .cloned()
            .collect()
    }

    /// Waits until these clusters' Envoys and the hub's are connected and in sync.
    ///
    /// # Errors
    /// It takes too long; the statuses are in the error.
    pub fn wait_synced<'a>(&self, clusters: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let nodes: Vec<&str> = clusters.into_iter().chain(["hub"]).collect();
        wait_until("every Envoy in sync", START, || {
            let statuses = self.statuses();
            anyhow::ensure!(
                nodes.iter().all(|node| synced(&statuses, node)),
                "the statuses are {statuses:#?}"
            );
            Ok(Some(()))
        })
    }

    /// `GET` on the hub's web port, as a browser would.
    ///
    /// # Errors
    /// No answer.
    pub fn web(&self, path: &str) -> Result<Response> {
        let url = self.web_url(path);
        self.place.host.within(|| http::get(&url))
    }

    /// The address of a path on the hub's web port.
    pub fn web_url(&self, path: &str) -> String {
        format!("http://{}{path}", SocketAddr::new(self.place.envoy, 10904))
    }
}

impl KubeHub {
    /// Runs one of Atlas's commands with the admin's kubeconfig; returns its output.
    ///
    /// # Errors
    /// The command fails; the error has its standard error.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.options.atlas);
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(self.kube.admin_kubeconfig())
            .args(["--namespace", &self.options.namespace]);
        let output = self.kube.host().within(|| command.output().context("atlas doesn't start"))?;
        ensure!(
            output.status.success(),
            "atlas {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The values for the hub's chart. JSON is valid YAML.
fn values(options: &KubeOptions) -> String {
    json!({
        "clusterDomain": options.domain,
        "atlas": {"hubAddress": HUB_NAME, "downstreamNamespace": options.namespace, "logFormat": "text"},
        "envoy": {"logLevel": "warning", "service": {"type": "ClusterIP"}},
        "coredns": {"enabled": options.zone == Zone::CoreDns},
    })
    .to_string()
}

/// The directory of the SD file in Thanos Query's container.
const ENDPOINTS: &str = "/etc/thanos/endpoints";

/// A Deployment that only mounts the ConfigMap with the SD file. Thanos Query itself runs outside
/// it, as a [`Query`].
fn mounting(namespace: &str) -> Value {
    json!({
        "metadata": {"name": "thanos-query", "namespace": namespace},
        "spec": {"template": {
            "metadata": {"labels": {"app": "thanos-query"}},
            "spec": {
                "containers": [{
                    "name": "query", "image": "example.invalid/none", "args": ["infinity"],
                    "volumeMounts": [{"name": "endpoints", "mountPath": ENDPOINTS}],
                }],
                "volumes": [{"name": "endpoints", "configMap": {"name": "atlas-thanos-endpoints"}}],
            },
        }},
    })
}

/// Two Alertmanagers as the operator would run them: Pods behind a headless Service.
fn start_alertmanagers(kube: &Kube, place: &Place, namespace: &str) -> Result<Vec<Alertmanager>> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "alertmanager-operated"},
        "spec": {
            "clusterIP": "None", "selector": {"alertmanager": "main"},
            "ports": [{"name": "http-web", "port": 9093, "targetPort": "http-web"}],
        },
    });
    kube.apply_objects(namespace, &[service])?;
    let start = |(n, ip): (usize, &IpAddr)| {
        let options = AlertmanagerOptions::new(SocketAddr::new(*ip, 9093));
        let started = Alertmanager::start(
            &place.host,
            &format!("alertmanager-{n}"),
            &program(Part::Alertmanager)?,
            &options,
        )?;
        let (name, labels) = (format!("alertmanager-main-{n}"), [("alertmanager", "main")]);
        kube.pod_with_ip(namespace, &name, &labels, *ip, &[("http-web", 9093)])?;
        Ok(started)
    };
    place.programs[1..3].iter().enumerate().map(start).collect()
}

/// Starts the hub cluster's DNS: Kubernetes' names, and a forward for the stores' zone.
fn start_dns(
    kube: &Kube,
    host: &Host,
    second: &Host,
    domain: &str,
    zone_servers: &[IpAddr],
) -> Result<CoreDns> {
    let listen = SocketAddr::new(host.ip().into(), 53);
    let servers: Vec<String> =
        zone_servers.iter().map(|ip| SocketAddr::new(*ip, 5353).to_string()).collect();
    let corefile = Corefile::new(listen)
        .kubernetes(domain, &kube.admin_kubeconfig())
        .zone("atlas", &format!("forward . {}", servers.join(" ")));
    let mut dns =
        CoreDns::start(host, "coredns", &program(Part::CoreDns)?, listen, corefile.text())?;
    dns.wait_ready()?;
    for host in [host, second] {
        host.write_resolv_conf(&format!("nameserver {}\n", listen.ip()))?;
    }
    Ok(dns)
}
