//! What people change or spoil, and what comes of it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use atlas_lab::process::wait_until;
use atlas_lab::scene::{KubeHub, KubeOptions, KubeScene, prove};
use atlas_lab::world_test;
use serde_json::{Value, json};

use super::{SECOND, waiting_cluster};
use crate::atlas;

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Helm, CoreDns, Envoy, Thanos, Prometheus, Alertmanager],
    within 200,
    fn kube_changes_take_effect_and_what_is_spoilt_is_healed(world) {
        let mut scene = KubeScene::start(world, KubeOptions::new(atlas()))?;
        prove::query(&mut scene)?;
        the_service_is_edited(&mut scene)?;
        a_wrong_label_is_told_and_harms_nobody(&mut scene)?;
        a_misspelt_key_becomes_an_event_and_a_note_does_not(&scene)?;
        a_service_is_deleted_and_created_again(&mut scene)?;
        the_hubs_name_moves(&mut scene)?;
        deleted_secrets_come_back(&scene.hub)?;
        broken_certificates_are_set_aside(&scene.hub)?;
    }
}

fn the_service_is_edited(scene: &mut KubeScene) -> Result<()> {
    let (hub, tokyo) = (&mut scene.hub, &scene.clusters[0]);
    hub.kube.apply_objects(&hub.options.namespace, &[tokyo.service(hub, 1)])?;
    let edited = Instant::now();
    hub.kube.wait_gone(&hub.at("services/tokyo-thanos-sidecar1"), 10 * SECOND)?;
    println!("a replica fewer: its Service is gone after {:?}", edited.elapsed());
    hub.query.wait_stores(3, 20 * SECOND)?;
    println!("a replica fewer: Thanos Query has one store fewer after {:?}", edited.elapsed());
    hub.kube.apply_objects(&hub.options.namespace, &[tokyo.service(hub, 2)])?;
    hub.query.wait_stores(4, 20 * SECOND).map(drop)
}

fn a_wrong_label_is_told_and_harms_nobody(scene: &mut KubeScene) -> Result<()> {
    let hub = &scene.hub;
    let before = (since(hub, "tokyo")?, since(hub, "paris")?);
    let mut wrong = scene.clusters[0].service(hub, 2);
    wrong["metadata"]["labels"]["goatlas.io/replicas"] = json!("many");
    hub.kube.apply_objects(&hub.options.namespace, &[wrong])?;
    let warning =
        wait_until("a Warning on the Service", 10 * SECOND, || Ok(warnings(hub, "tokyo")?.pop()))?;
    let message = warning["message"].as_str().context("an Event without a message")?.to_owned();
    println!("{}: {message}", warning["reason"]);
    ensure!(
        warning["involvedObject"]["kind"] == "Service" && warning["reason"] == "Rejected",
        "{warning:#}"
    );
    ensure!(
        message.contains("goatlas.io/replicas")
            && message.contains("many")
            && message.contains("write"),
        "key, value, fix: {message}"
    );

    // It is as it was, and so is the other.
    prove::stores(scene)?;
    prove::query(scene)?;
    let hub = &scene.hub;
    std::thread::sleep(3 * SECOND);
    for path in [
        "services/tokyo-thanos-sidecar0",
        "services/tokyo-thanos-sidecar1",
        "secrets/tokyo-envoy-values",
    ] {
        hub.kube.get(&hub.at(path))?;
    }
    ensure!((since(hub, "tokyo")?, since(hub, "paris")?) == before, "no stream began anew");
    ensure!(
        warnings(hub, "tokyo")?.len() == 1 && warnings(hub, "paris")?.is_empty(),
        "one Event, not a flood: {:#?}",
        warnings(hub, "tokyo")?
    );

    hub.kube.apply_objects(&hub.options.namespace, &[scene.clusters[0].service(hub, 2)])?;
    wait_until("nothing is rejected", 10 * SECOND, || {
        let statuses = hub.statuses();
        let rejected = |status: &Value| status["findings"].to_string().contains("many");
        ensure!(statuses.len() == 2 && !statuses.iter().any(rejected), "{statuses:#?}");
        Ok(Some(()))
    })
}

fn a_misspelt_key_becomes_an_event_and_a_note_does_not(scene: &KubeScene) -> Result<()> {
    let hub = &scene.hub;
    let namespace = &hub.options.namespace;
    let right = scene.clusters[0].service(hub, 2);
    let mut misspelt = right.clone();
    misspelt["metadata"]["annotations"]["goatlas.io/thanos-servce"] = json!("thanos");
    // A cluster that awaits its address has a note, on which nobody must act.
    hub.kube.apply_objects(namespace, &[misspelt, waiting_cluster("osaka")])?;
    let warning = wait_until("a Warning on the Service", 10 * SECOND, || {
        let warnings = warnings(hub, "tokyo")?;
        Ok(warnings.into_iter().find(|event| event["reason"] == "Misconfigured"))
    })?;
    println!("{}: {}", warning["reason"], warning["message"]);
    let message = warning["message"].as_str().context("an Event without a message")?;
    ensure!(
        message.starts_with("goatlas.io/thanos-servce: ")
            && message.contains("did you mean goatlas.io/thanos-service?"),
        "the key as it is, and as it should be: {message}"
    );
    wait_until("osaka's note is in every status", 10 * SECOND, || {
        let is_noted = |status: &Value| {
            let findings = status["findings"].as_array().into_iter().flatten();
            findings.into_iter().any(|finding| finding.to_string().contains("osaka"))
        };
        Ok(hub.statuses().iter().all(is_noted).then_some(()))
    })?;
    std::thread::sleep(2 * SECOND);
    ensure!(warnings(hub, "osaka")?.is_empty(), "{:#?}", warnings(hub, "osaka")?);

    hub.kube.apply_objects(namespace, &[right])?;
    hub.kube.delete(&hub.at("services/osaka"))?;
    hub.kube.wait_gone(&hub.at("secrets/osaka-envoy-values"), 20 * SECOND)
}

fn deleted_secrets_come_back(hub: &KubeHub) -> Result<()> {
    let before = since(hub, "tokyo")?;
    for name in ["tokyo-envoy-values", "tokyo.atlas-cluster", "atlas-hub", "atlas-leaves"] {
        let path = hub.at(&format!("secrets/{name}"));
        let secret = hub.kube.get(&path)?;
        hub.kube.delete(&path)?;
        let deleted = Instant::now();
        let back = hub.kube.wait_for(&path, 20 * SECOND, |back| {
            back["metadata"]["uid"] != secret["metadata"]["uid"]
        });
        let back = back.with_context(|| format!("{name} was deleted by hand"))?;
        println!("the deleted Secret {name} is back after {:?}", deleted.elapsed());
        ensure!(
            back["data"] == secret["data"],
            "{name} holds what it held: credentials, their fingerprints, all"
        );
    }
    ensure!(since(hub, "tokyo")? == before, "no stream began anew");
    Ok(())
}

/// By hand, while a replica leads that knows the good ones.
fn broken_certificates_are_set_aside(hub: &KubeHub) -> Result<()> {
    let before = since(hub, "tokyo")?;
    // Half, and another's.
    let half = json!("aGFsZg==");
    let paris = hub.kube.get(&hub.at("secrets/paris.atlas-cluster"))?["data"]["leaf.pem"].clone();
    for (secret, key, spoilt) in [
        ("tokyo.atlas-cluster", "leaf.pem", &half),
        ("tokyo.atlas-cluster", "bootstrap.pem", &half),
        ("atlas-leaves", "hub.pem", &half),
        ("tokyo.atlas-cluster", "leaf.pem", &paris),
    ] {
        let (path, kept) = (hub.at(&format!("secrets/{secret}")), format!("{key}.broken"));
        let good = hub.kube.get(&path)?["data"][key].clone();
        hub.kube.merge_patch(&path, &json!({"data": {key: spoilt}}))?;
        let healed = hub
            .kube
            .wait_for(&path, 20 * SECOND, |now| now["data"][&kept] == *spoilt)
            .context(kept.clone())?;
        ensure!(healed["data"][key] == good, "{secret}: {key} is what it was: {healed:#}");
        let told =
            format!("{key} in the Secret {secret} was broken, so it was set aside as {kept}");
        let is_told =
            || hub.statuses().iter().any(|status| status["troubles"].to_string().contains(&told));
        wait_until("it is told", 10 * SECOND, || Ok(is_told().then_some(())))?;
        hub.kube.merge_patch(&path, &json!({"data": {&kept: null}}))?;
        wait_until("it is told no more", 10 * SECOND, || Ok((!is_told()).then_some(())))?;
    }
    ensure!(since(hub, "tokyo")? == before, "no stream began anew");
    Ok(())
}

fn a_service_is_deleted_and_created_again(scene: &mut KubeScene) -> Result<()> {
    let (hub, tokyo) = (&mut scene.hub, &mut scene.clusters[0]);
    let (pid, fingerprint) = (tokyo.envoy.process.pid(), fingerprint(hub, "tokyo")?);
    let service = tokyo.service(hub, 2);
    hub.kube.delete(&hub.at("services/tokyo"))?;
    for path in [
        "services/tokyo-thanos-sidecar0",
        "services/tokyo-thanos-sidecar1",
        "secrets/tokyo-envoy-values",
    ] {
        hub.kube.wait_gone(&hub.at(path), 20 * SECOND)?;
    }
    hub.query.wait_stores(2, 20 * SECOND)?;
    // Long enough for everything to notice.
    std::thread::sleep(10 * SECOND);

    hub.kube.apply_objects(&hub.options.namespace, &[service])?;
    let created = Instant::now();
    hub.kube.wait_for(&hub.at("secrets/tokyo-envoy-values"), 20 * SECOND, |_| true)?;
    hub.wait_synced(["tokyo", "paris"])?;
    println!("deleted and created again: its Envoy is in sync after {:?}", created.elapsed());
    ensure!(
        tokyo.envoy.process.is_running() && tokyo.envoy.process.pid() == pid,
        "the same process"
    );
    ensure!(self::fingerprint(hub, "tokyo")? == fingerprint, "with the same credential");
    hub.query.wait_stores(4, 30 * SECOND)?;
    println!("deleted and created again: its stores are back after {:?}", created.elapsed());
    prove::query(scene)?;
    prove::web(&scene.hub, "tokyo").map(drop)
}

fn the_hubs_name_moves(scene: &mut KubeScene) -> Result<()> {
    let (hub, clusters) = (&mut scene.hub, &mut scene.clusters);
    let values = |hub: &KubeHub| {
        anyhow::Ok(hub.kube.get(&hub.at("secrets/tokyo-envoy-values"))?["data"].clone())
    };
    let before = values(hub)?;
    hub.start_second_envoy()?;
    clusters.iter().try_for_each(|cluster| cluster.move_hub(hub.second.ip().into()))?;
    let moved = Instant::now();
    hub.envoys.remove(0).stop()?;
    hub.place.envoy = hub.second.ip().into();
    let stopped = Instant::now();
    hub.wait_synced(["tokyo", "paris"])?;
    hub.query.wait_stores(4, 30 * SECOND)?;
    println!(
        "the hub's name moved: all connected {:?} after the old Envoy ended, {:?} after the name",
        stopped.elapsed(),
        moved.elapsed()
    );
    ensure!(values(hub)? == before, "no cluster needs anything");
    prove::query(scene)?;
    for cluster in ["tokyo", "paris"] {
        prove::web(&scene.hub, cluster)?;
    }
    // Alerts arrive anew.
    for alertmanager in &mut scene.hub.alertmanagers {
        alertmanager.process.restart()?;
        alertmanager.wait_ready()?;
    }
    prove::alert(&scene.hub, "tokyo").map(drop)
}

/// Warning Events on a cluster's Service.
fn warnings(hub: &KubeHub, cluster: &str) -> Result<Vec<Value>> {
    let mut events = hub.kube.list(&hub.at("events"))?;
    events.retain(|event| event["type"] == "Warning" && event["involvedObject"]["name"] == cluster);
    Ok(events)
}

/// When the stream of a node's Envoy began.
fn since(hub: &KubeHub, node: &str) -> Result<Value> {
    hub.instances(node)
        .first()
        .map(|instance| instance["since"].clone())
        .with_context(|| format!("{node} is not connected"))
}

/// Of the credential that a node's Envoy has.
fn fingerprint(hub: &KubeHub, node: &str) -> Result<Value> {
    hub.instances(node)
        .first()
        .map(|instance| instance["fingerprint"].clone())
        .with_context(|| format!("{node} is not connected"))
}
