//! Checks that every client has the resources that it must have.

use anyhow::{Context, Result, ensure};

use super::super::client::{CLUSTER, LISTENER, ROUTE, SECRET, TYPES};
use super::super::fleet::Fleet;
use super::Testbed;

impl Testbed {
    /// Checks that every cluster's client has its resources, and that the hub's has those of
    /// exactly the expected clusters.
    ///
    /// # Errors
    /// A resource is missing, outdated, or should have been removed.
    pub(super) fn verify(&self, when: &str) -> Result<()> {
        let hub = self.clients.first().context("BUG: no hub")?.lock();
        let (mut known, mut alerts) = (0, None);
        for (name, address) in &self.expected {
            let resource = Fleet::hub_cluster_name(name);
            let received = hub[CLUSTER]
                .get(&resource)
                .with_context(|| format!("{when}: the hub lacks {resource}"))?;
            ensure!(
                contains(&received.body.value, address),
                "{when}: the hub has an old {resource}, not the one at {address}"
            );
            known += 1;
        }
        let of_clusters = hub[CLUSTER].keys().filter(|name| name.starts_with("cluster/")).count();
        ensure!(
            of_clusters == known,
            "{when}: the hub has {of_clusters} Envoy clusters for clusters, not {known}"
        );
        drop(hub);
        for client in self.clients.iter().skip(1) {
            let has = client.lock();
            let (node, has) = (&client.identity.node, &*has);
            let store = format!("store/{node}-thanos-sidecar0");
            let wanted = [
                (SECRET, "leaf"),
                (SECRET, "trust"),
                (CLUSTER, store.as_str()),
                (CLUSTER, "hub/alerts"),
                (LISTENER, "inbound"),
                (LISTENER, "alerts"),
                (ROUTE, "inbound"),
                (ROUTE, "alerts"),
            ];
            for (kind, name) in wanted {
                ensure!(
                    has[kind].contains_key(name),
                    "{when}: {node} lacks {name} ({})",
                    TYPES[kind]
                );
            }
            // All clusters have the same Alertmanagers.
            let own = has[ROUTE].get("alerts").map(|resource| resource.body.clone());
            let other = alerts.get_or_insert_with(|| own.clone());
            ensure!(
                *other == own,
                "{when}: {node} knows other Alertmanagers than the clusters before it"
            );
        }
        Ok(())
    }
}

/// Whether a protobuf message has this text as a field. The field's length precedes it, so 10.0.0.1
/// is not found in 10.0.0.12.
pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    let Ok(length) = u8::try_from(text.len()) else { return false };
    bytes
        .windows(text.len() + 1)
        .any(|window| window[0] == length && &window[1..] == text.as_bytes())
}
