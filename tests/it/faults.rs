//! Links, processes and backends that fail, and which requests fail with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use atlas_lab::parts::Part;
use atlas_lab::process::wait_until;
use atlas_lab::run::Query;
use atlas_lab::scene::{Scene, prove};
use atlas_lab::world_test;

use crate::atlas;

const PROMQL: &str = "count by (cluster) (up)";

/// Clusters in the answer to [`PROMQL`].
fn clusters(query: &Query) -> anyhow::Result<usize> {
    Ok(query.query(PROMQL)?.result.as_array().map_or(0, Vec::len))
}

/// Asks without pause until `body` is done; returns how many answers there were, and those that
/// were not complete.
fn under_load(
    query: &Query,
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(usize, Vec<String>)> {
    let done = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut asked, mut bad) = (0, Vec::new());
            while !done.load(Ordering::Relaxed) {
                asked += 1;
                match query.query(PROMQL) {
                    Ok(answer)
                        if answer.result.as_array().is_some_and(|series| series.len() == 2)
                            && answer.warnings.is_empty() => {}
                    other => bad.push(format!("{other:?}")),
                }
                thread::sleep(Duration::from_millis(20));
            }
            (asked, bad)
        });
        let result = body();
        done.store(true, Ordering::Relaxed);
        let asked = asking.join().expect("the asking thread doesn't panic");
        result.map(|()| asked)
    })
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    /// With plain Envoys one black link hangs every query for 120 s.
    fn a_black_link_costs_nobody_else_anything(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::query(&mut scene)?;
        let (query, tokyo) = (&scene.hub.query, scene.clusters[0].place.host.clone());

        // In flight: its Prometheus is held, so the query is waiting for tokyo when the link goes
        // black.
        scene.clusters[0].prometheus.iter_mut().try_for_each(|p| p.process.pause())?;
        let in_flight = thread::scope(|scope| {
            let asked = scope.spawn(|| query.query(PROMQL).map(|answer| (answer, Instant::now())));
            thread::sleep(Duration::from_millis(1000));
            tokyo.link_down()?;
            let pulled = Instant::now();
            let (answer, ended) = asked.join().expect("no panic")?;
            anyhow::Ok((answer, ended.saturating_duration_since(pulled)))
        })?;
        let (answer, took) = in_flight;
        println!("in flight: ended {took:?} after the link, {} warnings", answer.warnings.len());
        assert!(took < Duration::from_secs(15), "promised: 5 s; asserted: three times that; in flight: {took:?}");
        assert!(answer.result.to_string().contains("paris") && !answer.warnings.is_empty(), "a partial response with a warning: {answer:?}");

        let mut later = Vec::new();
        for _ in 0..20 {
            let answer = query.query(PROMQL)?;
            assert!(answer.result.to_string().contains("paris"), "{answer:?}");
            later.push(answer.took);
        }
        println!("later queries: {later:?}");
        assert!(later.iter().all(|took| *took < Duration::from_secs(5)), "{later:?}");
        assert!(later[1..].iter().all(|took| *took < Duration::from_secs(1)), "at once: {later:?}");
        let page = scene.hub.web("/prom/tokyo/")?;
        assert_eq!(page.status, 503);
        assert!(page.text().contains("can't be reached"), "{}", page.text());
        assert_eq!(scene.hub.web("/prom/paris/-/healthy")?.status, 200);

        scene.clusters[0].prometheus.iter_mut().try_for_each(|p| p.process.resume())?;
        tokyo.link_up()?;
        let back = Instant::now();
        wait_until("tokyo's web UI", Duration::from_secs(30), || Ok((scene.hub.web("/prom/tokyo/-/healthy")?.status == 200).then_some(())))?;
        println!("tokyo's web UI is back {:?} after its link", back.elapsed());
        wait_until("tokyo's stores", Duration::from_secs(60), || Ok((clusters(query)? == 2).then_some(())))?;
        println!("tokyo's stores are back {:?} after its link", back.elapsed());
        assert!(back.elapsed() < Duration::from_secs(30), "promised: 10 s; asserted: three times that");
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn atlas_killed_and_restarted_under_load_fails_no_query(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::query(&mut scene)?;
        let (hub, clusters) = (&mut scene.hub, &scene.clusters);
        let atlas = &mut hub.atlas;
        let (asked, bad) = under_load(&hub.query, || {
            for _ in 0..3 {
                atlas.process.kill()?;
                thread::sleep(Duration::from_millis(700));
                atlas.process.restart()?;
                atlas.wait_ready()?;
            }
            Ok(())
        })?;
        println!("{asked} queries while Atlas was killed three times");
        assert!(bad.is_empty() && asked > 20, "{} of {asked}: {bad:#?}", bad.len());
        let restarted = Instant::now();
        scene.hub.wait_synced(clusters.iter().map(|cluster| cluster.name.as_str()))?;
        println!("all Envoys are back {:?} after the last restart", restarted.elapsed());
        let metrics = scene.hub.atlas.get(6309, "/metrics")?.text();
        assert_eq!(crate::sum(&metrics, "atlas_xds_resources_sent_total")?, 0, "who has everything is sent nothing");
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn an_envoy_that_is_killed_comes_back_by_itself(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::query(&mut scene)?;
        scene.clusters[0].envoy.process.kill()?;
        let answer = scene.hub.query.query(PROMQL)?;
        assert!(answer.took < Duration::from_secs(5) && answer.result.to_string().contains("paris"), "{answer:?}");
        scene.clusters[0].envoy.process.restart()?;
        scene.clusters[0].envoy.wait_live()?;
        wait_until("both clusters", Duration::from_secs(60), || Ok((clusters(&scene.hub.query)? == 2).then_some(())))?;
        scene.hub.envoy.process.kill()?;
        scene.hub.envoy.process.restart()?;
        scene.hub.envoy.wait_live()?;
        wait_until("both clusters", Duration::from_secs(60), || Ok((clusters(&scene.hub.query)? == 2).then_some(())))?;
        prove::alert(&scene.hub, "tokyo")?;
        // A graceful stop ends the streams and exits with 0; the data plane goes on without.
        let stopped = scene.hub.atlas.process.stop(Duration::from_secs(15))?;
        assert!(stopped.success(), "{stopped}");
        assert!(scene.hub.atlas.process.log().contains("Atlas is stopping"), "the streams were told");
        assert_eq!(clusters(&scene.hub.query)?, 2);
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    /// Envoy ends a request after 15 s unless its route has another timeout.
    fn a_query_may_take_longer_than_15_seconds(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        prove::query(&mut scene)?;
        scene.clusters[0].prometheus.iter_mut().try_for_each(|p| p.process.pause())?;
        let answer = thread::scope(|scope| {
            let asked = scope.spawn(|| scene.hub.query.query(PROMQL));
            thread::sleep(Duration::from_secs(20));
            scene.clusters[0].prometheus.iter_mut().try_for_each(|p| p.process.resume())?;
            asked.join().expect("no panic")
        })?;
        println!("a slow query took {:?}", answer.took);
        assert!(answer.took > Duration::from_secs(15), "{:?}", answer.took);
        assert_eq!(answer.result.as_array().map(Vec::len), Some(2), "{answer:?}");
        assert!(answer.warnings.is_empty(), "{answer:?}");
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn renewed_certificates_interrupt_nobody(world) {
        use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place};
        let options = HubOptions { atlas_extra: vec!["--leaf-lifetime=20s".into()], ..HubOptions::new(atlas()) };
        let mut hub = Hub::start(Place::in_world(world, "hub")?, options)?;
        let mut clusters = Vec::new();
        for name in ["tokyo", "paris"] {
            clusters.push(Cluster::start(Place::in_world(world, name)?, &mut hub, ClusterOptions::new(name))?);
        }
        let mut scene = Scene { hub, clusters };
        scene.wait_connected()?;
        prove::query(&mut scene)?;
        let leaf = || std::fs::read_to_string(scene.hub.atlas.options.state.join("pki/cluster.tokyo.pem"));
        let before = leaf()?;
        let (asked, bad) = under_load(&scene.hub.query, || {
            thread::sleep(Duration::from_secs(35));
            Ok(())
        })?;
        assert_ne!(leaf()?, before, "renewed");
        println!("{asked} queries over three renewals");
        assert!(bad.is_empty(), "{} of {asked}: {bad:#?}", bad.len());
        // Long after the first certificates have ended, new connections are still made.
        scene.clusters[0].envoy.process.kill()?;
        scene.clusters[0].envoy.process.restart()?;
        scene.clusters[0].envoy.wait_live()?;
        wait_until("both clusters", Duration::from_secs(60), || Ok((self::clusters(&scene.hub.query)? == 2).then_some(())))?;
    }
}
