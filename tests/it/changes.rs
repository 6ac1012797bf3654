//! What people change, and when it takes effect.

use std::time::{Duration, Instant};

use atlas_lab::parts::Part;
use atlas_lab::process::wait_until;
use atlas_lab::run::{Alertmanager, AlertmanagerOptions};
use atlas_lab::scene::{Cluster, ClusterOptions, Place, Scene, alertmanager_slice, prove};
use atlas_lab::{parts, world_test};

use crate::atlas;

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn files_are_added_edited_spoilt_and_removed(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::stores(&mut scene)?;

        // Added: a third cluster joins while the others run.
        let osaka = Cluster::start(Place::in_world(world, "osaka")?, &mut scene.hub, ClusterOptions { replicas: 1, ..ClusterOptions::new("osaka") })?;
        scene.clusters.push(osaka);
        scene.wait_connected()?;
        println!("{}", prove::query(&mut scene)?);

        // Edited: another replica number, and the store is gone from Thanos's file and the hub.
        let from = scene.hub.atlas.options.from.clone();
        let tokyo = std::fs::read_to_string(from.join("tokyo.yaml"))?;
        scene.hub.atlas.write_manifest("tokyo.yaml", &tokyo.replace(r#""goatlas.io/replicas":"2""#, r#""goatlas.io/replicas":"1""#))?;
        let endpoints = scene.hub.atlas.options.state.join("endpoints.yaml");
        let lists = |name: &str| std::fs::read_to_string(&endpoints).map(|text| text.contains(name));
        let saved = Instant::now();
        wait_until("one store less", Duration::from_secs(10), || Ok((!lists("tokyo-thanos-sidecar1")?).then_some(())))?;
        println!("an edited file took effect after {:?}", saved.elapsed());
        assert!(lists("tokyo-thanos-sidecar0")? && lists("paris-thanos-sidecar1")?);

        // Spoilt: half a file changes nothing and is reported by file and line.
        scene.hub.atlas.write_manifest("tokyo.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: tokyo\n  labels: {goatlas.io/cluster: \"tr")?;
        let status = wait_until("the complaint", Duration::from_secs(10), || {
            let status = scene.hub.atlas.status()?;
            Ok(status["errors"].to_string().contains("tokyo.yaml:").then_some(status))
        })?;
        println!("{}", status["errors"]);
        assert!(lists("tokyo-thanos-sidecar0")?);
        // Wrong in a key: the last good configuration stays too.
        scene.hub.atlas.write_manifest("tokyo.yaml", &tokyo.replace(r#""goatlas.io/replicas":"2""#, r#""goatlas.io/replicas":"two""#))?;
        let status = wait_until("the finding", Duration::from_secs(10), || {
            let status = scene.hub.atlas.status()?;
            Ok(status["findings"].to_string().contains("goatlas.io/replicas").then_some(status))
        })?;
        println!("{}", status["findings"]);
        assert!(lists("tokyo-thanos-sidecar0")?);
        println!("{}", prove::query(&mut scene)?);

        // Removed: the hub knows it no more, its stream ends, the others go on.
        scene.hub.atlas.remove_manifest("tokyo.yaml")?;
        wait_until("no tokyo", Duration::from_secs(10), || Ok((scene.hub.web("/prom/tokyo/")?.status == 404).then_some(())))?;
        assert!(!lists("tokyo-thanos")? && lists("osaka-thanos-sidecar0")?);
        wait_until("its stream ended", Duration::from_secs(10), || {
            let status = scene.hub.atlas.status()?;
            Ok((!status["nodes"].to_string().contains("tokyo")).then_some(()))
        })?;

        // Put back: its Envoy needs nothing.
        scene.hub.atlas.write_manifest("tokyo.yaml", &tokyo)?;
        wait_until("tokyo's stores are listed", Duration::from_secs(10), || Ok(lists("tokyo-thanos-sidecar1")?.then_some(())))?;
        scene.hub.resolve_stores()?;
        scene.wait_connected()?;
        println!("{}", prove::stores(&mut scene)?);
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn an_alertmanager_joins_without_touching_a_cluster(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::alert(&scene.hub, "tokyo")?;
        let before = scene.clusters[0].alerts_port("/alertmanagers")?;
        assert_eq!(before.header("content-type"), Some("application/json"));
        assert_eq!(before.json::<Vec<serde_json::Value>>()?.len(), 2);

        let addresses: Vec<_> = scene.hub.place.programs[1..4].to_vec();
        let options = AlertmanagerOptions::new(std::net::SocketAddr::new(addresses[2], 9093));
        let mut third = Alertmanager::start(&scene.hub.place.host, "alertmanager-2", &parts::get(Part::Alertmanager)?, &options)?;
        third.wait_ready()?;
        scene.hub.atlas.write_manifest("alertmanagers.json", &alertmanager_slice(&addresses))?;
        scene.hub.alertmanagers.push(third);
        for cluster in ["tokyo", "paris"] {
            println!("{}, the third included", prove::alert(&scene.hub, cluster)?);
        }
        assert_eq!(scene.clusters[0].alerts_port("/alertmanagers")?.json::<Vec<serde_json::Value>>()?.len(), 3);
        assert_eq!(scene.clusters[0].alerts_port("/alertmanager/7/api/v2/alerts")?.status, 404);
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn what_an_envoy_refuses_is_shown_and_not_sent_again(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        let from = scene.hub.atlas.options.from.clone();
        let good = std::fs::read_to_string(from.join("tokyo.yaml"))?;
        // An address that tokyo's machine doesn't have: Envoy can't listen there, and says so.
        let bad = good.replace(r#""goatlas.io/addresses""#, r#""goatlas.io/bind-address":"10.99.99.99","goatlas.io/addresses""#);
        scene.hub.atlas.write_manifest("tokyo.yaml", &bad)?;
        let message = wait_until("the refusal in the status", Duration::from_secs(20), || {
            let status = scene.hub.atlas.status()?;
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let tokyo = nodes.iter().find(|node| node["node"] == "tokyo").cloned().unwrap_or_default();
            let lds = &tokyo["instances"][0]["types"]["LDS"];
            Ok((lds["state"] == "NACK").then(|| lds["message"].to_string()))
        })?;
        println!("{message}");
        assert!(message.contains("10.99.99.99"), "{message}");
        let count = |name: &str| crate::sum(&scene.hub.atlas.get(6309, "/metrics")?.text(), name);
        assert_eq!(count("atlas_xds_nacks_total")?, 1);
        let sent = count("atlas_xds_resources_sent_total")?;
        // Written again unchanged, nothing is sent; in particular not what was refused.
        scene.hub.atlas.write_manifest("tokyo.yaml", &format!("{bad}\n"))?;
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(count("atlas_xds_resources_sent_total")?, sent);
        println!("{}", prove::query(&mut scene)?);
        scene.hub.atlas.write_manifest("tokyo.yaml", &good)?;
        scene.wait_connected()?;
    }
}
