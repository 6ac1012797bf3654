//! Applying change by change gives the same as validating all manifests at once.

use proptest::prelude::*;

use super::*;
use crate::annotations;
use crate::manifest::{Endpoint, EndpointSlice};
use crate::validate::validate;

/// One of a few objects, so that they meet: clusters in two namespaces, Alertmanagers, slices; some
/// wrong.
fn manifest(kind: u8, name: u8, content: u8) -> Manifest {
    let namespace = match kind % 4 {
        0 => None,
        1 => Some("monitoring".to_owned()),
        _ => Some("elsewhere".to_owned()),
    };
    let mut meta =
        crate::manifest::Meta { name: format!("c{name}"), namespace, ..Default::default() };
    if kind < 8 {
        if content % 4 != 3 {
            meta.labels.insert(annotations::CLUSTER.into(), "true".into());
        }
        if content % 5 == 4 {
            meta.labels.insert("app".into(), "kube-prometheus-stack-alertmanager".into());
        }
        meta.labels.insert(
            annotations::REPLICAS.into(),
            ["1", "2", "none", "3"][usize::from(content) % 4].into(),
        );
        let external_ips = if content.is_multiple_of(2) {
            vec![format!("10.0.0.{}", content + 1)]
        } else {
            Vec::new()
        };
        return Manifest::Service(Service { meta, external_ips, ..Service::default() });
    }
    meta.namespace = Some("monitoring".into());
    meta.labels.insert(annotations::SERVICE_NAME.into(), "alertmanager-operated".into());
    let endpoints = vec![Endpoint {
        addresses: vec![format!("10.1.0.{content}")],
        hostname: Some(format!("am-{name}")),
        target: None,
    }];
    Manifest::EndpointSlice(EndpointSlice { meta, endpoints, ports: Vec::new() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn change_by_change_gives_the_same_as_all_at_once(steps in prop::collection::vec(prop::collection::vec((0..10u8, 0..3u8, 0..12u8, any::<bool>()), 1..5), 1..12)) {
        let settings = Settings::default();
        let mut store = ManifestStore::new(settings.clone(), BTreeMap::new());
        let mut manifests: BTreeMap<ManifestKey, Manifest> = BTreeMap::new();
        for step in steps {
            let last = store.fleet().clone();
            let mut changes = BTreeMap::new();
            for (kind, name, content, there) in step {
                let manifest = manifest(kind, name, content);
                let key = manifest.key();
                changes.insert(key.clone(), there.then(|| Arc::new(manifest.clone())));
                if there { manifests.insert(key, manifest); } else { manifests.remove(&key); }
            }
            let changed = store.apply(changes.clone());
            let all: Vec<Manifest> = manifests.values().cloned().collect();
            let taken = validate(&settings, &all, Some(&last));
            prop_assert_eq!(store.fleet(), &taken.fleet);
            prop_assert_eq!(store.findings(), taken.findings);
            for name in last.clusters.keys().chain(taken.fleet.clusters.keys()) {
                let differs = last.clusters.get(name) != taken.fleet.clusters.get(name);
                prop_assert_eq!(differs, changed.clusters.contains(name));
            }
            prop_assert_eq!(last.alertmanagers != taken.fleet.alertmanagers, changed.alertmanagers);
            prop_assert_eq!(store.apply(changes), ChangeSet::default());
        }
    }
}

#[test]
fn the_last_good_configuration_counts_while_the_first_is_invalid() {
    let good = ManifestStore::new(Settings::default(), BTreeMap::new());
    let of = |mut store: ManifestStore, content| {
        let manifest = manifest(1, 0, content);
        store.apply([(manifest.key(), Some(Arc::new(manifest)))]);
        store
    };
    let good = of(good, 0);
    let before = good.fleet().clusters.clone();
    let wrong = of(ManifestStore::new(Settings::default(), before.clone()), 2);
    assert_eq!(wrong.fleet().clusters, before);
    assert!(wrong.findings()[0].fix.contains("last good"), "{:?}", wrong.findings());
    // But only from the start: a cluster that is gone is gone.
    let mut wrong = wrong;
    wrong.apply([(manifest(1, 0, 0).key(), None)]);
    assert!(of(wrong, 2).fleet().clusters.is_empty());
}

#[test]
fn the_first_address_changes_the_finding_about_a_zone_without_addresses() {
    let mut store = ManifestStore::new(Settings::default(), BTreeMap::new());
    let about_zone = |store: &ManifestStore| {
        store.findings().iter().filter(|finding| finding.object == "atlas").count()
    };
    let with_address = manifest(1, 0, 0);
    assert_eq!(about_zone(&store), 0);
    let changed = store.apply([(with_address.key(), Some(Arc::new(with_address.clone())))]);
    assert_eq!((changed.findings, about_zone(&store)), (true, 1));
    let changed = store.apply([(with_address.key(), None)]);
    assert_eq!((changed.findings, about_zone(&store)), (true, 0));
}
