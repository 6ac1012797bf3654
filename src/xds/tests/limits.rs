//! When streams and connections end, and which requests are refused.

use tonic::Code;

use super::protocol::SotwStream;
use super::*;
use crate::state::PublishedState;

fn world_with(limits: LimitOptions) -> World {
    world(Options { limits, ..Options::default() })
}

#[tokio::test]
async fn a_stream_ends_at_its_age_and_when_atlas_stops() {
    let world = world(Options { max_stream_age: Duration::from_millis(300), ..Options::default() });
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    let end = tokyo.end().await;
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("age"), "{end}");
    assert_eq!(world.metric("atlas_xds_streams_ended_total{reason=\"age\"}"), 1);

    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let (mut tokyo, mut waiting) = (world.delta("tokyo").await, world.delta("paris").await);
    world.server.drain.cancel();
    for stream in [&mut tokyo, &mut waiting] {
        let end = stream.end().await;
        assert!(end.code() == Code::Unavailable && end.message().contains("stopping"), "{end}");
    }
    until("its connections end", || world.server.streams.connections() == 0).await;
}

#[tokio::test]
async fn a_stream_and_its_connection_end_with_the_certificate() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let client = AuthenticatedClient { not_after: clock::now() + 2, ..client("tokyo") };
    let mut tokyo = Delta::open(channel(world.connect(client).await).await).await.unwrap();
    tokyo.subscribe(CDS, &["*"]).await;
    assert_eq!(tokyo.receive().await.len(), 1);
    let end = tokyo.end().await;
    assert!(end.code() == Code::Unavailable && end.message().contains("certificate"), "{end}");
    until("its connection ends", || world.server.streams.connections() == 0).await;
}

#[tokio::test]
async fn only_connections_without_a_stream_are_closed_as_idle() {
    let world = world_with(LimitOptions {
        idle_timeout: Duration::from_millis(300),
        ..LimitOptions::default()
    });
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let idle = world.channel("tokyo").await;
    let mut tokyo = world.delta("tokyo").await;
    until("the idle one is closed", || world.server.streams.connections() == 1).await;
    assert_eq!(world.metric("atlas_connections_ended_total{reason=\"idle\"}"), 1);
    tokio::time::sleep(Duration::from_millis(700)).await;
    tokyo.subscribe(CDS, &["*"]).await;
    assert_eq!(tokyo.receive().await, pairs(&[("a", "1")]));
    drop(tokyo);
    until("the other one is closed after its stream", || world.server.streams.connections() == 0)
        .await;
    drop(idle);
}

#[tokio::test]
async fn revocation_ends_streams_and_connections_without_streams() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    world.set_resources("paris", &[(CDS, "p", "1")]);
    let (_idle, mut tokyo, mut paris) =
        (world.channel("tokyo").await, world.delta("tokyo").await, world.delta("paris").await);
    world.server.client_authorizer.replace_allowed(allowed(&["paris"]));
    world.server.streams.close_node(&"tokyo".parse().unwrap());
    let end = tokyo.end().await;
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
    until("both connections end", || world.server.streams.connections() == 1).await;
    paris.subscribe(CDS, &["*"]).await;
    assert_eq!(paris.receive().await, pairs(&[("p", "1")]));
}

#[tokio::test]
async fn a_connection_with_a_revoked_credential_opens_no_stream() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let channel = world.channel("tokyo").await;
    world.server.client_authorizer.replace_allowed(allowed(&["paris"]));
    let refused = Delta::open(channel).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(world.metric("atlas_xds_streams_refused_total{reason=\"credential\"}"), 1);
    until("the connection is closed", || world.server.streams.connections() == 0).await;
}

#[tokio::test]
async fn a_full_node_replaces_its_longest_silent_connection() {
    let world =
        world_with(LimitOptions { connections_per_node: Some(3), ..LimitOptions::default() });
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    world.set_resources("paris", &[(CDS, "p", "1")]);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut tokyo = world.delta("tokyo").await;
        tokyo.subscribe(CDS, &["*"]).await;
        assert_eq!(tokyo.receive().await, pairs(&[("a", "1")]));
        open.push(tokyo);
        // When a client last sent anything is known to the millisecond.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut paris = world.delta("paris").await;
    paris.subscribe(CDS, &["*"]).await;
    assert_eq!(paris.receive().await, pairs(&[("p", "1")]));
    // The oldest client sends something, so the second one has now been silent for longest.
    open[0].subscribe(SDS, &["nothing"]).await;
    assert_eq!(open[0].receive().await, []);
    let mut again = world.delta("tokyo").await;
    again.subscribe(CDS, &["*"]).await;
    assert_eq!(again.receive().await, pairs(&[("a", "1")]), "a new connection is accepted");
    assert!(open[1].responses.message().await.is_err(), "the longest silent one is closed");
    until("its stream ends", || {
        world.metric("atlas_xds_streams_ended_total{reason=\"replaced\"}") == 1
    })
    .await;
    assert_eq!(world.metric("atlas_connections_dropped_total{limit=\"connections_per_node\"}"), 1);
    // The others are still served, and so is another node.
    world.set_resources("tokyo", &[(CDS, "a", "2")]);
    for stream in [0, 2] {
        assert_eq!(open[stream].receive().await, pairs(&[("a", "2")]));
    }
    world.set_resources("paris", &[(CDS, "p", "2")]);
    assert_eq!(paris.receive().await, pairs(&[("p", "2")]));
}

#[tokio::test]
async fn the_number_of_envoys_limits_connections_at_once() {
    let world = World::new();
    let connections = |node: &str| world.server.connection_limits(&node.parse().unwrap()).per_node;
    assert_eq!((connections("tokyo"), connections("hub")), (16, 64));
    let publish = |envoys: u32| {
        let annotations = format!("annotations: {{goatlas.io/envoy-replicas: \"{envoys}\"}}");
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: tokyo, labels: {{goatlas.io/cluster: \"true\"}}, {annotations}}}\nspec: {{externalIPs: [10.0.0.1]}}\n"
        );
        let manifests = atlas_core::yaml::parse("tokyo.yaml", &text).unwrap();
        let fleet = atlas_core::validate::validate(
            &atlas_core::model::Settings::default(),
            &manifests,
            None,
        )
        .fleet;
        world
            .server
            .state_store
            .change(|state_store| *state_store = Some(PublishedState::new(fleet)));
    };
    publish(20);
    assert_eq!(connections("tokyo"), 80);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(world.channel("tokyo").await);
    }
    assert_eq!(world.server.streams.connections(), 20);
    publish(1);
    open.push(world.channel("tokyo").await);
    assert_eq!(world.server.streams.connections(), 16, "surplus connections are closed");
}

/// However its streams use memory, a node doesn't exceed its budget, and all memory is free
/// afterwards.
#[tokio::test]
async fn the_streams_of_a_node_keep_to_its_memory_budget() {
    let world = World::new();
    for node in ["tokyo", "paris"] {
        world.set_resources(node, &[(CDS, "a", "1")]);
    }
    let (mut paris, mut greedy) = (world.delta("paris").await, Vec::new());
    paris.subscribe(CDS, &["*"]).await;
    assert_eq!(paris.receive().await.len(), 1);
    let names: Vec<String> = (0..4090).map(|n| format!("{n}-of-nothing")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for n in 0..12 {
        let tokyo = world.delta("tokyo").await;
        for kind in ResourceType::ALL {
            let _ = tokyo.requests.send(subscription(kind, &names)).await;
        }
        greedy.push(tokyo);
        assert!(world.reserved_bytes() < 4 << 20, "{} bytes after {n}", world.reserved_bytes());
    }
    let ended = || world.metric("atlas_xds_streams_ended_total{reason=\"memory\"}");
    until("some are ended", || ended() >= 8).await;
    assert!(world.reserved_bytes() < 4 << 20, "{} bytes", world.reserved_bytes());
    // An Envoy of the same node that needs little is served, and so are other nodes.
    let mut tokyo = world.delta("tokyo").await;
    tokyo.subscribe(CDS, &["*"]).await;
    assert_eq!(tokyo.receive().await, pairs(&[("a", "1")]));
    world.set_resources("paris", &[(CDS, "a", "2")]);
    assert_eq!(paris.receive().await, pairs(&[("a", "2")]));
    drop(greedy);
    until("all memory is given back", || world.reserved_bytes() < 10_000).await;
}

fn subscription(kind: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_subscribe = names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        type_url: kind.url().into(),
        resource_names_subscribe,
        ..Default::default()
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_ends_its_stream() {
    let world = world_with(LimitOptions { request_bytes: 400_000, ..LimitOptions::default() });
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    world.set_resources("hub", &[(CDS, "a", "1")]);
    let long = |bytes: usize| DeltaDiscoveryRequest {
        type_url: CDS.url().into(),
        resource_names_unsubscribe: vec!["n".repeat(1000); bytes / 1000],
        ..Default::default()
    };
    let mut tokyo = world.delta("tokyo").await;
    tokyo.send(long(200_000)).await;
    let end = tokyo.end().await;
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert!(
        end.message().contains("--max-request-bytes") && end.message().contains("100000"),
        "{end}"
    );
    assert_eq!(world.metric("atlas_xds_streams_ended_total{reason=\"request_bytes\"}"), 1);
    let mut hub = world.delta("hub").await;
    hub.send(long(200_000)).await;
    assert_eq!(hub.receive().await, pairs(&[("a", "1")]), "the hub's limit is higher");
}

/// An Envoy of the hub that reconnects lists all its resources: those of 10,000 clusters with four
/// stores each, and one resource for each cluster that it subscribes to by name.
#[tokio::test]
async fn a_hub_of_ten_thousand_clusters_reconnects() {
    const CLUSTERS: usize = 10_000;
    const EDS: ResourceType = ResourceType::Endpoints;
    let world = World::new();
    let name = |n: usize| format!("some-cluster-with-a-long-name-as-it-may-be-{n:05}");
    let stores = (0..CLUSTERS * 4).map(|n| {
        resource(CDS, &format!("store/{}-thanos-sidecar{}", name(n / 4), n % 4), b"store")
    });
    let webs = (0..CLUSTERS).map(|n| resource(CDS, &format!("web/{}", name(n)), b"web"));
    let clusters: Vec<_> = stores.chain(webs).collect();
    let endpoints: Vec<_> = (0..CLUSTERS)
        .map(|n| resource(EDS, &format!("cluster/{}", name(n)), b"endpoints"))
        .collect();
    let has = |resources: &[Arc<Resource>]| {
        resources.iter().map(|r| (r.name.to_string(), r.version.to_string())).collect()
    };
    let (has_clusters, has_endpoints) = (has(&clusters), has(&endpoints));
    let names: Vec<String> = endpoints.iter().map(|resource| resource.name.to_string()).collect();
    world.server.nodes.apply(vec![(
        "hub".parse().unwrap(),
        NodeChange::Replace(clusters.into_iter().chain(endpoints).collect()),
    )]);

    let request = DeltaDiscoveryRequest {
        type_url: CDS.url().into(),
        resource_names_subscribe: vec!["*".into()],
        initial_resource_versions: has_clusters,
        ..Default::default()
    };
    let size = prost::Message::encoded_len(&request);
    println!("a request of {size} bytes");
    assert!(size > 5_000_000, "{size}");
    let mut hub = world.delta("hub").await;
    hub.send(request).await;
    assert_eq!(hub.receive().await, [], "answered without resources");
    let request = DeltaDiscoveryRequest {
        type_url: EDS.url().into(),
        resource_names_subscribe: names.clone(),
        initial_resource_versions: has_endpoints,
        ..Default::default()
    };
    hub.send(request).await;
    assert_eq!(hub.receive().await, []);

    // In the state-of-the-world variant everything is sent again, and each ACK repeats the names.
    let mut full = SotwStream::ads(&world, "hub").await;
    full.send(CDS, &[], None).await;
    let response = full.receive().await;
    assert_eq!(response.resources.len(), CLUSTERS * 5);
    full.send(CDS, &[], Some(&response)).await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    full.send(EDS, &names, None).await;
    let mut received = 0;
    while received < CLUSTERS {
        let response = full.receive().await;
        received += response.resources.len();
        full.send(EDS, &names, Some(&response)).await;
    }
    assert_eq!(received, CLUSTERS);
    assert_eq!(world.server.streams.open().len(), 2, "both streams stay open");
}

/// Resources of clusters that have been removed since are listed too, and then removed.
#[tokio::test]
async fn a_hub_that_has_shrunk_reconnects() {
    let world = World::new();
    world.set_resources("hub", &[(CDS, "a", "1")]);
    let old = (0..50_000).map(|n| {
        (format!("store/some-cluster-with-a-long-name-{n}-thanos-sidecar0"), "0".repeat(32))
    });
    let request = DeltaDiscoveryRequest {
        type_url: CDS.url().into(),
        resource_names_subscribe: vec!["*".into()],
        initial_resource_versions: old.collect(),
        ..Default::default()
    };
    let mut hub = world.delta("hub").await;
    hub.send(request).await;
    assert_eq!(hub.receive().await, pairs(&[("a", "1")]));
    let mut removed = 0;
    while removed < 50_000 {
        let response = hub.next().await.unwrap().expect("a response");
        hub.ack(&response).await;
        removed += response.removed_resources.len();
    }
    until("nothing of it is kept", || world.reserved_bytes() < 10_000).await;
}

#[tokio::test]
async fn too_many_subscriptions_end_a_clusters_stream() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    let names: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
    tokyo.subscribe(SDS, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(tokyo.end().await.code(), Code::ResourceExhausted);
    assert_eq!(world.metric("atlas_xds_streams_ended_total{reason=\"names\"}"), 1);
}
