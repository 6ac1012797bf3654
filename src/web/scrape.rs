//! What a scrape of `/metrics` returns. The gauges of the state in force are set here.

use std::collections::BTreeMap;

use atlas_core::name::NodeId;
use prometheus_client::metrics::gauge::Gauge;

use super::WebState;
use crate::metrics::Metrics;
use crate::state::PublishedState;

/// Sets the gauges and renders all metrics.
pub fn scrape(web: &WebState) -> String {
    web.state_store.read(|published| {
        if let Some(published) = published {
            set_state_gauges(&web.metrics, published);
        }
    });
    set_node_gauges(web);
    set(&web.metrics.connections, web.streams.connections());
    web.metrics.render()
}

fn set_state_gauges(metrics: &Metrics, published: &PublishedState) {
    let fleet = &published.fleet;
    let stores = || fleet.clusters.values().flat_map(|cluster| &cluster.stores);
    set(&metrics.clusters, fleet.clusters.len());
    set(&metrics.stores, stores().count());
    set(&metrics.inexact_stores, stores().filter(|store| !store.exact).count());
    set(&metrics.alertmanagers, fleet.alertmanagers.len());
    set(&metrics.rejected, published.rejected());
    let of_nodes =
        published.expiries.values().flat_map(|expiries| [expiries.leaf, expiries.credential]);
    let first_expiry = of_nodes
        .flatten()
        .chain(published.authorities.values().copied())
        .chain(published.own_expiry)
        .min();
    metrics.first_expiry.set(first_expiry.unwrap_or(0));
}

fn set_node_gauges(web: &WebState) {
    let metrics = &web.metrics;
    let nodes = web.nodes.ids();
    let mut streams: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in &nodes {
        streams.insert(node.clone(), 0);
    }
    for stream in web.streams.open() {
        *streams.entry(stream.client.node.clone()).or_default() += 1;
    }
    // Cleared first, so that nodes that have been removed are left out.
    metrics.connected.clear();
    for (node, count) in streams {
        set(&metrics.connected.get_or_create(&[("node", node.to_string())]), count);
    }
    metrics.quarantined.clear();
    for node in nodes {
        let count = web.nodes.quarantined(&node).len();
        if count > 0 {
            set(&metrics.quarantined.get_or_create(&[("node", node.to_string())]), count);
        }
    }
}

fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}
