//! Requests that take much and give nothing: half-sent, failing, or never read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use tokio::time::sleep;

use super::super::crowd::{Held, crowd};
use super::super::dial::{self, Door};
use super::super::field::{ALERTS, Field};
use super::super::{Attack, backend, everybody, everybody_and_osaka, grpc};

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "half-sent-posts",
        does: "a cluster posts alerts to 10903 and sends half of each body",
        bound: "30 connections × 100 posts",
        least: Duration::ZERO,
        honest: everybody,
        attack: half_sent_posts,
    },
    Attack {
        name: "failing-panels",
        does: "ten panels ask a store for what it answers with UNKNOWN or breaks off, and a Prometheus for what it answers with 503",
        bound: "10 panels, each 10 times a second",
        least: Duration::ZERO,
        honest: everybody_and_osaka,
        attack: failing_panels,
    },
    Attack {
        name: "stalled-readers",
        does: "answers of 200 MiB from a store, read by nobody",
        bound: "12 streams",
        least: Duration::ZERO,
        honest: everybody_and_osaka,
        attack: stalled_readers,
    },
    Attack {
        name: "many-stalled-readers",
        does: "the same, each over a connection of its own with a large window",
        bound: "48 streams",
        least: Duration::ZERO,
        honest: everybody_and_osaka,
        attack: many_stalled_readers,
    },
];

/// Requests on one connection.
const OF_EACH: usize = 100;

fn half_sent_posts(field: &Field, until: Instant) -> Result<Held> {
    let door = Door::secure(field.hub_port(10903), Some(&field.credential("cluster.osaka")?))?;
    dial::run(&field.stranger, || async move {
        crowd(30, until, move |visitor| {
            let door = door.clone();
            async move {
                let turn = visitor.turn().await?;
                let sender = grpc::http2(door.open().await?).await?;
                drop(turn);
                grpc::keep(&visitor, sender, OF_EACH, |sender| {
                    let request = Request::post(format!("http://hub{ALERTS}"))
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

fn failing_panels(field: &Field, until: Instant) -> Result<Held> {
    let (door, web) = (Door::plain(field.hub_port(10901)), field.hub_port(10904));
    dial::run(&field.stranger, || async move {
        crowd(10, until, move |visitor| {
            let door = door.clone();
            async move {
                visitor.opened();
                while !visitor.is_over() {
                    // Two thirds ask the hostile store, the others a real Prometheus for what takes
                    // longer than it may.
                    let failed = match visitor.number % 3 {
                        0 => grpc::unary(&door, "osaka-thanos-sidecar0", backend::FAILS, &[]).await.is_err(),
                        1 => grpc::unary(&door, "osaka-thanos-sidecar0", backend::RESETS, &[]).await.is_err(),
                        _ => {
                            let slow = "/prom/tokyo/api/v1/query_range?query=count(%7B__name__%3D~%22.%2B%22%7D)\
                                        &start=1&end=11000&step=1&timeout=1ms";
                            get(web, slow).await?.starts_with("HTTP/1.1 503")
                        }
                    };
                    if failed {
                        visitor.closed();
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                Ok(())
            }
        })
        .await
    })
}

/// `GET` over HTTP/1.1; returns the beginning of the answer.
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

fn stalled_readers(field: &Field, until: Instant) -> Result<Held> {
    read_nothing(field, until, 12, 65_535)
}

fn many_stalled_readers(field: &Field, until: Instant) -> Result<Held> {
    read_nothing(field, until, 48, (1 << 31) - 1)
}

/// So many readers ask for much, with such a window, and read nothing.
fn read_nothing(field: &Field, until: Instant, readers: usize, window: u32) -> Result<Held> {
    let door = Door::plain(field.hub_port(10901));
    dial::run(&field.stranger, || async move {
        crowd(readers, until, move |visitor| {
            let door = door.clone();
            async move {
                let mut settings = h2::client::Builder::new();
                settings.initial_window_size(window);
                // A large window would be filled if the socket were read, so it is read only as far
                // as the headers.
                let stalled = Stalled::new(
                    door.open().await?,
                    if window > 65_535 { Some(1 << 16) } else { None },
                );
                let mut sender = grpc::http2_with(Box::new(stalled), &settings).await?;
                let (answer, mut body) =
                    grpc::begin(&mut sender, "osaka-thanos-sidecar0", backend::STREAMS).await?;
                body.send_data(grpc::framed(&[]), true)?;
                let answer = answer.await.context("no answer")?;
                visitor.opened();
                // What was read before the window was full is never given back.
                let mut unread = answer.into_body();
                while unread.data().await.is_some_and(|data| data.is_ok()) {}
                Ok(())
            }
        })
        .await
    })
}

/// A connection from which no more than so many bytes are read.
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
            // For ever: nobody wakes it.
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
