//! `--addr`: another xDS server, whose messages are counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::Variant;
use super::client::{Client, Identity, Shared, StreamCounts};

/// Connects `clients` clients for `length`, and prints every second what they received.
pub async fn count_messages(
    server: SocketAddr,
    tls: Option<TlsConnector>,
    variant: Variant,
    prefix: &str,
    clients: usize,
    length: Duration,
) -> Result<()> {
    let (sender, mut acknowledgements) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        counts: StreamCounts::default(),
        start: Instant::now(),
        acknowledgements: sender,
    });
    let identity = |n: usize| Identity {
        node: format!("{prefix}{n}"),
        secrets: vec!["leaf".into(), "trust".into()],
        routes: vec!["inbound".into(), "alerts".into()],
        server,
        tls: tls.clone(),
        variant,
    };
    let running: Vec<Client> =
        (0..clients).map(|n| Client::start(n, identity(n), Arc::clone(&shared))).collect();
    let began = Instant::now();
    while began.elapsed() < length {
        tokio::time::sleep(Duration::from_secs(1).min(length)).await;
        while acknowledgements.try_recv().is_ok() {}
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &shared.counts;
        eprintln!(
            "{:4.0} s: {} of {clients} connected, {} messages, {} bytes, the last after {:.3} s",
            began.elapsed().as_secs_f64(),
            count(&counts.connected),
            count(&counts.messages),
            count(&counts.bytes),
            Duration::from_nanos(count(&counts.last)).as_secs_f64()
        );
    }
    let resources: usize = running
        .iter()
        .map(|client| client.lock().iter().map(std::collections::BTreeMap::len).sum::<usize>())
        .sum();
    println!(
        "{} clients ({}): {} messages, {} bytes; they hold {resources} resources",
        clients,
        variant.name(),
        shared.counts.messages.load(Ordering::Relaxed),
        shared.counts.bytes.load(Ordering::Relaxed)
    );
    Ok(())
}
