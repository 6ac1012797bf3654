use super::*;
use crate::annotations;
use crate::manifest::{Manifest, Service};
use crate::model::Settings;
use crate::name::{HostPort, Identity};
use crate::pki::{Leaf, PrivateKey};
use crate::validate::validate;
use crate::xds::resource::ResourceType;
use proptest::prelude::*;

fn fleet(names: &[String]) -> Fleet {
    let service = |name: &String| {
        let mut service = Service::default();
        service.meta.name = name.clone();
        service.meta.labels.insert(annotations::CLUSTER.into(), "true".into());
        service.meta.labels.insert(annotations::REPLICAS.into(), "2".into());
        service.external_ips = vec![format!("10.0.0.{}", name.len())];
        Manifest::Service(service)
    };
    let settings = Settings {
        hub_alerts: vec![HostPort::parse("hub.example:10903", 1).unwrap()],
        ..Settings::default()
    };
    validate(&settings, &names.iter().map(service).collect::<Vec<_>>(), None).fleet
}

fn trust(fleet: &Fleet) -> Trust {
    let leaf = |node: NodeId| {
        (
            node.clone(),
            Leaf {
                chain: format!("chain of {node}"),
                key: PrivateKey::new(format!("key of {node}")),
            },
        )
    };
    let nodes = fleet.clusters.keys().cloned().map(NodeId::Cluster).chain([NodeId::Hub]);
    Trust {
        domain: fleet.settings.trust_domain.clone(),
        roots: vec!["root".into()],
        leaves: nodes.map(leaf).collect(),
        revisions: BTreeMap::new(),
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn adding_a_cluster_changes_no_resource_of_another() {
    let (before, after) = (fleet(&names(&["tokyo"])), fleet(&names(&["paris", "tokyo"])));
    let (before, after) = (plan(&before, &trust(&before)), plan(&after, &trust(&after)));
    assert_eq!(before.nodes[&"tokyo".parse().unwrap()], after.nodes[&"tokyo".parse().unwrap()]);
    let (old, new) = (&before.nodes[&NodeId::Hub], &after.nodes[&NodeId::Hub]);
    let changed: Vec<&str> =
        new.iter().filter(|r| old.get(r.kind, &r.name) != Some(r)).map(|r| &*r.name).collect();
    assert_eq!(changed, ["cluster/paris"]);
}

#[test]
fn a_node_without_its_certificate_is_not_planned() {
    let fleet = fleet(&names(&["tokyo"]));
    let mut trust = trust(&fleet);
    trust.leaves.remove(&NodeId::Hub);
    let plan = plan(&fleet, &trust);
    assert!(!plan.nodes.contains_key(&NodeId::Hub));
    assert_eq!(plan.nodes.len(), 1);
}

#[test]
fn a_private_key_is_only_in_resources_of_its_node() {
    let fleet = fleet(&names(&["paris", "tokyo"]));
    let plan = plan(&fleet, &trust(&fleet));
    for (node, snapshot) in &plan.nodes {
        for resource in snapshot.iter() {
            let text = String::from_utf8_lossy(resource.wire());
            for other in plan.nodes.keys().filter(|other| *other != node) {
                assert!(
                    !text.contains(&format!("key of {other}")),
                    "{node} has the key of {other}"
                );
            }
        }
    }
}

#[test]
fn the_hub_expects_the_current_revision_of_a_cluster() {
    let fleet = fleet(&names(&["tokyo"]));
    let mut trust = trust(&fleet);
    trust.revisions.insert("tokyo".parse().unwrap(), 4);
    let plan = plan(&fleet, &trust);
    let cluster = plan.nodes[&NodeId::Hub].get(ResourceType::Cluster, "cluster/tokyo").unwrap();
    let id = Identity::Cluster("tokyo".parse().unwrap(), 4).spiffe_id(&trust.domain);
    assert!(String::from_utf8_lossy(cluster.wire()).contains(&id));
}

proptest! {
    #[test]
    fn an_equal_fleet_gives_equal_versions(mut list in prop::collection::btree_set("[a-f]{1,4}", 1..6).prop_map(|set| set.into_iter().collect::<Vec<_>>()), turn in 0..6usize) {
        let first = fleet(&list);
        let by = turn % list.len();
        list.rotate_left(by);
        let second = fleet(&list);
        prop_assert_eq!(plan(&first, &trust(&first)), plan(&second, &trust(&second)));
    }
}

/// The snapshots of all nodes, made of the changes of a planner.
#[derive(Default)]
struct Snapshots(BTreeMap<NodeId, Snapshot>);

impl Snapshots {
    /// Applies changes, and returns how many resources of each node differ.
    fn apply(&mut self, changes: Vec<(NodeId, NodeChange)>) -> BTreeMap<NodeId, usize> {
        let mut counts = BTreeMap::new();
        for (node, change) in changes {
            let count = match change {
                NodeChange::Replace(resources) => {
                    self.0.entry(node.clone()).or_default().replace_all(resources)
                }
                NodeChange::Apply(changes) => {
                    self.0.entry(node.clone()).or_default().apply(changes)
                }
                NodeChange::Remove => self.0.remove(&node).map_or(0, |snapshot| snapshot.len()),
            };
            counts.insert(node, count);
        }
        counts
    }
}

#[test]
fn a_change_of_one_cluster_changes_one_resource_of_the_hub() {
    let many: Vec<String> = (0..1000).map(|n| format!("c{n}")).collect();
    let before = fleet(&many[1..]);
    let (mut planner, mut snapshots) = (Planner::new(), Snapshots::default());
    snapshots.apply(planner.update(&before, &trust(&before), &Scope::everything()));
    assert_eq!(snapshots.0.len(), 1000);
    let after = fleet(&many);
    let scope = Scope { clusters: ["c0".parse().unwrap()].into(), ..Scope::default() };
    let counts = snapshots.apply(planner.update(&after, &trust(&after), &scope));
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert_eq!(counts[&NodeId::Hub], 1);
    assert_eq!(
        planner.update(&after, &trust(&after), &scope).len(),
        1,
        "nothing changes for the hub"
    );
}

#[test]
fn equal_resources_of_clusters_are_kept_once() {
    let fleet = fleet(&names(&["paris", "tokyo"]));
    let mut snapshots = Snapshots::default();
    snapshots.apply(Planner::new().update(&fleet, &trust(&fleet), &Scope::everything()));
    let alerts = |node: &str| {
        Arc::clone(
            snapshots.0[&node.parse().unwrap()].get(ResourceType::Listener, "alerts").unwrap(),
        )
    };
    assert!(Arc::ptr_eq(&alerts("paris"), &alerts("tokyo")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// After any changes the incremental plan is that of the whole fleet, and so are the stores.
    #[test]
    fn incremental_plans_equal_whole_plans(steps in prop::collection::vec((prop::collection::btree_set("[a-d]{1,2}", 0..5), any::<bool>(), any::<bool>(), 0..3u64, 0..3u32), 1..8)) {
        let (mut planner, mut snapshots, mut stores) = (Planner::new(), Snapshots::default(), crate::thanos::stores::Stores::new());
        let mut last: Option<(Fleet, Trust)> = None;
        for (list, hub, leafless, revision, alertmanagers) in steps {
            let mut now = fleet(&list.iter().cloned().collect::<Vec<_>>());
            let alertmanager = |n: u32| (n, crate::model::Alertmanager { name: n.to_string(), addresses: Vec::new() });
            now.alertmanagers = (0..alertmanagers).map(alertmanager).collect();
            let mut trust = trust(&now);
            if !hub {
                trust.leaves.remove(&NodeId::Hub);
            }
            if let Some(name) = now.clusters.keys().next() {
                trust.revisions.insert(name.clone(), revision + 1);
                if leafless {
                    trust.leaves.remove(&NodeId::Cluster(name.clone()));
                }
            }
            let scope = match &last {
                None => Scope::everything(),
                Some((before, trusted)) => {
                    let differs = |name: &&crate::name::ClusterName| {
                        let node = NodeId::Cluster((*name).clone());
                        before.clusters.get(*name) != now.clusters.get(*name)
                            || trusted.leaves.get(&node) != trust.leaves.get(&node)
                            || trusted.revision(name) != trust.revision(name)
                    };
                    let clusters = before.clusters.keys().chain(now.clusters.keys()).filter(differs).cloned().collect();
                    Scope {
                        all: false,
                        hub: trusted.leaves.get(&NodeId::Hub) != trust.leaves.get(&NodeId::Hub),
                        alertmanagers: before.alertmanagers != now.alertmanagers,
                        clusters,
                    }
                }
            };
            snapshots.apply(planner.update(&now, &trust, &scope));
            let clusters: Vec<_> = scope.clusters.iter().chain(now.clusters.keys().filter(|_| scope.all)).collect();
            stores.update(&now, clusters);
            let wanted = plan(&now, &trust);
            let nodes: BTreeMap<NodeId, Snapshot> = wanted.nodes.into_iter().map(|(node, snapshot)| (node, (*snapshot).clone())).collect();
            prop_assert_eq!(&snapshots.0, &nodes);
            let afresh = crate::thanos::stores::Stores::of(&now);
            prop_assert_eq!(stores.endpoints(), crate::thanos::endpoints::endpoints(&now));
            prop_assert_eq!(stores.zone_file(&now.settings, 7), afresh.zone_file(&now.settings, 7));
            prop_assert_eq!(stores.version(), afresh.version());
            last = Some((now, trust));
        }
    }
}
