use super::*;
use crate::fact::{Fact, Service};
use crate::intake::intake;
use crate::keys;
use crate::model::Settings;
use crate::name::{HostPort, Identity};
use crate::pki::{Leaf, PrivateKey};
use crate::xds::snapshot::ResourceType;
use proptest::prelude::*;

fn fleet(names: &[String]) -> Fleet {
    let service = |name: &String| {
        let mut service = Service::default();
        service.meta.name = name.clone();
        service.meta.labels.insert(keys::CLUSTER.into(), "true".into());
        service.meta.labels.insert(keys::REPLICAS.into(), "2".into());
        service.external_ips = vec![format!("10.0.0.{}", name.len())];
        Fact::Service(service)
    };
    let settings = Settings { hub_alerts: vec![HostPort::parse("hub.example:10903", 1).unwrap()], ..Settings::default() };
    intake(&settings, &names.iter().map(service).collect::<Vec<_>>(), None).fleet
}

fn trust(fleet: &Fleet) -> Trust {
    let leaf = |node: NodeId| (node.clone(), Leaf { chain: format!("chain of {node}"), key: PrivateKey::new(format!("key of {node}")) });
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
fn adding_a_cluster_touches_nothing_but_that_cluster() {
    let (before, after) = (fleet(&names(&["tokyo"])), fleet(&names(&["paris", "tokyo"])));
    let (before, after) = (plan(&before, &trust(&before)), plan(&after, &trust(&after)));
    assert_eq!(before.nodes[&"tokyo".parse().unwrap()], after.nodes[&"tokyo".parse().unwrap()]);
    let (old, new) = (&before.nodes[&NodeId::Hub], &after.nodes[&NodeId::Hub]);
    let changed: Vec<&str> = new.iter().filter(|r| old.get(r.kind, &r.name) != Some(r)).map(|r| r.name.as_str()).collect();
    assert_eq!(changed, ["store/paris-thanos-sidecar0", "store/paris-thanos-sidecar1", "web/paris"]);
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
fn keys_stay_with_their_node() {
    let fleet = fleet(&names(&["paris", "tokyo"]));
    let plan = plan(&fleet, &trust(&fleet));
    for (node, snapshot) in &plan.nodes {
        for resource in snapshot.iter() {
            let text = String::from_utf8_lossy(&resource.body.value);
            for other in plan.nodes.keys().filter(|other| *other != node) {
                assert!(!text.contains(&format!("key of {other}")), "{node} has the key of {other}");
            }
        }
    }
}

#[test]
fn the_hub_expects_each_cluster_s_own_revision() {
    let fleet = fleet(&names(&["tokyo"]));
    let mut trust = trust(&fleet);
    trust.revisions.insert("tokyo".parse().unwrap(), 4);
    let plan = plan(&fleet, &trust);
    let cluster = plan.nodes[&NodeId::Hub].get(ResourceType::Cluster, "web/tokyo").unwrap();
    let id = Identity::Cluster("tokyo".parse().unwrap(), 4).spiffe_id(&trust.domain);
    assert!(String::from_utf8_lossy(&cluster.body.value).contains(&id));
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
