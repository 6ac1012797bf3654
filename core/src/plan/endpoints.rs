//! Thanos Query's endpoint SD file: one static address per store.
//!
//! Static, because Query ignores `client_config` for addresses with a `dns…+` prefix, and takes a name that vanishes
//! from DNS for a store that is gone.

use crate::keys::port;
use crate::model::{Fleet, Settings, StoreNames};

/// The name under which Thanos Query knows a store, without a dot at its end.
pub fn store_name(label: &str, settings: &Settings) -> String {
    match settings.store_names {
        StoreNames::Zone => format!("{label}.sidecars.thanos.{}", settings.dns_zone),
        StoreNames::Services => format!("{label}.{}.svc.{}", settings.namespace, settings.cluster_domain),
    }
}

/// The file. Clusters that are awaiting their address are left out: Query would complain of them for nothing.
pub fn endpoints(fleet: &Fleet) -> String {
    let reachable = fleet.clusters.values().filter(|cluster| !cluster.addresses.is_empty());
    let labels = reachable.flat_map(|cluster| cluster.stores.iter().map(|store| cluster.name.store(store.index)));
    let lines: Vec<String> =
        labels.map(|label| format!("- address: {}:{}\n", store_name(&label, &fleet.settings), port::HUB_STORES)).collect();
    let head = "# Written by Atlas. For Thanos Query: --endpoint.sd-config-file.\n";
    if lines.is_empty() { format!("{head}endpoints: []\n") } else { format!("{head}endpoints:\n{}", lines.concat()) }
}
