//! What clusters ask Atlas for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use h2::SendStream;
use prost::Message;

use super::super::crowd::{Held, crowd};
use super::super::dial::{self, Door};
use super::super::field::{Field, camp};
use super::super::{Attack, everybody, grpc};

/// Connections of each credential, and streams on each.
const CONNECTIONS: usize = 64;
const STREAMS: usize = 2;
/// Names of each type: Atlas lets a stream remember 4,096.
const NAMES: usize = 4_090;
/// What Envoys ask for.
const TYPES: [&str; 5] = [
    grpc::CLUSTERS,
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
        least: Duration::from_secs(8),
        honest: everybody,
        attack: one_credential,
    },
    Attack {
        name: "xds-names-of-two",
        does: "the same by two clusters",
        bound: "2 × 64 connections × 2 streams × 5 types × 4,090 names",
        least: Duration::from_secs(8),
        honest: everybody,
        attack: two_credentials,
    },
];

fn one_credential(field: &Field, until: Instant) -> Result<Held> {
    ask(field, until, 1)
}

fn two_credentials(field: &Field, until: Instant) -> Result<Held> {
    ask(field, until, 2)
}

fn ask(field: &Field, until: Instant, credentials: usize) -> Result<Held> {
    let at = field.hub_port(10900);
    let doors = (0..credentials)
        .map(|n| Door::secure(at, Some(&field.credential(&format!("bootstrap.{}", camp(n)))?)))
        .collect::<Result<Vec<Door>>>()?;
    let requests: Vec<Bytes> = TYPES.iter().map(|kind| request(kind)).collect();
    dial::run(&field.stranger, || async move {
        crowd(credentials * CONNECTIONS, until, move |visitor| {
            let (door, requests) = (doors[visitor.number % credentials].clone(), requests.clone());
            async move {
                let turn = visitor.turn().await?;
                let mut sender = grpc::http2(door.open().await?).await?;
                drop(turn);
                let mut streams = tokio::task::JoinSet::new();
                for _ in 0..STREAMS {
                    let (answer, mut body) = grpc::begin(&mut sender, "atlas", grpc::DELTA).await?;
                    for request in &requests {
                        send(&mut body, request.clone()).await?;
                    }
                    visitor.opened();
                    streams.spawn(async move {
                        let mut answer = answer.await.context("no answer")?.into_body();
                        let read = grpc::read(&mut answer).await;
                        drop(body);
                        read
                    });
                }
                // Stays while one of them is open.
                while streams.join_next().await.is_some() {
                    visitor.closed();
                }
                Ok(())
            }
        })
        .await
    })
}

/// Sends as much at a time as the server takes.
async fn send(body: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<()> {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|context| body.poll_capacity(context))
            .await
            .context("the stream is closed")??;
        body.send_data(bytes.split_to(room.min(bytes.len())), false)?;
    }
    Ok(())
}

/// Subscribes to names that nobody has.
fn request(kind: &str) -> Bytes {
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "siege".into(), cluster: "siege".into(), ..Node::default() }),
        type_url: kind.into(),
        resource_names_subscribe: (0..NAMES)
            .map(|n| format!("store/no-such-cluster-thanos-sidecar{n:05}"))
            .collect(),
        ..DeltaDiscoveryRequest::default()
    };
    grpc::framed(&request.encode_to_vec())
}
