//! The resources of the hub's Envoys.

use std::sync::Arc;

use crate::envoy::web::WebEntry;
use crate::envoy::{cluster, listener, route, secret};
use crate::model::{Cluster, Fleet};
use crate::name::NodeId;
use crate::pki::Trust;
use crate::xds::resource::{Resource, ResourceType};

use super::expected_san;

/// The resources that don't depend on clusters; `None` until the hub's certificate has been issued.
pub(super) fn resources(fleet: &Fleet, trust: &Trust) -> Option<Vec<Arc<Resource>>> {
    use ResourceType as T;
    let settings = &fleet.settings;
    let leaf = trust.leaves.get(&NodeId::Hub)?;
    let (bind, longest) = (settings.hub_bind, settings.max_request_seconds);
    let clusters_san = expected_san::prefix_of_clusters(trust);
    let web = WebEntry {
        bind,
        trusted_hops: settings.trusted_hops,
        path: settings.web_path(),
        pass_headers: &settings.web_pass_headers,
        pass_cookies: &settings.web_pass_cookies,
    };
    let indices = fleet.alertmanagers.keys().copied();
    let mut resources = vec![
        Resource::new(T::Secret, secret::LEAF, &secret::leaf(&leaf.chain, leaf.key.expose())),
        Resource::new(T::Secret, secret::TRUST, &secret::trust(&trust.bundle())),
        Resource::new(T::Listener, "xds", &listener::xds_on_hub("xds", bind)),
        Resource::new(T::Listener, "stores", &listener::stores_on_hub(bind, longest)),
        Resource::new(T::Listener, "alerts", &listener::alerts_on_hub(bind, &clusters_san)),
        Resource::new(T::Listener, "web", &listener::web_on_hub(&web, longest)),
        Resource::new(T::Route, "stores", &route::stores_on_hub("stores", longest)),
        Resource::new(
            T::Route,
            "alerts",
            &route::alerts_on_hub("alerts", indices, &settings.alertmanager_path_prefix),
        ),
        Resource::new(T::Route, "web", &route::web_on_hub("web", &web, longest)),
    ];
    let mut clusters =
        [cluster::atlas_xds_entry(&settings.atlas_xds), cluster::atlas_web(&settings.atlas_web)]
            .concat();
    for (index, alertmanager) in &fleet.alertmanagers {
        clusters.extend(cluster::alertmanager_on_hub(
            *index,
            &alertmanager.addresses,
            &settings.alertmanager_path_prefix,
        ));
    }
    resources.extend(clusters.iter().map(super::envoy_cluster));
    Some(resources)
}

/// The resources of one cluster: its Envoy cluster, with those for its host names. A cluster
/// without addresses has one too, so that people read that it can't be reached, not that it doesn't
/// exist.
pub(super) fn resources_of_cluster(cluster: &Cluster, trust: &Trust) -> Vec<Arc<Resource>> {
    let san = expected_san::of_cluster(&cluster.name, trust);
    let link = self::cluster::downstream_cluster(cluster.name.as_str(), &cluster.addresses, &san);
    link.iter().map(super::envoy_cluster).collect()
}
