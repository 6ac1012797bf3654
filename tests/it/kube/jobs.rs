//! The three jobs: stores, web UIs, alerts.

use atlas_lab::scene::kube::{Stores, Zone};
use atlas_lab::scene::{KubeOptions, KubeScene, prove};
use atlas_lab::world_test;

use crate::atlas;

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Helm, CoreDns, Envoy, Thanos, Prometheus, Alertmanager],
    within 120,
    fn kube_the_three_jobs(world) {
        let mut scene = KubeScene::start(world, KubeOptions::new(atlas()))?;
        three_jobs(&mut scene)?;
    }
}

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Helm, CoreDns, Envoy, Thanos, Prometheus, Alertmanager],
    within 120,
    fn kube_everything_in_another_namespace_with_another_domain(world) {
        let options = KubeOptions {
            namespace: "observability".into(),
            domain: "corp.example".into(),
            zone: Zone::CoreDns,
            stores: Stores::Srv,
            ..KubeOptions::new(atlas())
        };
        let mut scene = KubeScene::start(world, options)?;
        three_jobs(&mut scene)?;
    }
}

fn three_jobs(scene: &mut KubeScene) -> anyhow::Result<()> {
    println!("{}", prove::stores(scene)?);
    println!("{}", prove::query(scene)?);
    for cluster in ["tokyo", "paris"] {
        println!("{}", prove::alert(&scene.hub, cluster)?);
        println!("{}", prove::web(&scene.hub, cluster)?);
    }
    Ok(())
}
