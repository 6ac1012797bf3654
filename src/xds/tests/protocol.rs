//! The main cases of the protocol, as a client sees them.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::rpc;
use tonic::Code;

use super::*;

/// A state-of-the-world stream.
pub struct SotwStream {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl SotwStream {
    pub async fn ads(world: &World, node: &str) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel(node).await)
            .max_decoding_message_size(64 << 20);
        let responses = client
            .stream_aggregated_resources(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, responses }
    }

    pub async fn send(
        &self,
        kind: ResourceType,
        names: &[&str],
        answered: Option<&DiscoveryResponse>,
    ) {
        let (version_info, response_nonce) = answered
            .map(|response| (response.version_info.clone(), response.nonce.clone()))
            .unwrap_or_default();
        let resource_names = names.iter().map(ToString::to_string).collect();
        let request = DiscoveryRequest {
            type_url: kind.url().into(),
            resource_names,
            version_info,
            response_nonce,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub async fn receive(&mut self) -> DiscoveryResponse {
        tokio::time::timeout(SOON, self.responses.message())
            .await
            .expect("a response")
            .unwrap()
            .expect("a response")
    }

    async fn receive_nothing(&mut self) {
        let received = tokio::time::timeout(A_WHILE, self.responses.message()).await;
        assert!(received.is_err(), "{received:?}");
    }
}

fn values(response: &DiscoveryResponse) -> Vec<String> {
    response.resources.iter().map(|any| String::from_utf8(any.value.clone()).unwrap()).collect()
}

#[tokio::test]
async fn a_change_to_one_node_is_sent_to_that_node_alone() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1"), (CDS, "b", "1")]);
    world.set_resources("paris", &[(CDS, "p", "1")]);
    let (mut tokyo, mut paris) = (world.delta("tokyo").await, world.delta("paris").await);
    tokyo.subscribe(CDS, &["*"]).await;
    paris.subscribe(CDS, &["*"]).await;
    assert_eq!(tokyo.receive().await, pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!(paris.receive().await, pairs(&[("p", "1")]));
    world.set_resources("tokyo", &[(CDS, "a", "2"), (CDS, "b", "1")]);
    assert_eq!(tokyo.receive().await, pairs(&[("a", "2")]));
    paris.receive_nothing().await;
    world.set_resources("tokyo", &[(CDS, "a", "2")]);
    let gone = tokyo.next().await.unwrap().unwrap();
    assert_eq!(
        (gone.removed_resources.as_slice(), gone.resources.len()),
        (["b".to_owned()].as_slice(), 0)
    );
    assert_eq!(world.metric("atlas_xds_resources_sent_total{type=\"CDS\"}"), 4);
}

#[tokio::test]
async fn an_ack_with_another_nonce_is_ignored() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    tokyo.subscribe(CDS, &["*"]).await;
    let first = tokyo.next().await.unwrap().unwrap();
    tokyo.ack(&DeltaDiscoveryResponse { nonce: "77".into(), ..first.clone() }).await;
    world.set_resources("tokyo", &[(CDS, "a", "2")]);
    tokyo.receive_nothing().await;
    tokyo.ack(&first).await;
    assert_eq!(tokyo.receive().await, pairs(&[("a", "2")]));
}

#[tokio::test]
async fn a_nack_is_counted_and_quarantines_only_the_bad_resource() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "good", "1"), (CDS, "bad", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    tokyo.subscribe(CDS, &["*"]).await;
    let first = tokyo.next().await.unwrap().unwrap();
    let error_detail = Some(rpc::Status {
        message: "Error adding/updating cluster(s) bad: no such thing".into(),
        ..Default::default()
    });
    let (type_url, response_nonce) = (first.type_url, first.nonce);
    tokyo
        .send(DeltaDiscoveryRequest {
            type_url,
            response_nonce,
            error_detail,
            ..Default::default()
        })
        .await;
    assert_eq!(tokyo.receive().await, pairs(&[("good", "1")]));
    tokyo.receive_nothing().await;
    assert_eq!(world.metric("atlas_xds_nacks_total{type=\"CDS\"}"), 1);
    let node = "tokyo".parse().unwrap();
    let held = world.server.nodes.quarantined(&node);
    assert!(
        matches!(held.as_slice(), [one] if one.name == "bad" && one.message.contains("no such thing")),
        "{held:?}"
    );
    // The next version of the refused resource is sent at once.
    world.set_resources("tokyo", &[(CDS, "good", "1"), (CDS, "bad", "2")]);
    assert_eq!(tokyo.receive().await, pairs(&[("bad", "2")]));
    assert_eq!(world.server.nodes.quarantined(&node), []);
}

#[tokio::test]
async fn a_state_of_the_world_response_has_all_resources() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "a1"), (CDS, "b", "b1"), (SDS, "s", "s1")]);
    let mut tokyo = SotwStream::ads(&world, "tokyo").await;
    tokyo.send(CDS, &[], None).await;
    let first = tokyo.receive().await;
    assert_eq!(values(&first), ["a1", "b1"]);
    tokyo.send(CDS, &[], Some(&first)).await;
    tokyo.receive_nothing().await;
    world.set_resources("tokyo", &[(CDS, "a", "a1"), (CDS, "b", "b2"), (SDS, "s", "s1")]);
    let second = tokyo.receive().await;
    assert_eq!(values(&second), ["a1", "b2"], "all of it");
    assert_ne!((&first.version_info, &first.nonce), (&second.version_info, &second.nonce));
    tokyo.send(CDS, &[], Some(&first)).await;
    tokyo.receive_nothing().await;
    tokyo.send(CDS, &[], Some(&second)).await;
    tokyo.send(SDS, &["s"], None).await;
    assert_eq!(values(&tokyo.receive().await), ["s1"]);
}

#[tokio::test]
async fn secrets_have_their_own_service_in_both_variants() {
    let world = World::new();
    world.set_resources("tokyo", &[(SDS, "leaf", "key"), (CDS, "a", "1")]);
    let mut client = SecretDiscoveryServiceClient::new(world.channel("tokyo").await);
    let names = || vec!["leaf".to_owned()];

    let (requests, receiver) = mpsc::channel(16);
    let responses = client.delta_secrets(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut delta = Delta { requests, responses };
    // On a type's own service the type URL may be empty.
    delta
        .send(DeltaDiscoveryRequest { resource_names_subscribe: names(), ..Default::default() })
        .await;
    assert_eq!(delta.receive().await, pairs(&[("leaf", "key")]));
    delta.subscribe(CDS, &["a"]).await;
    let other = delta.next().await.unwrap().unwrap();
    assert_eq!(
        (other.resources.len(), other.removed_resources),
        (0, vec!["a".to_owned()]),
        "clusters aren't served here"
    );

    let (requests, receiver) = mpsc::channel(16);
    let responses =
        client.stream_secrets(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut full = SotwStream { requests, responses };
    full.requests
        .send(DiscoveryRequest { resource_names: names(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(values(&full.receive().await), ["key"]);

    let fetched = client.fetch_secrets(DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(fetched.code(), Code::Unimplemented);
    assert!(fetched.message().contains("api_type"), "{fetched}");
}

#[tokio::test]
async fn other_types_have_their_own_services_too() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut client = ClusterDiscoveryServiceClient::new(world.channel("tokyo").await);
    let (requests, receiver) = mpsc::channel(16);
    let responses =
        client.delta_clusters(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut delta = Delta { requests, responses };
    delta.subscribe(CDS, &["*"]).await;
    assert_eq!(delta.receive().await, pairs(&[("a", "1")]));
}

#[tokio::test]
async fn a_stream_waits_for_its_manifest_and_ends_with_it() {
    let world = World::new();
    world.set_resources("hub", &[(CDS, "a", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    tokyo.subscribe(CDS, &["*"]).await;
    tokyo.receive_nothing().await;
    world.set_resources("tokyo", &[(CDS, "t", "1")]);
    assert_eq!(tokyo.receive().await, pairs(&[("t", "1")]));
    world.server.nodes.apply(vec![("tokyo".parse().unwrap(), NodeChange::Remove)]);
    let end = tokyo.end().await;
    assert_eq!((end.code(), end.message()), (Code::NotFound, "the manifest of tokyo is gone"));
    assert_eq!(world.metric("atlas_xds_streams_ended_total{reason=\"removed\"}"), 1);
}

#[tokio::test]
async fn text_of_an_envoy_is_escaped_where_it_is_shown() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "t", "1")]);
    let mut tokyo = world.delta("tokyo").await;
    let hostile = "x\u{202e}\u{2066}\u{200b}\u{2028}\u{e0041}\u{1b}[2J\u{9b}\nSYNCED";
    let user_agent_version_type = Some(UserAgentVersionType::UserAgentVersion(hostile.into()));
    let node = Some(Node {
        id: hostile.repeat(100),
        cluster: hostile.into(),
        user_agent_version_type,
        ..Default::default()
    });
    tokyo
        .send(DeltaDiscoveryRequest { type_url: CDS.url().into(), node, ..Default::default() })
        .await;
    let first = tokyo.next().await.unwrap().unwrap();
    let error_detail = Some(rpc::Status { message: hostile.into(), ..Default::default() });
    let (type_url, response_nonce) = (first.type_url, first.nonce);
    tokyo
        .send(DeltaDiscoveryRequest {
            type_url,
            response_nonce,
            error_detail,
            ..Default::default()
        })
        .await;
    until("the response is refused", || {
        !world.server.nodes.quarantined(&"tokyo".parse().unwrap()).is_empty()
    })
    .await;
    let published = crate::state::PublishedState::new(fleet());
    let status =
        crate::web::status::status(Some(&published), &world.server.nodes, &world.server.streams, 0);
    let node = status.nodes.iter().find(|node| node.node == "tokyo").unwrap();
    let instance = &node.instances[0];
    let texts = [
        &instance.id,
        &instance.version,
        &instance.types["CDS"].message,
        &node.quarantined[0].message,
    ];
    for text in texts {
        assert!(
            atlas_core::text::is_plain(text)
                && text.starts_with("x\\u{202e}\\u{2066}\\u{200b}\\u{2028}"),
            "{text:?}"
        );
    }
    assert!(instance.id.chars().count() <= 256);
}

fn fleet() -> atlas_core::model::Fleet {
    atlas_core::model::Fleet {
        settings: Default::default(),
        clusters: Default::default(),
        alertmanagers: Default::default(),
    }
}

#[tokio::test]
async fn an_envoys_own_node_id_is_shown_and_never_used() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "t", "1")]);
    world.set_resources("paris", &[(CDS, "p", "1")]);
    let mut paris = world.delta("paris").await;
    let node = Some(Node { id: "tokyo".into(), ..Default::default() });
    paris
        .send(DeltaDiscoveryRequest { type_url: CDS.url().into(), node, ..Default::default() })
        .await;
    assert_eq!(paris.receive().await, pairs(&[("p", "1")]));
    let open = world.server.streams.open();
    assert_eq!(lock(&open[0].self_description).id, "tokyo");
    assert_eq!(open[0].client.node.to_string(), "paris");
}
