//! Thanos Query's endpoint SD file: one static address per store.
//!
//! The addresses are static because Query ignores `client_config` for addresses with a `dns…+`
//! prefix, and drops a store whose name is missing from DNS for a moment.

use crate::model::{Cluster, Fleet, Settings, StoreNames};
use crate::ports;

/// The name by which Thanos Query finds a store, without a dot at its end.
pub fn store_name(label: &str, settings: &Settings) -> String {
    match settings.store_names {
        StoreNames::Zone => format!("{label}.sidecars.thanos.{}", settings.dns_zone),
        StoreNames::Services => service_host(label, settings),
    }
}

/// The name of a Service in Atlas's namespace, without a dot at its end.
pub fn service_host(service: &str, settings: &Settings) -> String {
    format!("{service}.{}.svc.{}", settings.namespace, settings.cluster_domain)
}

/// The file. It leaves out clusters that await their address, which Query would report as down.
pub fn endpoints(fleet: &Fleet) -> String {
    let pieces: Vec<String> =
        fleet.clusters.values().map(|cluster| cluster_lines(&fleet.settings, cluster)).collect();
    file(0, pieces.iter().map(String::as_str))
}

pub(super) fn cluster_lines(settings: &Settings, cluster: &Cluster) -> String {
    let stores = if cluster.addresses.is_empty() { &[] } else { cluster.stores.as_slice() };
    let labels = stores.iter().map(|store| cluster.name.store(store.index));
    labels
        .map(|label| format!("- address: {}:{}\n", store_name(&label, settings), ports::HUB_STORES))
        .collect()
}

/// Puts the lines of all clusters together. `length` is their approximate length in bytes.
pub(super) fn file<'a>(length: usize, pieces: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::with_capacity(length + 128);
    text.push_str("# Written by Atlas. For Thanos Query: --endpoint.sd-config-file.\nendpoints:");
    let mut pieces = pieces.filter(|piece| !piece.is_empty()).peekable();
    text.push_str(if pieces.peek().is_none() { " []\n" } else { "\n" });
    for piece in pieces {
        text.push_str(piece);
    }
    text
}
