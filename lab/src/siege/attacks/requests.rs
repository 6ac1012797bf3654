//! Requests whose bodies are half sent, that fail, or whose answers are never read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use tokio::time::sleep;

use super::super::attackers::{AttackCounts, run_attackers};
use super::super::dial::{self, Endpoint};
use super::super::topology::{ALERTS_PATH, SiegeTopology};
use super::super::{Attack, all_clients, all_clients_and_osaka, grpc, hostile_store};

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "half-sent-posts",
        does: "a cluster posts alerts to 10903 and sends half of each body",
        bound: "30 connections × 100 posts",
        min_duration: Duration::ZERO,
        clients: all_clients,
        run_attack: half_sent_posts,
    },
    Attack {
        name: "failing-panels",
        does: "ten panels ask a store for what it answers with UNKNOWN or breaks off, and a \
               Prometheus for what it answers with 503",
        bound: "10 panels, each 10 times a second",
        min_duration: Duration::ZERO,
        clients: all_clients_and_osaka,
        run_attack: failing_panels,
    },
    Attack {
        name: "stalled-readers",
        does: "answers of 200 MiB from a store, read by nobody",
        bound: "12 streams",
        min_duration: Duration::ZERO,
        clients: all_clients_and_osaka,
        run_attack: stalled_readers,
    },
    Attack {
        name: "many-stalled-readers",
        does: "the same, each over a connection of its own with a large window",
        bound: "48 streams",
        min_duration: Duration::ZERO,
        clients: all_clients_and_osaka,
        run_attack: many_stalled_readers,
    },
];

/// The hostile store's authority at 10901.
const STORE: &str = "osaka-thanos-sidecar0";
/// A query that can't be answered within its timeout.
const SLOW_QUERY: &str = "/prom/tokyo/api/v1/query_range\
    ?query=count(%7B__name__%3D~%22.%2B%22%7D)&start=1&end=11000&step=1&timeout=1ms";
const REQUESTS_PER_CONNECTION: usize = 100;

fn half_sent_posts(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let endpoint =
        Endpoint::tls(topology.hub_port(10903), Some(&topology.credential("cluster.osaka")?))?;
    dial::run(&topology.attacker_host, || async move {
        run_attackers(30, until, move |attacker| {
            let endpoint = endpoint.clone();
            async move {
                let permit = attacker.connect_permit().await?;
                let sender = grpc::http2(endpoint.connect().await?).await?;
                drop(permit);
                grpc::keep_open(&attacker, sender, REQUESTS_PER_CONNECTION, |sender| {
                    let request = Request::post(format!("http://hub{ALERTS_PATH}"))
                        .header("content-type", "application/json")
                        .header("content-length", "1000")
                        .body(())?;
                    let (answer, mut body) = sender.send_request(request, false).context("send")?;
                    body.send_data(Bytes::from_static(&[b' '; 500]), false)?;
                    Ok((answer, body))
                })
                .await
            }
        })
        .await
    })
}

fn failing_panels(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    let (endpoint, web) = (Endpoint::plain(topology.hub_port(10901)), topology.hub_port(10904));
    dial::run(&topology.attacker_host, || async move {
        run_attackers(10, until, move |attacker| {
            let endpoint = endpoint.clone();
            async move {
                attacker.count_opened();
                while !attacker.is_over() {
                    // Two thirds ask the hostile store, the others a real Prometheus with a query
                    // that takes longer than its timeout.
                    let failed = match attacker.number % 3 {
                        0 => grpc::unary(&endpoint, STORE, hostile_store::FAILING, &[])
                            .await
                            .is_err(),
                        1 => grpc::unary(&endpoint, STORE, hostile_store::RESETTING, &[])
                            .await
                            .is_err(),
                        _ => get(web, SLOW_QUERY).await?.starts_with("HTTP/1.1 503"),
                    };
                    if failed {
                        attacker.count_closed();
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                Ok(())
            }
        })
        .await
    })
}

/// `GET` over HTTP/1.1; returns the first 4,096 bytes of the answer.
async fn get(at: std::net::SocketAddr, path: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tcp = dial::tcp(at).await?;
    tcp.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n").as_bytes(),
    )
    .await?;
    let mut answer = Vec::new();
    tcp.take(4096).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn stalled_readers(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    read_nothing(topology, until, 12, 65_535)
}

fn many_stalled_readers(topology: &SiegeTopology, until: Instant) -> Result<AttackCounts> {
    read_nothing(topology, until, 48, (1 << 31) - 1)
}

/// Asks for a large answer on `readers` connections and reads nothing of it. `window`: the HTTP/2
/// window in bytes.
fn read_nothing(
    topology: &SiegeTopology,
    until: Instant,
    readers: usize,
    window: u32,
) -> Result<AttackCounts> {
    let endpoint = Endpoint::plain(topology.hub_port(10901));
    dial::run(&topology.attacker_host, || async move {
        run_attackers(readers, until, move |attacker| {
            let endpoint = endpoint.clone();
            async move {
                let mut settings = h2::client::Builder::new();
                settings.initial_window_size(window);
                // With a large window h2 would read the whole answer, so the socket is read only as
                // far as the headers.
                let stalled = Stalled::new(
                    endpoint.connect().await?,
                    if window > 65_535 { Some(1 << 16) } else { None },
                );
                let mut sender = grpc::http2_with(Box::new(stalled), &settings).await?;
                let (answer, mut body) =
                    grpc::send_headers(&mut sender, STORE, hostile_store::LARGE_ANSWER).await?;
                body.send_data(grpc::frame(&[]), true)?;
                let answer = answer.await.context("no answer")?;
                attacker.count_opened();
                // Capacity is never released, so the window stays full.
                let mut unread = answer.into_body();
                while unread.data().await.is_some_and(|data| data.is_ok()) {}
                Ok(())
            }
        })
        .await
    })
}

/// A connection from which at most `left` bytes are read; `None`: all.
struct Stalled {
    io: Box<dyn dial::Io>,
    left: Option<usize>,
}

impl Stalled {
    fn new(io: Box<dyn dial::Io>, left: Option<usize>) -> Self {
        Self { io, left }
    }
}

impl tokio::io::AsyncRead for Stalled {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.left == Some(0) {
            // Never woken: the reader has stalled.
            return std::task::Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = std::pin::Pin::new(&mut self.io).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.left = self.left.map(|left| left.saturating_sub(read));
        polled
    }
}

impl tokio::io::AsyncWrite for Stalled {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.io).poll_shutdown(context)
    }
}
