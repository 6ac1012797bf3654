//! When streams and connections end, and what is refused.

use tonic::Code;

use super::*;

fn with(limits: LimitOptions) -> World {
    world(Options { limits, ..Options::default() })
}

#[tokio::test]
async fn a_stream_ends_at_its_age_and_when_atlas_stops() {
    let world = world(Options { max_age: Duration::from_millis(300), ..Options::default() });
    world.has("tokyo", &[(CDS, "a", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    let end = tokyo.ends().await;
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("age"), "{end}");
    assert_eq!(world.metric("atlas_xds_streams_ended_total{reason=\"age\"}"), 1);

    let world = World::new();
    world.has("tokyo", &[(CDS, "a", "1")]);
    let (mut tokyo, mut waiting) = (world.delta("tokyo").await, world.delta("paris").await);
    world.xds.drain.cancel();
    for stream in [&mut tokyo, &mut waiting] {
        let end = stream.ends().await;
        assert!(end.code() == Code::Unavailable && end.message().contains("stopping"), "{end}");
    }
    until("its connections end", || world.xds.streams.connections() == 0).await;
}

#[tokio::test]
async fn a_stream_and_its_connection_end_with_the_certificate() {
    let world = World::new();
    world.has("tokyo", &[(CDS, "a", "1")]);
    let peer = Peer { not_after: clock::now() + 2, ..peer("tokyo") };
    let mut tokyo = Delta::open(channel(world.accepts(peer).unwrap()).await).await.unwrap();
    tokyo.subscribe(CDS, &["*"]).await;
    assert_eq!(tokyo.hears().await.len(), 1);
    let end = tokyo.ends().await;
    assert!(end.code() == Code::Unavailable && end.message().contains("certificate"), "{end}");
    until("its connection ends", || world.xds.streams.connections() == 0).await;
}

#[tokio::test]
async fn a_connection_without_a_stream_is_cut_and_one_with_a_stream_is_not() {
    let world = with(LimitOptions { idle: Duration::from_millis(300), ..LimitOptions::default() });
    world.has("tokyo", &[(CDS, "a", "1")]);
    let idle = world.channel("tokyo").await;
    let mut tokyo = world.delta("tokyo").await;
    until("the idle one is cut", || world.xds.streams.connections() == 1).await;
    assert_eq!(world.metric("atlas_connections_ended_total{reason=\"idle\"}"), 1);
    tokio::time::sleep(Duration::from_millis(700)).await;
    tokyo.subscribe(CDS, &["*"]).await;
    assert_eq!(tokyo.hears().await, pairs(&[("a", "1")]));
    drop(tokyo);
    until("the other one, when its stream is gone", || world.xds.streams.connections() == 0).await;
    drop(idle);
}

#[tokio::test]
async fn revocation_ends_streams_and_connections_without_streams() {
    let world = World::new();
    world.has("tokyo", &[(CDS, "a", "1")]);
    world.has("paris", &[(CDS, "p", "1")]);
    let (_idle, mut tokyo, mut paris) = (world.channel("tokyo").await, world.delta("tokyo").await, world.delta("paris").await);
    world.xds.gate.count_only(counting(&["paris"]));
    world.xds.streams.end(&"tokyo".parse().unwrap());
    let end = tokyo.ends().await;
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
    until("both connections end", || world.xds.streams.connections() == 1).await;
    paris.subscribe(CDS, &["*"]).await;
    assert_eq!(paris.hears().await, pairs(&[("p", "1")]));
}

#[tokio::test]
async fn a_connection_whose_credential_counts_no_more_opens_no_stream() {
    let world = World::new();
    world.has("tokyo", &[(CDS, "a", "1")]);
    let channel = world.channel("tokyo").await;
    world.xds.gate.count_only(counting(&["paris"]));
    let refused = Delta::open(channel).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(world.metric("atlas_xds_streams_refused_total{reason=\"credential\"}"), 1);
    until("and goes", || world.xds.streams.connections() == 0).await;
}

#[tokio::test]
async fn one_node_has_so_many_connections_and_streams() {
    let world = with(LimitOptions { connections_per_node: 2, ..LimitOptions::default() });
    world.has("tokyo", &[(CDS, "a", "1")]);
    world.has("paris", &[(CDS, "p", "1")]);
    let (first, second) = (world.channel("tokyo").await, world.channel("tokyo").await);
    assert!(world.accepts(peer("tokyo")).is_none());
    let mut open = Vec::new();
    for channel in [&first, &first, &second, &second] {
        open.push(Delta::open(channel.clone()).await.unwrap());
    }
    let refused = Delta::open(first.clone()).await.err().expect("refused");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(world.metric("atlas_xds_streams_refused_total{reason=\"streams_per_node\"}"), 1);
    // Others have their own.
    let mut paris = world.delta("paris").await;
    paris.subscribe(CDS, &["*"]).await;
    assert_eq!(paris.hears().await, pairs(&[("p", "1")]));
    // And who leaves makes room.
    drop(open);
    until("they leave", || world.xds.streams.open().len() == 1).await;
    assert!(Delta::open(second).await.is_ok());
}

#[tokio::test]
async fn a_request_that_is_too_large_ends_its_stream() {
    let world = with(LimitOptions { request_bytes: 400_000, ..LimitOptions::default() });
    world.has("tokyo", &[(CDS, "a", "1")]);
    world.has("hub", &[(CDS, "a", "1")]);
    let long = |bytes: usize| DeltaDiscoveryRequest {
        type_url: CDS.url().into(),
        resource_names_unsubscribe: vec!["n".repeat(1000); bytes / 1000],
        ..Default::default()
    };
    let mut tokyo = world.delta("tokyo").await;
    tokyo.say(long(200_000)).await;
    let end = tokyo.ends().await;
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert!(end.message().contains("--max-request-bytes") && end.message().contains("100000"), "{end}");
    assert_eq!(world.metric("atlas_xds_streams_ended_total{reason=\"request_bytes\"}"), 1);
    let mut hub = world.delta("hub").await;
    hub.say(long(200_000)).await;
    assert_eq!(hub.hears().await, pairs(&[("a", "1")]), "the hub's Envoy has more to say");
}

/// An Envoy of the hub that comes back lists all that it has.
#[tokio::test]
async fn fifteen_thousand_resources_fit_into_one_request() {
    let world = World::new();
    let names: Vec<String> = (0..15_000).map(|n| format!("store/some-cluster-with-a-long-name-{n}-thanos-sidecar0")).collect();
    let resources: Vec<_> = names.iter().map(|name| resource(CDS, name, name.as_bytes())).collect();
    let initial_resource_versions = resources.iter().map(|r| (r.name.to_string(), r.version.to_string())).collect();
    world.xds.nodes.apply(vec![("hub".parse().unwrap(), NodeChange::All(resources))]);
    let request = DeltaDiscoveryRequest {
        type_url: CDS.url().into(),
        resource_names_subscribe: vec!["*".into()],
        initial_resource_versions,
        ..Default::default()
    };
    let size = prost::Message::encoded_len(&request);
    println!("a request of {size} bytes");
    assert!(size > 1_400_000, "{size}");
    let mut hub = world.delta("hub").await;
    hub.say(request).await;
    assert_eq!(hub.hears().await, [], "greeted, and sent nothing");
}

#[tokio::test]
async fn more_names_than_a_cluster_can_need_end_its_stream() {
    let world = World::new();
    world.has("tokyo", &[(CDS, "a", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    let names: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    tokyo.subscribe(SDS, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(tokyo.ends().await.code(), Code::ResourceExhausted);
    assert_eq!(world.metric("atlas_xds_streams_ended_total{reason=\"names\"}"), 1);
}
