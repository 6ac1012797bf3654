//! The three jobs: stores, web UIs, alerts. With Prometheus 2.42 they are in [`crate::browser`].

use atlas_lab::parts::Part;
use atlas_lab::scene::{Cluster, ClusterOptions, Hub, HubOptions, Place, Scene, prove};
use atlas_lab::world_test;

use crate::atlas;

world_test! {
    needs [EnvoyOldest, Thanos, Prometheus, Alertmanager, CoreDns],
    fn the_three_jobs_with_prometheus_3_and_the_oldest_envoy(world) {
        let options = HubOptions { envoy: Part::EnvoyOldest, ..HubOptions::new(atlas()) };
        let mut hub = Hub::start(Place::in_world(world, "hub")?, options)?;
        let mut clusters = Vec::new();
        for name in ["tokyo", "paris"] {
            let place = Place::in_world(world, name)?;
            let mut options = ClusterOptions { envoy: Part::EnvoyOldest, ..ClusterOptions::new(name) };
            if name == "paris" {
                // By IPv6, with a second address behind which nobody is.
                let addresses = format!("[{}]:11901, {}:19999", place.host.ip6(), place.envoy);
                options.annotations.push(("goatlas.io/addresses".into(), addresses));
            }
            clusters.push(Cluster::start(place, &mut hub, options)?);
        }
        let mut scene = Scene { hub, clusters };
        scene.wait_connected()?;
        three_jobs(&mut scene)?;
    }
}

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn the_three_jobs_with_prometheus_3(world) {
        three_jobs(&mut Scene::start(world, atlas(), Part::Prometheus)?)?;
    }
}

fn three_jobs(scene: &mut Scene) -> anyhow::Result<()> {
    println!("{}", prove::stores(scene)?);
    println!("{}", prove::query(scene)?);
    for cluster in ["tokyo", "paris"] {
        println!("{}", prove::alert(&scene.hub, cluster)?);
        println!("{}", prove::web(&scene.hub, cluster)?);
    }
    Ok(())
}
