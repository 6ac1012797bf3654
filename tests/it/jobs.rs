//! The three jobs: stores, web UIs, alerts.

use atlas_lab::parts::Part;
use atlas_lab::scene::{Scene, prove};
use atlas_lab::world_test;

use crate::atlas;

world_test! {
    needs [Envoy, Thanos, Prometheus, Alertmanager, CoreDns],
    fn the_three_jobs_with_prometheus_3(world) {
        let mut scene = Scene::start(world, atlas(), Part::Prometheus)?;
        println!("{}", prove::stores(&mut scene)?);
        println!("{}", prove::query(&mut scene)?);
        for cluster in ["tokyo", "paris"] {
            println!("{}", prove::alert(&scene.hub, cluster)?);
            println!("{}", prove::web(&scene.hub, cluster)?);
        }
    }
}
