use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;

use super::*;
use crate::xds::resource::Version;

fn resource(kind: ResourceType, name: u8, content: u8) -> Arc<Resource> {
    let body = Any { type_url: kind.url().into(), value: vec![content] };
    Resource::with_version(kind, format!("n{name}"), Version::of(&body.value), &body)
}

#[test]
fn the_log_has_a_limited_length() {
    let mut snapshot = Snapshot::default();
    let mut positions = vec![snapshot.position()];
    for content in 0..=MIN_LOG_LENGTH {
        let content = u8::try_from(content).unwrap();
        snapshot.apply(vec![Change::Set(resource(ResourceType::Cluster, 0, content))]);
        positions.push(snapshot.position());
    }
    assert!(snapshot.changes_since(&positions[0]).is_none());
    assert_eq!(snapshot.changes_since(&positions[1]).unwrap().count(), MIN_LOG_LENGTH);
    assert_eq!(snapshot.changes_since(&snapshot.position()).unwrap().count(), 0);
}

#[test]
fn a_position_belongs_to_one_log() {
    let one = Snapshot::default();
    for other in [Snapshot::default(), one.clone()] {
        assert!(other.changes_since(&one.position()).is_none());
    }
    assert!(one.changes_since(&LogPosition::default()).is_none());
}

#[test]
fn a_position_of_a_dropped_snapshot_is_not_a_later_ones() {
    let mut position = Snapshot::default().position();
    for _ in 0..100 {
        let snapshot = Snapshot::default();
        assert!(snapshot.changes_since(&position).is_none());
        position = snapshot.position();
    }
}

proptest! {
    #[test]
    fn many_changes_at_once_equal_one_after_the_other(
        before in prop::collection::vec((0..3usize, 0..40u8, 0..3u8), 0..60),
        changes in prop::collection::vec((0..3usize, 0..40u8, 0..4u8), 0..100),
    ) {
        let resource_of = |(kind, name, content): (usize, u8, u8)| {
            resource(ResourceType::ALL[kind], name, content)
        };
        let change_of = |parts: (usize, u8, u8)| {
            let resource = resource_of(parts);
            if parts.2 == 3 {
                Change::Remove(resource.kind, Arc::clone(&resource.name))
            } else {
                Change::Set(resource)
            }
        };
        let start: Snapshot = before.into_iter().map(resource_of).collect();
        let (mut one, mut many) = (start.clone(), start.clone());
        let start_position = one.position();
        for parts in &changes {
            one.apply(vec![change_of(*parts)]);
        }
        many.apply_many(changes.iter().map(|parts| change_of(*parts)).collect());
        prop_assert_eq!(&one, &many);
        prop_assert_eq!(one.changes, many.changes);
        // As far as the log reaches back, it has everything that changed.
        if let Some(changed) = one.changes_since(&start_position) {
            let changed: Vec<_> = changed.map(|(kind, name)| (kind, name.to_string())).collect();
            for resource in start.iter().chain(one.iter()) {
                let key = (resource.kind, resource.name.to_string());
                let same = start.get(key.0, &key.1) == one.get(key.0, &key.1);
                prop_assert!(same || changed.contains(&key));
            }
        }
        let mut replaced = start.clone();
        replaced.replace_all(one.iter().cloned().collect());
        prop_assert_eq!(&replaced, &one);
        prop_assert_eq!(replaced.replace_all(one.iter().cloned().collect()), 0);
    }
}
