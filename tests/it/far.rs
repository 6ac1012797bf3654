//! Clusters that are far away, over links that lose packets, are black in one direction, or swallow
//! large packets.
//!
//! TCP's congestion control is reno everywhere here: the most cautious one, so what works with it
//! works with others.

use std::thread;
use std::time::{Duration, Instant};

use atlas_lab::http;
use atlas_lab::parts::Part;
use atlas_lab::process::wait_until;
use atlas_lab::run::Query;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, Scene, prove};
use atlas_lab::world::{Direction, World};
use atlas_lab::world_test;

use crate::atlas;

const PROMQL: &str = "count by (cluster) (up)";
/// What one job may take on a link this far, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

/// A hub, paris beside it, and tokyo behind a link of its own, as near as paris at first.
fn scene(
    world: &World,
    seed: u64,
    before: impl FnOnce(&Place) -> anyhow::Result<()>,
) -> anyhow::Result<Scene> {
    let place = Place::in_world(world, "hub")?;
    place.host.set_congestion_control("reno")?;
    let mut hub = Hub::start(place, HubOptions::new(atlas()))?;
    let place = Place::far_in_world(world, "tokyo", seed)?;
    place.host.set_congestion_control("reno")?;
    before(&place)?;
    let tokyo = Cluster::start(
        place,
        &mut hub,
        ClusterOptions { prometheus: Part::PrometheusClassic, ..ClusterOptions::new("tokyo") },
    )?;
    let paris =
        Cluster::start(Place::in_world(world, "paris")?, &mut hub, ClusterOptions::new("paris"))?;
    Ok(Scene { hub, clusters: vec![tokyo, paris] })
}

/// Whether the answer to [`PROMQL`] has both clusters, and no warning.
fn complete(query: &Query) -> anyhow::Result<bool> {
    let answer = query.query(PROMQL)?;
    Ok(answer.result.as_array().map_or(0, Vec::len) == 2 && answer.warnings.is_empty())
}

/// Waits until tokyo's Envoy has all it should have.
fn wait_synced(scene: &Scene) -> anyhow::Result<()> {
    wait_until("tokyo in sync", PATIENCE, || scene.hub.wait_synced(["tokyo"]).map(Some))
}

/// The largest page that every Prometheus has, asked for as a person would.
fn page(scene: &Scene, path: &str) -> anyhow::Result<(usize, Duration)> {
    let url = scene.hub.web_url(path);
    let began = Instant::now();
    let answer = scene.hub.place.host.within(|| http::get_within(PATIENCE, &url))?;
    anyhow::ensure!(
        answer.status == 200,
        "{path}: {} after {:?}: {}",
        answer.status,
        began.elapsed(),
        answer.text()
    );
    Ok((answer.body.len(), began.elapsed()))
}

world_test! {
    needs [Envoy, Thanos, Prometheus, PrometheusClassic, Alertmanager, CoreDns], within 600,
    fn a_lossy_cluster_a_second_away_does_all_three_jobs(world) {
        // From the first connection on: the bootstrap, TLS, and every type of resource cross the
        // distance.
        let far = |place: &Place| place.host.link().map(|link| link.set_distance(Duration::from_secs(1), 0.01));
        let began = Instant::now();
        let mut scene = scene(world, 3, far)?;
        wait_synced(&scene)?;
        println!("1 s, 1 %: everything started and in sync after {:?}", began.elapsed());
        for (milliseconds, loss) in [(300, 0.01), (700, 0.01), (1000, 0.0), (1000, 0.01)] {
            scene.clusters[0].place.host.link()?.set_distance(Duration::from_millis(milliseconds), loss);
            let what = format!("{milliseconds} ms, {} %", loss * 100.0);
            prove::stores(&mut scene)?;
            prove::query(&mut scene)?;
            prove::web(&scene.hub, "tokyo")?;
            prove::alert(&scene.hub, "tokyo")?;
            let mut slowest = Duration::ZERO;
            let mut whole = 0;
            for _ in 0..10 {
                let answer = scene.hub.query.query(PROMQL)?;
                whole += usize::from(answer.result.to_string().contains("tokyo") && answer.warnings.is_empty());
                slowest = slowest.max(answer.took);
            }
            // Two lost packets in a row may cost a connection; whoever looks at a page loads it
            // again.
            let again = if loss == 0.0 { Duration::ZERO } else { PATIENCE };
            let (bytes, took) = wait_until("a page", again, || page(&scene, "/prom/tokyo/metrics").map(Some))?;
            println!("{what}: {whole} of 10 queries complete, the slowest {slowest:?}; a page of {bytes} bytes took {took:?}");
            // Who is far and loses nothing is never taken for dead; of who loses packets, one query
            // in ten may be short.
            assert!(whole >= if loss == 0.0 { 10 } else { 9 }, "{what}: {whole} of 10");

            // All of its Envoy's configuration crosses the distance again.
            let envoy = &mut scene.clusters[0].envoy;
            envoy.process.kill()?;
            envoy.process.restart()?;
            let began = Instant::now();
            wait_until("tokyo's Envoy is live", PATIENCE, || Ok((envoy.admin_get("/ready")?.status == 200).then_some(())))?;
            println!("{what}: a restarted Envoy is live after {:?}", began.elapsed());
            wait_until("both clusters", PATIENCE, || Ok(complete(&scene.hub.query)?.then_some(())))?;
            println!("{what}: its stores are back after {:?}", began.elapsed());
        }
        let lost = scene.clusters[0].place.host.link()?.counts(Direction::ToHost).lost;
        assert!(lost > 0, "the link has lost packets");
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, PrometheusClassic, Alertmanager, CoreDns], within 400,
    fn a_link_black_in_one_direction_is_found_like_one_black_in_both(world) {
        let mut scene = scene(world, 5, |_| Ok(()))?;
        scene.wait_connected()?;
        prove::query(&mut scene)?;
        let tokyo = scene.clusters[0].place.host.clone();
        for (round_trip, direction) in [
            (Duration::ZERO, Direction::FromHost),
            (Duration::ZERO, Direction::ToHost),
            (Duration::from_millis(300), Direction::FromHost),
            (Duration::from_secs(1), Direction::ToHost),
        ] {
            tokyo.link()?.set_distance(round_trip, 0.0);
            wait_until("both clusters", PATIENCE, || Ok(complete(&scene.hub.query)?.then_some(())))?;
            // Its Prometheus is held, so the query is waiting for tokyo when the link goes black.
            scene.clusters[0].prometheus.iter_mut().try_for_each(|p| p.process.pause())?;
            let query = &scene.hub.query;
            let (answer, took) = thread::scope(|scope| {
                let asked = scope.spawn(|| query.query(PROMQL).map(|answer| (answer, Instant::now())));
                thread::sleep(Duration::from_millis(1500));
                tokyo.link()?.change(direction, |conditions| conditions.black = true);
                let black = Instant::now();
                let (answer, ended) = asked.join().expect("no panic")?;
                anyhow::Ok((answer, ended.saturating_duration_since(black)))
            })?;
            println!("{round_trip:?}, {direction:?}: the query in flight ended {took:?} after the link");
            // Near by 5 s are promised; the farther, the later a packet is sent again that isn't
            // answered.
            let promised = Duration::from_secs(5) + 4 * round_trip;
            assert!(took < 3 * promised, "promised: {promised:?}; asserted: three times that");
            assert!(answer.result.to_string().contains("paris") && !answer.warnings.is_empty(), "partial, with a warning: {answer:?}");
            let next = scene.hub.query.query(PROMQL)?;
            println!("{round_trip:?}, {direction:?}: the next took {:?}", next.took);
            assert!(next.took < Duration::from_secs(15) && next.result.to_string().contains("paris"), "{next:?}");
            let later = scene.hub.query.query(PROMQL)?;
            assert!(later.took < Duration::from_secs(3), "{later:?}");
            scene.clusters[0].prometheus.iter_mut().try_for_each(|p| p.process.resume())?;
            tokyo.link()?.change(direction, |conditions| conditions.black = false);
            let back = Instant::now();
            wait_until("tokyo's web UI", PATIENCE, || Ok((scene.hub.web("/prom/tokyo/-/healthy")?.status == 200).then_some(())))?;
            println!("{round_trip:?}, {direction:?}: tokyo's web UI is back {:?} after its link", back.elapsed());
        }
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, PrometheusClassic, Alertmanager, CoreDns], within 400,
    /// A path with a smaller MTU than both ends have, and a firewall that drops the ICMP that
    /// would say so.
    fn a_path_that_swallows_large_packets_in_silence_carries_everything(world) {
        let narrow = |place: &Place| place.host.link().map(|link| link.change_both(|conditions| conditions.largest_packet = Some(1280)));
        let mut scene = scene(world, 9, narrow)?;
        scene.wait_connected()?;
        prove::stores(&mut scene)?;
        prove::query(&mut scene)?;
        prove::web(&scene.hub, "tokyo")?;
        prove::alert(&scene.hub, "tokyo")?;
        let (bytes, took) = page(&scene, "/prom/tokyo/metrics")?;
        println!("a page of {bytes} bytes took {took:?}");
        assert!(bytes > 20_000, "many segments: {bytes}");

        // The hole is there: what dials without Atlas's segment size connects, and hears nothing.
        let link = scene.clusters[0].place.host.link()?;
        let before = link.counts(Direction::FromHost).too_large;
        let at = std::net::SocketAddr::new(scene.clusters[0].place.programs[0], 9090);
        let error = scene.hub.place.host.within(|| http::get_within(Duration::from_secs(5), &format!("http://{at}/metrics"))).unwrap_err();
        println!("directly: {error:#}");
        assert!(link.counts(Direction::FromHost).too_large > before, "large packets are lost: {:?}", link.counts(Direction::FromHost));
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, PrometheusClassic, Alertmanager, CoreDns], within 400,
    /// On a slow link the answer to a ping waits behind what is on its way, much longer than a ping
    /// may take.
    fn what_takes_long_on_a_lossy_link_is_not_taken_for_dead(world) {
        let mut scene = scene(world, 11, |_| Ok(()))?;
        scene.wait_connected()?;
        prove::query(&mut scene)?;
        let link = scene.clusters[0].place.host.link()?.clone();
        link.set_distance(Duration::from_millis(300), 0.01);
        link.change_both(|conditions| {
            conditions.bytes_per_second = Some(16_000);
            conditions.queue_bytes = 8_000;
        });
        // Longer than a black link has until what is on it ends.
        let long = Duration::from_millis(4400);
        // As many alerts as a failing cluster has.
        let alert = |n: usize| serde_json::json!({"labels": {"alertname": format!("Pod{n}"), "cluster": "tokyo", "text": "x".repeat(100)}});
        let body = serde_json::to_vec(&(0..600).map(alert).collect::<Vec<_>>())?;
        let place = &scene.clusters[0].place;
        let url = format!("http://{}/alertmanager/0/api/v2/alerts", std::net::SocketAddr::new(place.envoy, 11903));
        let (began, length) = (Instant::now(), body.len());
        let answer = place.host.within(|| {
            http::Request::new("POST", url)?.header("content-type", "application/json").body(body).timeout(PATIENCE).send()
        })?;
        println!("up: {length} bytes of alerts took {:?}: {}", began.elapsed(), answer.status);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(began.elapsed() > long, "{:?}", began.elapsed());
        // All samples there are, as JSON.
        let (bytes, took) = page(&scene, "/prom/tokyo/api/v1/query?query=%7B__name__%3D~%22.%2B%22%7D%5B5m%5D")?;
        println!("down: an answer of {bytes} bytes took {took:?}");
        assert!(took > long, "{took:?}");
    }
}
