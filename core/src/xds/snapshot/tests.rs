use super::*;
use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;
use proptest::prelude::*;

fn resource(kind: ResourceType, name: u8, content: u8) -> Arc<Resource> {
    let body = Any { type_url: kind.url().into(), value: vec![content] };
    Resource::with_version(kind, format!("n{name}"), Version::of(&body.value), &body)
}

#[test]
fn what_is_encoded_is_what_prost_would_encode() {
    let body = Any { type_url: ResourceType::Route.url().into(), value: vec![7; 300] };
    let resource =
        Resource::with_version(ResourceType::Route, "web", Version::of(&body.value), &body);
    let wire = Wire {
        name: "web".into(),
        version: resource.version.to_string(),
        resource: Some(body.clone()),
        ..Wire::default()
    };
    assert_eq!(Wire::decode(resource.wire()).unwrap(), wire);
    assert_eq!(resource.body(), body);
    assert_eq!(resource.version.to_string().parse(), Ok(resource.version));
    assert_eq!("+0000000000000000000000000000001".parse::<Version>(), Err(NotAVersion));
}

#[test]
fn what_was_too_long_ago_is_not_remembered() {
    let mut snapshot = Snapshot::default();
    let mut moments = vec![snapshot.now()];
    for content in 0..=REMEMBERED {
        snapshot.apply(vec![Change::Set(resource(
            ResourceType::Cluster,
            0,
            u8::try_from(content).unwrap(),
        ))]);
        moments.push(snapshot.now());
    }
    assert!(snapshot.since(moments[0]).is_none());
    assert_eq!(snapshot.since(moments[1]).unwrap().count(), REMEMBERED);
    assert_eq!(snapshot.since(snapshot.now()).unwrap().count(), 0);
}

#[test]
fn moments_of_two_snapshots_are_not_confused() {
    let one = Snapshot::default();
    for other in [Snapshot::default(), one.clone()] {
        assert!(other.since(one.now()).is_none());
    }
    assert!(one.since(Moment::default()).is_none());
}

proptest! {
    #[test]
    fn many_changes_are_as_one_after_the_other(
        before in prop::collection::vec((0..3usize, 0..40u8, 0..3u8), 0..60),
        changes in prop::collection::vec((0..3usize, 0..40u8, 0..4u8), 0..100),
    ) {
        let of = |(kind, name, content): (usize, u8, u8)| resource(ResourceType::ALL[kind], name, content);
        let change = |it: (usize, u8, u8)| {
            let resource = of(it);
            if it.2 == 3 { Change::Remove(resource.kind, Arc::clone(&resource.name)) } else { Change::Set(resource) }
        };
        let start: Snapshot = before.into_iter().map(of).collect();
        let (mut one, mut many) = (start.clone(), start.clone());
        let began = one.now();
        for it in &changes {
            one.apply(vec![change(*it)]);
        }
        many.apply_many(changes.iter().map(|it| change(*it)).collect());
        prop_assert_eq!(&one, &many);
        prop_assert_eq!(one.now().changes, many.now().changes);
        // What changed is in the log, if it reaches back so far.
        if let Some(changed) = one.since(began) {
            let changed: Vec<_> = changed.map(|(kind, name)| (kind, name.to_string())).collect();
            for resource in start.iter().chain(one.iter()) {
                let same = start.get(resource.kind, &resource.name) == one.get(resource.kind, &resource.name);
                prop_assert!(same || changed.contains(&(resource.kind, resource.name.to_string())));
            }
        }
        let (mut became, wanted) = (start.clone(), one.iter().cloned().collect());
        became.become_these(wanted);
        prop_assert_eq!(&became, &one);
        let again = one.iter().cloned().collect();
        prop_assert_eq!(became.become_these(again), 0);
    }
}
