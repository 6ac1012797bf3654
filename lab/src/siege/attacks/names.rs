//! xDS subscriptions to names that don't exist.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use h2::SendStream;
use prost::Message;

use super::super::attackers::{AttackCounts, run_attackers};
use super::super::dial::{self, Endpoint};
use super::super::topology::{SiegeTopology, attacker_cluster};
use super::super::{Attack, all_clients, grpc};

/// Connections of each credential.
const CONNECTIONS: usize = 64;
/// Streams on each connection.
const STREAMS: usize = 2;
/// Names of each type. Atlas allows a stream 4,096.
const NAMES: usize = 4_090;
/// The type URLs that an Envoy subscribes to.
const TYPES: [&str; 5] = [
    grpc::CLUSTER_TYPE,
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
];

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "xds-names",
        does: "a cluster opens xDS streams and asks for very many names that don't exist",
        bound: "64 connections × 2 streams × 5 types × 4,090 names",
        min_duration: Duration::from_secs(8),
        clients: all_clients,
        run_attack: one_credential,
    },
    Attack {
        name: "xds-names-of-two",
        does: "the same by two clusters",
        bound: "2 × 64 connections × 2 streams × 5 types × 4,090 names",
        min_duration: Duration::from_secs(8),
        clients: all_clients,
        run_attack: two_credentials,
    },
];

fn one_credential(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    subscribe(topology, until, 1)
}

fn two_credentials(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    subscribe(topology, until, 2)
}

fn subscribe(topology: &SiegeTopology, until: Instant, credentials: usize) -> Result<AttackCounts> {
    let at = topology.hub_port(10900);
    let endpoints = (0..credentials)
        .map(|n| {
            Endpoint::tls(
                at,
                Some(&topology.credential(&format!("bootstrap.{}", attacker_cluster(n)))?),
            )
        })
        .collect::<Result<Vec<Endpoint>>>()?;
    let requests: Vec<Bytes> = TYPES.iter().map(|type_url| request(type_url)).collect();
    dial::run(&topology.attacker_host, || async move {
        run_attackers(credentials * CONNECTIONS, until, move |attacker| {
            let (endpoint, requests) =
                (endpoints[attacker.number % credentials].clone(), requests.clone());
            async move {
                let permit = attacker.connect_permit().await?;
                let mut sender = grpc::http2(endpoint.connect().await?).await?;
                drop(permit);
                let mut streams = tokio::task::JoinSet::new();
                for _ in 0..STREAMS {
                    let (answer, mut body) =
                        grpc::send_headers(&mut sender, "atlas", grpc::DELTA_PATH).await?;
                    for request in &requests {
                        send(&mut body, request.clone()).await?;
                    }
                    attacker.count_opened();
                    streams.spawn(async move {
                        let mut answer = answer.await.context("no answer")?.into_body();
                        let read = grpc::discard(&mut answer).await;
                        drop(body);
                        read
                    });
                }
                // The connection stays until its last stream has ended.
                while streams.join_next().await.is_some() {
                    attacker.count_closed();
                }
                Ok(())
            }
        })
        .await
    })
}

/// Sends `bytes` as fast as the peer's flow control window allows.
async fn send(body: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<()> {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let capacity = std::future::poll_fn(|context| body.poll_capacity(context))
            .await
            .context("the stream is closed")??;
        body.send_data(bytes.split_to(capacity.min(bytes.len())), false)?;
    }
    Ok(())
}

/// A subscription to names that don't exist.
fn request(type_url: &str) -> Bytes {
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "siege".into(), cluster: "siege".into(), ..Node::default() }),
        type_url: type_url.into(),
        resource_names_subscribe: (0..NAMES)
            .map(|n| format!("store/no-such-cluster-thanos-sidecar{n:05}"))
            .collect(),
        ..DeltaDiscoveryRequest::default()
    };
    grpc::frame(&request.encode_to_vec())
}
