//! What a silent hub or a stalled Alertmanager costs a cluster, and what an Envoy shows of its
//! limits.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use atlas_lab::http;
use atlas_lab::parts::{self, Part};
use atlas_lab::process::wait_until;
use atlas_lab::run::{Prometheus, PrometheusOptions};
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, Scene, prove};
use atlas_lab::world_test;
use serde_json::json;

use crate::atlas;

/// Alerts of the Prometheus that sends to the hub and to its own cluster: five posts of 64.
const ALERTS: usize = 300;

/// Posts an alert as the cluster's Prometheus does; the status, and how long it took.
fn post(cluster: &Cluster, index: u32) -> Result<(u16, Duration)> {
    let url = format!(
        "http://{}/alertmanager/{index}/api/v2/alerts",
        SocketAddr::new(cluster.place.envoy, 11903)
    );
    let body = json!([{"labels": {"alertname": "Posted", "cluster": cluster.name}}]).to_string();
    let began = Instant::now();
    let request = http::Request::new("POST", url)?.header("content-type", "application/json");
    let answer = cluster
        .place
        .host
        .within(|| request.timeout(Duration::from_secs(20)).body(body.into_bytes()).send())?;
    Ok((answer.status, began.elapsed()))
}

/// Waits until posts fail at once, and says how long that takes from now and how long a post takes
/// then.
fn wait_failing_at_once(cluster: &Cluster, index: u32) -> Result<()> {
    let began = Instant::now();
    wait_until("a post that fails at once", Duration::from_secs(60), || {
        let (status, took) = post(cluster, index)?;
        ensure!(status == 503 && took < Duration::from_secs(1), "{status} after {took:?}");
        Ok(Some(()))
    })?;
    println!("{}: known to be away after {:?}", cluster.name, began.elapsed());
    for _ in 0..10 {
        let (status, took) = post(cluster, index)?;
        assert_eq!(status, 503);
        assert!(
            took < Duration::from_secs(3),
            "promised: 1 s, asserted: three times that; {took:?}"
        );
    }
    Ok(())
}

/// A Prometheus 2 with many alerts, which sends each to the hub and to its own cluster's
/// Alertmanager.
fn prometheus_with_alerts(cluster: &Cluster) -> Result<Prometheus> {
    let sd = format!("http://{}/alertmanagers", SocketAddr::new(cluster.place.envoy, 11903));
    let alerting = json!({"alertmanagers": [
        {
            "api_version": "v2",
            "http_sd_configs": [{"url": sd, "refresh_interval": "1s"}],
            "relabel_configs": [{"source_labels": ["atlas_alerts_path"], "target_label": "__alerts_path__"}],
        },
        {"api_version": "v2", "static_configs": [{"targets": [cluster.alertmanager.listen.to_string()]}]},
    ]});
    let rule = |n| json!({"alert": format!("Local{n}"), "expr": "vector(1)"});
    let rules = json!({"groups": [{"name": "local", "interval": "1s", "rules": (0..ALERTS).map(rule).collect::<Vec<_>>()}]});
    let options = PrometheusOptions {
        rules: Some(rules.to_string()),
        alerting: Some(alerting.to_string()),
        ..PrometheusOptions::new(SocketAddr::new(cluster.place.programs[3], 9090))
    };
    Prometheus::start(
        &cluster.place.host,
        "prometheus-local",
        &parts::get(Part::PrometheusClassic)?,
        &options,
    )
}

fn local_alerts(cluster: &Cluster) -> Result<usize> {
    let alerts = cluster.alertmanager.alerts()?;
    Ok(alerts
        .iter()
        .filter(|alert| {
            alert["labels"]["alertname"].as_str().is_some_and(|name| name.starts_with("Local"))
        })
        .count())
}

world_test! {
    needs [Envoy, Thanos, Prometheus, PrometheusClassic, Alertmanager, CoreDns],
    /// With plain Envoys each post waits for 6 s, and Prometheus 2 sends its next ones only after
    /// it.
    fn a_silent_hub_costs_a_cluster_nothing(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::alert(&scene.hub, "tokyo")?;
        // One of the hub's Alertmanagers takes connections and answers nothing.
        scene.hub.alertmanagers[1].process.pause()?;
        wait_failing_at_once(&scene.clusters[0], 1)?;
        let (status, took) = post(&scene.clusters[0], 0)?;
        println!("beside a stalled Alertmanager: {status} after {took:?}");
        assert_eq!(status, 200, "the other one takes alerts as before");
        scene.hub.alertmanagers[1].process.resume()?;
        wait_until("the stalled Alertmanager is back", Duration::from_secs(30), || Ok((post(&scene.clusters[0], 1)?.0 == 200).then_some(())))?;

        let tokyo = &scene.clusters[0];
        tokyo.place.host.link_down()?;
        wait_failing_at_once(tokyo, 0)?;
        let began = Instant::now();
        let _prometheus = prometheus_with_alerts(tokyo)?;
        wait_until("every alert at the cluster's own Alertmanager", Duration::from_secs(90), || {
            let alerts = local_alerts(tokyo)?;
            ensure!(alerts == ALERTS, "{alerts} of {ALERTS}");
            Ok(Some(()))
        })?;
        println!("the cluster's own Alertmanager has all {ALERTS} alerts {:?} after Prometheus's start", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(30), "some 10 s without a hub, asserted: three times that");
        tokyo.place.host.link_up()?;
        let back = Instant::now();
        wait_until("posts to the hub", Duration::from_secs(60), || Ok((post(tokyo, 0)?.0 == 200).then_some(())))?;
        println!("posts arrive again {:?} after the link", back.elapsed());
    }
}

/// Series of one Envoy cluster in what 9001 shows.
fn series<'a>(stats: &'a str, envoy_cluster: &str) -> Vec<&'a str> {
    let label = format!("envoy_cluster_name=\"{envoy_cluster}\"");
    stats.lines().filter(|line| !line.starts_with('#') && line.contains(&label)).collect()
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn the_hubs_envoy_shows_at_most_15_series_of_a_cluster(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::query(&mut scene)?;
        prove::web(&scene.hub, "tokyo")?;
        // Every kind of answer that makes Envoy count something new.
        for path in ["/prom/tokyo/nowhere", "/prom/tokyo/api/v1/query?query=%28", "/prom/tokyo/-/quit", "/alertmanager/tokyo/"] {
            scene.hub.web(path)?;
        }
        scene.clusters[0].alertmanager.process.kill()?;
        assert_eq!(scene.hub.web("/alertmanager/tokyo/")?.status, 503);
        scene.clusters[0].place.host.link_down()?;
        wait_until("tokyo is known to be away", Duration::from_secs(30), || Ok((scene.hub.web("/prom/tokyo/")?.status == 503).then_some(())))?;
        scene.hub.query.query("up")?;
        let url = format!("http://{}/stats/prometheus", SocketAddr::new(scene.hub.place.envoy, 9001));
        let stats = scene.hub.place.host.within(|| http::get(&url))?.text();
        let of_tokyo = series(&stats, "cluster/tokyo");
        println!("{} series of tokyo, {} in all:\n{}", of_tokyo.len(), stats.lines().filter(|line| !line.starts_with('#')).count(), of_tokyo.join("\n"));
        assert!((10..=15).contains(&of_tokyo.len()), "{}", of_tokyo.len());
        for limit in ["envoy_connection_limit_limited_connections{", "envoy_overload_envoy_resource_monitors_fixed_heap_pressure{", "envoy_cluster_upstream_rq_pending_overflow{"] {
            assert!(stats.contains(limit), "{limit} tells of a limit that is reached");
        }
    }
}

/// What a store that must fail answers to Thanos's Info call.
fn info(at: SocketAddr, store: &str) -> Result<tonic::Status> {
    let origin = format!("http://{store}.sidecars.thanos.atlas:10901").parse()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{at}"))?
            .origin(origin)
            .connect()
            .await?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await?;
        let path = "/thanos.info.Info/Info".parse()?;
        let answer = client
            .unary(tonic::Request::new(()), path, tonic_prost::ProstCodec::<(), ()>::default())
            .await;
        answer.map(|_| ()).err().context("it answers")
    })
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn a_store_that_is_down_or_unknown_says_so_by_name(world) {
        let mut hub = Hub::start(Place::in_world(world, "hub")?, HubOptions::new(atlas()))?;
        let mut clusters = Vec::new();
        for name in ["tokyo", "paris"] {
            // By the pods' own names, so that no other replica answers in their place.
            let annotations = vec![("goatlas.io/prometheus-name".into(), "kube-prometheus-stack-prometheus".into())];
            let options = ClusterOptions { annotations, ..ClusterOptions::new(name) };
            clusters.push(Cluster::start(Place::in_world(world, name)?, &mut hub, options)?);
        }
        let mut scene = Scene { hub, clusters };
        scene.wait_connected()?;
        prove::stores(&mut scene)?;
        scene.clusters[0].sidecars[1].process.kill()?;
        let said = wait_until("Thanos tells of the store that is down", Duration::from_secs(60), || {
            let stores = scene.hub.query.stores()?;
            let down = stores.iter().find(|store| store.name.starts_with("tokyo-thanos-sidecar1."));
            Ok(down.and_then(|store| store.last_error.clone()))
        })?;
        println!("Thanos says: {said}");
        assert!(said.contains("Thanos sidecar of this store"), "{said}");
        // The other store of that cluster and its web UIs are as before.
        let answer = scene.hub.query.query("count by (cluster) (up)")?;
        assert_eq!(answer.result.as_array().map(Vec::len), Some(2), "{answer:?}");
        assert_eq!(scene.hub.web("/prom/tokyo/-/healthy")?.status, 200);
        // A name that no cluster has, and a store that a cluster doesn't have.
        for (name, words) in [("osaka-thanos-sidecar0", "no such store"), ("tokyo-thanos-sidecar7", "this cluster has no such store")] {
            let at = SocketAddr::new(scene.hub.place.envoy, 10901);
            let status = scene.hub.place.host.within(|| info(at, name))?;
            assert!(status.code() == tonic::Code::Unavailable && status.message().contains(words), "{name}: {status:?}");
        }
    }
}
