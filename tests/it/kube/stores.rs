//! The names of the stores, and the hub's Envoys behind them: what a change of pods costs, and how
//! Services of an earlier Atlas, which selected the pods themselves, become what they are now.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atlas_lab::parts::{self, Part};
use atlas_lab::process::{Proc, wait_until};
use atlas_lab::run::{CoreDns, Corefile, Kube, Pace};
use atlas_lab::scene::kube::rendered;
use atlas_lab::world::{Host, World};
use atlas_lab::world_test;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use serde_json::{Value, json};

use super::SECOND;
use super::many::add;
use crate::atlas;
use crate::kube_writer::at;

const NAMESPACE: &str = "monitoring";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/monitoring/endpointslices";
/// Of stores, as Atlas's Services and what Kubernetes makes of them are labelled.
const OF_STORES: &str = "labelSelector=goatlas.io%2Fpart%3Dstore";

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, CoreDns],
    within 240,
    fn kube_new_pods_of_the_hub_cost_the_same_at_eight_hundred_stores(world) {
        const CLUSTERS: usize = 400;
        let host = world.host("hub")?;
        let kube = Kube::start_at(&host, Pace::AsShipped)?;
        kube.namespace(NAMESPACE, &[])?;
        let dns = Dns::start(world, &kube)?;
        for number in [1, 2] {
            envoy(&kube, number)?;
        }
        let _atlas = crate::kube_writer::start_atlas(&host, &kube, "atlas")?;
        thread::scope(|scope| {
            let add = |n: usize| {
                let client = kube.client().clone();
                scope.spawn(move || (n..CLUSTERS).step_by(8).try_for_each(|number| add(&client, number, 2)))
            };
            let threads: Vec<_> = (0..8).map(add).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let names: Vec<String> = (0..CLUSTERS).flat_map(|cluster| (0..2).map(move |n| store(&format!("cluster-{cluster}"), n))).collect();
        wait_until("all names lead to the Envoys", 150 * SECOND, || dns.lead_to(&names, &[1, 2]).map(Some))?;

        let before = writes(&kube)?;
        let began = Instant::now();
        for (new, old) in [(3, 1), (4, 2)] {
            envoy(&kube, new)?;
            kube.delete(&at(&format!("pods/atlas-envoy-{old}")))?;
        }
        wait_until("all names lead to the new Envoys", 60 * SECOND, || dns.lead_to(&names, &[3, 4]).map(Some))?;
        let took = began.elapsed();
        // What is still to come counts too.
        thread::sleep(3 * SECOND);
        let wrote = writes(&kube)? - before;
        println!("two Envoys replaced: {} names lead to the new ones after {took:?}, with {wrote} writes of endpoints", names.len());
        // Two Pods come, are ready, and two go: a slice and an Endpoints each time, and now and
        // then one is tried again.
        ensure!(wrote <= 24, "{wrote} writes: they grow with the stores");
        ensure!(took < 15 * SECOND, "promised: 5 s; asserted: three times that; it took {took:?}");
        ensure!(kube.list(&format!("{SLICES}?{OF_STORES}"))?.is_empty(), "no store has slices of its own");
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Helm, CoreDns],
    within 240,
    fn kube_services_of_an_earlier_atlas_serve_until_replaced(world) {
        const CLUSTERS: usize = 20;
        let host = world.host("hub")?;
        let kube = Kube::start_at(&host, Pace::AsShipped)?;
        kube.namespace(NAMESPACE, &[])?;
        let dns = Dns::start(world, &kube)?;
        for number in [1, 2] {
            envoy(&kube, number)?;
        }
        let mut names = Vec::new();
        for cluster in 0..CLUSTERS {
            add(kube.client(), cluster, 2)?;
            let cluster = format!("cluster-{cluster}");
            let uid = kube.get(&at(&format!("services/{cluster}")))?["metadata"]["uid"].clone();
            let services = [0, 1].map(|n| earlier(&cluster, &uid, n));
            kube.apply_as("atlas", true, NAMESPACE, &services)?;
            names.extend([0, 1].map(|n| store(&cluster, n)));
        }
        // One was restored from a backup by something that has a say in every field of it.
        let restored = earlier("cluster-0", &kube.get(&at("services/cluster-0"))?["metadata"]["uid"], 0);
        kube.apply_as("backup", true, NAMESPACE, &[restored])?;
        wait_until("all names lead to the Envoys", 60 * SECOND, || dns.lead_to(&names, &[1, 2]).map(Some))?;
        let left = || anyhow::Ok((kube.list(&format!("{SLICES}?{OF_STORES}"))?.len(), kube.list(&at(&format!("endpoints?{OF_STORES}")))?.len()));
        ensure!(left()? == (2 * CLUSTERS, 2 * CLUSTERS), "{:?}", left()?);

        // Nobody's pods are ready for a while: the names wait, and lead where they led. Nor are the
        // rights there yet.
        let mut atlas = with_the_charts_rights(&host, &kube, Rights::Earlier, &["--envoy-selectors", "app=later"])?;
        let waits = "Service cluster-0-thanos-sidecar0, Service cluster-0-thanos-sidecar1, Service cluster-1-thanos-sidecar0 and 37 more";
        wait_until("people are told", 60 * SECOND, || {
            let log = std::fs::read_to_string(host.dir().join("atlas.log"))?;
            ensure!(log.contains(waits) && log.contains("lead to the Service atlas-hub-stores, which no ready pod is behind"), "{log}");
            ensure!(log.contains("cannot list endpoints: ") && log.contains("Atlas's Role must allow it"), "{log}");
            Ok(Some(()))
        })?;
        dns.lead_to(&names, &[1, 2])?;

        let done = AtomicBool::new(false);
        let (asked, nowhere) = thread::scope(|scope| {
            let asking = scope.spawn(|| -> Result<(usize, Vec<String>)> {
                let (mut asked, mut nowhere) = (0, Vec::new());
                while !done.load(Ordering::Relaxed) {
                    for name in &names {
                        asked += 1;
                        let found = dns.addresses(name)?;
                        if found.is_empty() {
                            nowhere.push(name.clone());
                        }
                    }
                }
                Ok((asked, nowhere))
            });
            let mut body = || -> Result<()> {
                let began = Instant::now();
                for number in [1, 2] {
                    kube.merge_patch(&at(&format!("pods/atlas-envoy-{number}")), &json!({"metadata": {"labels": {"later": "yes"}}}))?;
                }
                atlas.stop(10 * SECOND)?;
                atlas = with_the_charts_rights(&host, &kube, Rights::Now, &["--envoy-selectors", "app=envoy,later=yes"])?;
                wait_until("all are other names", 60 * SECOND, || {
                    let services = kube.list(&at(&format!("services?{OF_STORES}")))?;
                    let external = |service: &&Value| service["spec"]["externalName"] == "atlas-hub-stores.monitoring.svc.cluster.local";
                    let count = services.iter().filter(external).count();
                    ensure!(count == 2 * CLUSTERS, "{count} of {}", services.len());
                    Ok(Some(()))
                })?;
                println!("{} Services became other names within {:?} of Atlas's start", 2 * CLUSTERS, began.elapsed());
                wait_until("nothing is left of what they were", 60 * SECOND, || {
                    ensure!(left()? == (0, 0), "{:?} EndpointSlices and Endpoints", left()?);
                    Ok(Some(()))
                })?;
                println!("nothing is left of what they were after {:?}", began.elapsed());
                // Whatever a controller that lags might still make.
                thread::sleep(5 * SECOND);
                ensure!(left()? == (0, 0), "{:?} EndpointSlices and Endpoints", left()?);
                Ok(())
            };
            let result = body();
            done.store(true, Ordering::Relaxed);
            let asked = asking.join().expect("the asking thread doesn't panic");
            result.and(asked)
        })?;
        println!("meanwhile {asked} questions for a store's name, {} of them without an address", nowhere.len());
        ensure!(nowhere.is_empty() && asked > names.len(), "{nowhere:?}");
        dns.lead_to(&names, &[1, 2])?;

        // And back, by the earlier Atlas's own way of writing.
        atlas.stop(10 * SECOND)?;
        let uid = kube.get(&at("services/cluster-1"))?["metadata"]["uid"].clone();
        let back = kube.apply_as("atlas", true, NAMESPACE, &[earlier("cluster-1", &uid, 0)])?;
        ensure!(back[0]["spec"]["clusterIP"] == "None" && back[0]["spec"]["externalName"].is_null(), "{:#}", back[0]);
        wait_until("the name leads to the Envoys", 20 * SECOND, || dns.lead_to(&[store("cluster-1", 0)], &[1, 2]).map(Some))?;
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, CoreDns],
    within 120,
    fn kube_a_cluster_with_envoys_of_its_own_moves_to_others_without_a_gap(world) {
        let host = world.host("hub")?;
        let kube = Kube::start(&host)?;
        kube.namespace(NAMESPACE, &[])?;
        let dns = Dns::start(world, &kube)?;
        envoy(&kube, 1)?;
        edge(&kube, "edge", 8)?;
        let _atlas = crate::kube_writer::start_atlas(&host, &kube, "atlas")?;
        for number in 0..2 {
            add(kube.client(), number, 1)?;
        }
        let named = |selectors: &str| json!({"metadata": {"annotations": {"goatlas.io/envoy-selectors": selectors}}});
        kube.merge_patch(&at("services/cluster-1"), &named("app=edge"))?;
        let [first, second] = [0, 1].map(|n| [store(&format!("cluster-{n}"), 0)]);
        wait_until("each name leads to its own Envoys", 60 * SECOND, || {
            dns.lead_to(&first, &[1])?;
            dns.lead_to(&second, &[8]).map(Some)
        })?;

        // To Envoys that are not there yet.
        let hub_stores = || kube.list(&at("services?labelSelector=goatlas.io%2Fpart%3Dhub-stores"));
        kube.merge_patch(&at("services/cluster-1"), &named("app=border"))?;
        wait_until("there is a Service of those Envoys", 20 * SECOND, || Ok((hub_stores()?.len() == 3).then_some(())))?;
        thread::sleep(5 * SECOND);
        dns.lead_to(&second, &[8]).context("it stays where it was")?;
        edge(&kube, "border", 9)?;
        wait_until("they are there", 30 * SECOND, || {
            let found = dns.addresses(&second[0])?;
            ensure!(!found.is_empty(), "it leads nowhere");
            Ok((found == [address(9)].into()).then_some(()))
        })?;
        wait_until("the Service that nobody leads to any more is gone", 20 * SECOND, || Ok((hub_stores()?.len() == 2).then_some(())))?;
        dns.lead_to(&first, &[1])?;
    }
}

/// A store's name, as in the endpoint file.
fn store(cluster: &str, number: usize) -> String {
    format!("{cluster}-thanos-sidecar{number}.{NAMESPACE}.svc.cluster.local.")
}

/// A Service as an Atlas wrote it whose stores' Services selected the hub's Envoys.
fn earlier(cluster: &str, uid: &Value, number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("{cluster}-thanos-sidecar{number}"),
            "labels": {
                "app.kubernetes.io/managed-by": "atlas", "goatlas.io/part": "store", "goatlas.io/thanos-sidecar": number.to_string(),
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": cluster, "uid": uid}],
        },
        "spec": {
            "clusterIP": "None", "selector": {"app": "envoy", "release": "atlas"},
            "ports": [{"name": "grpc", "port": 10901, "protocol": "TCP", "targetPort": 10901}],
        },
    })
}

fn address(number: u8) -> IpAddr {
    [10, 91, 70, number].into()
}

/// A Pod of the hub's Envoys. No Envoy is in it: only its address counts here.
fn envoy(kube: &Kube, number: u8) -> Result<()> {
    let labels = [("app", "envoy"), ("release", "atlas")];
    kube.pod_with_ip(
        NAMESPACE,
        &format!("atlas-envoy-{number}"),
        &labels,
        address(number),
        &[("stores", 10901)],
    )
    .map(drop)
}

fn edge(kube: &Kube, app: &str, number: u8) -> Result<()> {
    kube.pod_with_ip(NAMESPACE, app, &[("app", app)], address(number), &[("stores", 10901)])
        .map(drop)
}

/// Of which chart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    /// Of one whose Atlas removed no EndpointSlices and Endpoints.
    Earlier,
    Now,
}

/// Atlas with the rights that the chart gives it and no others.
fn with_the_charts_rights(
    host: &Host,
    kube: &Kube,
    rights: Rights,
    arguments: &[&str],
) -> Result<Proc> {
    let mut objects =
        rendered("atlas", "atlas", NAMESPACE, &["atlas: {hubAddress: hub.example.com}"])?;
    objects.retain(|object| {
        ["ServiceAccount", "Role", "RoleBinding"].map(Value::from).contains(&object["kind"])
    });
    if rights == Rights::Earlier {
        let role = objects
            .iter_mut()
            .find(|object| object["kind"] == "Role")
            .context("the chart has no Role")?;
        let rules = role["rules"].as_array_mut().context("the Role has no rules")?;
        rules.retain(|rule| rule["resources"] != json!(["endpoints"]));
        let slices = rules
            .iter_mut()
            .find(|rule| rule["resources"] == json!(["endpointslices"]))
            .context("no rule for slices")?;
        slices["verbs"] = json!(["get", "list", "watch"]);
    }
    kube.apply_as("helm", true, NAMESPACE, &objects)?;
    let mut command = std::process::Command::new(atlas());
    command
        .arg("run")
        .arg("--kubeconfig")
        .arg(kube.kubeconfig_for_service_account(NAMESPACE, "atlas")?);
    command.args(["--hub-address", "hub.example.com"]).args(arguments);
    host.spawn("atlas", &command)
}

/// How often EndpointSlices and Endpoints have been written, as the API server counts.
fn writes(kube: &Kube) -> Result<u64> {
    let metrics = kube.request("GET", "/metrics", None)?.ok()?.text();
    let counts = metrics.lines().filter(|line| {
        let of = |key: &str, values: &[&str]| {
            values.iter().any(|value| line.contains(&format!("{key}=\"{value}\"")))
        };
        line.starts_with("apiserver_request_total{")
            && of("resource", &["endpointslices", "endpoints"])
            && of("verb", &["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"])
    });
    counts
        .map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>().context("a counter"))
        .try_fold(0, |sum, count| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count of requests"
            )]
            Ok(sum + count? as u64)
        })
}

/// A cluster's DNS: the real CoreDNS with the Services of a Kubernetes, and somebody who asks it.
struct Dns {
    _process: CoreDns,
    socket: UdpSocket,
}

impl Dns {
    fn start(world: &World, kube: &Kube) -> Result<Self> {
        let host = world.host("dns")?;
        let listen = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
        let corefile = Corefile::new(listen).kubernetes("cluster.local", &kube.admin_kubeconfig());
        let mut process =
            CoreDns::start(&host, "coredns", &parts::get(Part::CoreDns)?, listen, corefile.text())?;
        process.wait_ready()?;
        let socket = host.within(|| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(listen)?;
        Ok(Self { _process: process, socket })
    }

    /// The IPv4 addresses of a name, as a resolver finds them that takes what is in one answer and
    /// asks no further, which is what Go's does.
    fn addresses(&self, name: &str) -> Result<BTreeSet<IpAddr>> {
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
        self.socket.send(&question.to_vec()?)?;
        let mut bytes = [0; 4096];
        let answer = loop {
            let length =
                self.socket.recv(&mut bytes).with_context(|| format!("no answer for {name}"))?;
            let answer = Message::from_vec(&bytes[..length])?;
            // Not that of an earlier question which took too long.
            if answer.metadata.id == question.metadata.id {
                break answer;
            }
        };
        match answer.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            other => bail!("{name}: {other}"),
        }
        let address = |data: &RData| match data {
            RData::A(address) => Some(IpAddr::from(address.0)),
            _ => None,
        };
        Ok(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
    }

    /// Fails unless all these names lead to exactly these Pods.
    fn lead_to(&self, names: &[String], pods: &[u8]) -> Result<()> {
        let expected: BTreeSet<IpAddr> = pods.iter().copied().map(address).collect();
        let mut wrong = Vec::new();
        for name in names {
            let found = self.addresses(name)?;
            if found != expected {
                wrong.push((name, found));
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of {} names lead elsewhere, such as {:?}",
            wrong.len(),
            names.len(),
            wrong[0]
        );
        Ok(())
    }
}
