//! Clients that don't read, violate the protocol, or open too many streams.

use std::sync::Weak;

use envoy_types::pb::envoy::service::route::v3::virtual_host_discovery_service_client::VirtualHostDiscoveryServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use super::*;

const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Types of HTTP/2 frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// An HTTP/2 client that writes single frames, and so can violate the protocol.
struct FrameClient(DuplexStream);

impl FrameClient {
    async fn new(world: &World, node: &str, settings: &[u8]) -> Self {
        let mut raw = Self(world.connect(client(node)).await);
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        raw.send_frame(SETTINGS, 0, 0, settings).await.unwrap();
        raw
    }

    async fn send_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat()).await
    }

    /// Sends request headers, encoded without HPACK's table (RFC 7541 §6.2.2).
    async fn send_headers(&mut self, stream: u32, path: &str) -> std::io::Result<()> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let block = [
            vec![0x83, 0x86, 0x04],
            text(path),
            vec![0x01],
            text("atlas"),
            vec![0x0f, 0x10],
            text("application/grpc"),
        ]
        .concat();
        self.send_frame(HEADERS, 4, stream, &block).await
    }

    async fn send_message(&mut self, stream: u32, message: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        self.send_frame(DATA, 0, stream, &[&[0], length.as_slice(), message].concat()).await
    }

    /// The next frame: type, stream, payload; `None` at the connection's end.
    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let reading = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
        };
        tokio::time::timeout(SOON, reading).await.expect("a frame, or the end")
    }
}

#[tokio::test]
async fn a_client_that_never_reads_delays_nobody_and_costs_little() {
    let world = World::new();
    let big = |n: u32| resource(CDS, "big", &[n.to_be_bytes().as_slice(), &[7; 50_000]].concat());
    world.set_resources("tokyo", &[]);
    world.set_resource("tokyo", big(0));
    // With a flow-control window of 0 it accepts no byte of any response.
    let mut raw = FrameClient::new(&world, "tokyo", &[0, 4, 0, 0, 0, 0]).await;
    raw.send_headers(1, DELTA).await.unwrap();
    let request = DeltaDiscoveryRequest { type_url: CDS.url().into(), ..Default::default() };
    raw.send_message(1, &prost::Message::encode_to_vec(&request)).await.unwrap();
    let mut other = world.delta("tokyo").await;
    other.subscribe(CDS, &["*"]).await;
    let response = other.next().await.unwrap().unwrap();
    other.ack(&response).await;
    let mut versions: Vec<Weak<Resource>> = Vec::new();
    for n in 1..=300 {
        let resource = big(n);
        versions.push(Arc::downgrade(&resource));
        world.set_resource("tokyo", resource);
        let response = other.next().await.unwrap().unwrap();
        assert_eq!(response.resources[0].resource.as_ref().unwrap().value[..4], n.to_be_bytes());
        other.ack(&response).await;
    }
    assert_eq!(world.server.streams.open().len(), 2, "it is not ended for being slow");
    let kept = versions.iter().filter(|version| version.strong_count() > 0).count();
    // The current version, and the one that the other client may still be receiving. The slow
    // client's queued response has version 0.
    assert!(kept <= 2, "{kept} of 300 versions are still kept for a client that doesn't read");
}

#[tokio::test]
async fn a_client_that_asks_without_reading_loses_its_stream() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut raw = FrameClient::new(&world, "tokyo", &[0, 4, 0, 0, 0, 0]).await;
    raw.send_headers(1, DELTA).await.unwrap();
    // Every request for an unknown type is answered at once.
    let request = DeltaDiscoveryRequest {
        type_url: "x".into(),
        resource_names_subscribe: vec!["n".into()],
        ..Default::default()
    };
    for _ in 0..100 {
        raw.send_message(1, &prost::Message::encode_to_vec(&request)).await.unwrap();
    }
    until("it is ended", || world.metric("atlas_xds_streams_ended_total{reason=\"slow\"}") == 1)
        .await;
    assert_eq!(world.server.streams.open().len(), 0);
}

/// Responses repeat the client's own names, and what HTTP/2 has buffered of them is only freed when
/// the connection closes.
#[tokio::test]
async fn unread_responses_count_as_the_nodes_memory() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut honest = world.delta("tokyo").await;
    honest.subscribe(CDS, &["*"]).await;
    assert_eq!(honest.receive().await.len(), 1);
    let mut raw = FrameClient::new(&world, "tokyo", &[0, 4, 0, 0, 0, 0]).await;
    raw.send_headers(1, DELTA).await.unwrap();
    let resource_names_subscribe = (0..100).map(|n| format!("name-{n}")).collect();
    let request = DeltaDiscoveryRequest {
        type_url: "x".into(),
        resource_names_subscribe,
        ..Default::default()
    };
    let message = prost::Message::encode_to_vec(&request);
    for _ in 0..4 {
        raw.send_message(1, &message).await.unwrap();
    }
    until("they wait", || world.reserved_bytes() > 4 * 100 * 64).await;
    for _ in 0..20 {
        let _ = raw.send_message(1, &message).await;
    }
    until("its connection ends", || {
        world.metric("atlas_connections_ended_total{reason=\"memory\"}") == 1
    })
    .await;
    until("all is given back", || world.reserved_bytes() < 10_000).await;
    world.set_resources("tokyo", &[(CDS, "a", "2")]);
    assert_eq!(honest.receive().await, pairs(&[("a", "2")]));
}

#[tokio::test]
async fn a_malformed_request_ends_its_own_stream_only() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut raw = FrameClient::new(&world, "tokyo", &[]).await;
    raw.send_headers(1, DELTA).await.unwrap();
    raw.send_message(1, b"\xff\xff\xff\xff nonsense").await.unwrap();
    raw.send_headers(3, DELTA).await.unwrap();
    let request = DeltaDiscoveryRequest { type_url: CDS.url().into(), ..Default::default() };
    raw.send_message(3, &prost::Message::encode_to_vec(&request)).await.unwrap();
    let mut answered = false;
    while !answered {
        let (kind, stream, _) = raw.next().await.expect("the connection lives");
        answered = kind == DATA && stream == 3;
    }
    until("the other one ends", || {
        world.metric("atlas_xds_streams_ended_total{reason=\"nonsense\"}") == 1
    })
    .await;
    assert_eq!(world.server.streams.open().len(), 1);
    // Random bytes instead of frames end their connection only.
    let mut bytes = FrameClient::new(&world, "tokyo", &[]).await;
    fastrand::seed(7);
    for _ in 0..50 {
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(500).collect();
        if bytes.0.write_all(&noise).await.is_err() {
            break;
        }
    }
    until("that connection ends", || world.server.streams.connections() == 1).await;
}

#[tokio::test]
async fn a_connection_has_at_most_eight_streams() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut raw = FrameClient::new(&world, "tokyo", &[]).await;
    let mut cut = false;
    for n in 0..1000 {
        cut = cut || raw.send_headers(2 * n + 1, DELTA).await.is_err();
        assert!(world.server.streams.open().len() <= 8);
        if n % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let (mut refused, mut gone) = (0, false);
    while let Ok(Some((kind, ..))) = tokio::time::timeout(A_WHILE, raw.next()).await {
        refused += usize::from(kind == RST_STREAM);
        gone = gone || kind == GOAWAY;
    }
    println!("{refused} streams refused, connection ended: {}", gone || cut);
    assert!(refused > 0 || gone || cut);
    assert!(world.server.streams.open().len() <= 8);
    // Another client of the same node is served.
    let mut tokyo = world.delta("tokyo").await;
    tokyo.subscribe(CDS, &["*"]).await;
    assert_eq!(tokyo.receive().await, pairs(&[("a", "1")]));
}

#[tokio::test]
async fn rapid_resets_of_streams_end_the_connection() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut raw = FrameClient::new(&world, "tokyo", &[]).await;
    let mut cut = false;
    for n in 0..400 {
        let stream = 2 * n + 1;
        cut = cut
            || raw.send_headers(stream, DELTA).await.is_err()
            || raw.send_frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]).await.is_err();
    }
    let mut gone = cut;
    while let Ok(Some((kind, ..))) = tokio::time::timeout(A_WHILE, raw.next()).await {
        gone = gone || kind == GOAWAY;
    }
    assert!(gone, "400 streams opened and reset at once");
    until("nothing is left of them", || world.server.streams.open().is_empty()).await;
}

#[tokio::test]
async fn an_unknown_service_is_unimplemented() {
    let world = World::new();
    world.set_resources("tokyo", &[(CDS, "a", "1")]);
    let mut client = VirtualHostDiscoveryServiceClient::new(world.channel("tokyo").await);
    let refused = client.delta_virtual_hosts(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
}
