//! The three jobs: stores, web UIs, alerts.

use std::net::SocketAddr;

use atlas_lab::parts::{self, Part};
use atlas_lab::run::{Endpoints, Query, QueryOptions};
use atlas_lab::scene::kube::{Stores, Zone};
use atlas_lab::scene::{KubeOptions, KubeScene, prove};
use atlas_lab::world_test;

use super::SECOND;
use crate::atlas;

world_test! {
    needs [Etcd, KubeApiserver, KubeControllerManager, Helm, CoreDns, Envoy, Thanos, Prometheus, Alertmanager],
    within 120,
    fn kube_the_three_jobs(world) {
        let mut scene = KubeScene::start(world, KubeOptions { by_commands: true, ..KubeOptions::new(atlas()) })?;
        three_jobs(&mut scene)?;
        // All of that with no right beyond the chart's.
        let atlas = scene.hub.kube.client_for_service_account("monitoring", "atlas")?;
        for path in ["/api/v1/secrets", "/api/v1/namespaces/tokyo/secrets", "/api/v1/namespaces/monitoring/pods", "/api/v1/nodes"] {
            assert_eq!(atlas.request("GET", path, None)?.status, 403, "{path}");
        }
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
        for store in scene.hub.query.stores()? {
            assert!(store.name.contains(".observability.svc.corp.example"), "{}", store.name);
        }
        // With the other of Query's two resolvers too: stores' names are other names of one
        // Service.
        let (host, ip) = (&scene.hub.place.host, scene.hub.place.programs[0]);
        let options = QueryOptions {
            extra: vec!["--store.sd-dns-resolver=miekgdns".into()],
            ..QueryOptions::new(
                SocketAddr::new(ip, 10921),
                SocketAddr::new(ip, 10922),
                [Endpoints::Address("dnssrvnoa+_thanos._tcp.sidecars.thanos.atlas".into())],
            )
        };
        let mut query = Query::start(host, "thanos-query-miekgdns", &parts::get(Part::Thanos)?, &options)?;
        query.wait_ready()?;
        query.wait_stores(4, 30 * SECOND)?;
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
