//! The resources of a downstream cluster's Envoys.

use std::sync::Arc;

use crate::envoy::web::WebUi;
use crate::envoy::{cluster, listener, route, secret};
use crate::model::{Backend, Cluster, Fleet};
use crate::name::NodeId;
use crate::pki::Trust;
use crate::xds::resource::{Resource, ResourceType};

use super::expected_san;

/// All resources; `None` until the cluster's certificate has been issued.
pub(super) fn resources(
    fleet: &Fleet,
    cluster: &Cluster,
    trust: &Trust,
) -> Option<Vec<Arc<Resource>>> {
    use ResourceType as T;
    let leaf = trust.leaves.get(&NodeId::Cluster(cluster.name.clone()))?;
    let hub_san = expected_san::of_hub(trust);
    let (prom, alertmanager) =
        (format!("/prom/{}", cluster.name), format!("/alertmanager/{}", cluster.name));
    let uis = [
        web_ui("prometheus", &prom, &cluster.prometheus),
        web_ui("alertmanager", &alertmanager, &cluster.alertmanager),
    ];
    let longest = fleet.settings.max_request_seconds;
    let labels: Vec<String> =
        cluster.stores.iter().map(|store| cluster.name.store(store.index)).collect();
    let mut hosts: Vec<_> = labels.iter().map(|label| route::store_host(label, longest)).collect();
    hosts.push(route::web_host(&uis, &cluster.allow_paths, longest));
    let hub_alerts = cluster.hub.as_ref().map_or(&fleet.settings.hub_alerts, |hub| &hub.alerts);

    let mut resources = vec![
        Resource::new(T::Secret, secret::LEAF, &secret::leaf(&leaf.chain, leaf.key.expose())),
        Resource::new(T::Secret, secret::TRUST, &secret::trust(&trust.bundle())),
        Resource::new(
            T::Listener,
            "inbound",
            &listener::inbound(cluster.bind, &hub_san, fleet.settings.trusted_hops, longest),
        ),
        Resource::new(T::Listener, "alerts", &listener::alerts_in_cluster(cluster.bind)),
        Resource::new(T::Route, "inbound", &route::inbound("inbound", hosts)),
        alert_routes(fleet),
    ];
    let stores = cluster.stores.iter().zip(&labels);
    let mut clusters: Vec<_> = stores
        .flat_map(|(store, label)| {
            self::cluster::store_in_cluster(label, &store.at, &store.fallbacks)
        })
        .collect();
    clusters.extend(self::cluster::backend("prometheus", &cluster.prometheus.at));
    clusters.extend(self::cluster::backend("alertmanager", &cluster.alertmanager.at));
    clusters.extend(self::cluster::hub_alerts(hub_alerts, &hub_san));
    resources.extend(clusters.iter().map(super::envoy_cluster));
    Some(resources)
}

fn web_ui<'a>(kind: &'a str, base: &'a str, backend: &'a Backend) -> WebUi<'a> {
    WebUi {
        kind,
        base,
        backend_prefix: &backend.path_prefix,
        address: &backend.at,
        host: &backend.host,
    }
}

/// The routes of alerts: the only resource that depends on the hub's Alertmanagers. It is the same
/// in all clusters.
pub(super) fn alert_routes(fleet: &Fleet) -> Arc<Resource> {
    let indices: Vec<u32> = fleet.alertmanagers.keys().copied().collect();
    Resource::new(ResourceType::Route, "alerts", &route::alerts_in_cluster("alerts", &indices))
}
