//! The URI SAN (a SPIFFE ID) that each side of a connection expects of the other's certificate.

use crate::name::{ClusterName, Identity};
use crate::pki::Trust;

/// What the hub's Envoys expect of a cluster's: exactly this cluster, with its current revision. So
/// an Envoy whose credential has an earlier revision gets no requests.
pub(super) fn of_cluster(cluster: &ClusterName, trust: &Trust) -> String {
    Identity::Cluster(cluster.clone(), trust.revision(cluster)).spiffe_id(&trust.domain)
}

/// What the hub's 10903 expects of its clients: the Envoy of any cluster. It is the prefix of their
/// SPIFFE IDs.
pub(super) fn prefix_of_clusters(trust: &Trust) -> String {
    format!("spiffe://{}/cluster/", trust.domain)
}

/// What a cluster's Envoys expect of the hub's.
pub(super) fn of_hub(trust: &Trust) -> String {
    Identity::Hub.spiffe_id(&trust.domain)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_hub_expects_the_current_revision_of_a_cluster() {
        let [paris, tokyo]: [ClusterName; 2] = ["paris", "tokyo"].map(|name| name.parse().unwrap());
        let trust = Trust {
            domain: "atlas.example".parse().unwrap(),
            roots: Vec::new(),
            leaves: BTreeMap::new(),
            revisions: [(tokyo.clone(), 4)].into(),
        };
        assert_eq!(of_cluster(&tokyo, &trust), "spiffe://atlas.example/cluster/tokyo/4");
        assert_eq!(of_cluster(&paris, &trust), "spiffe://atlas.example/cluster/paris/1");
        assert!(of_cluster(&tokyo, &trust).starts_with(&prefix_of_clusters(&trust)));
        assert!(!of_hub(&trust).starts_with(&prefix_of_clusters(&trust)));
    }
}
