//! Checks cheaply, every millisecond, whether the hub's Envoy routes to a cluster.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Between two checks: the resolution of the measured times.
pub(super) const INTERVAL: Duration = Duration::from_millis(1);
/// The longest response head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Time limit of an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A connection to the hub's web port that requests the heads of pages.
pub(super) struct Probe {
    stream: TcpStream,
    address: SocketAddr,
}

impl Probe {
    /// Connects; must be called in the network namespace of the hub's host.
    ///
    /// # Errors
    /// The connection is refused.
    pub(super) fn connect(hub: IpAddr) -> Result<Self> {
        let address = SocketAddr::new(hub, 10904);
        let stream = TcpStream::connect(address)
            .with_context(|| format!("cannot connect to the hub's web port {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self { stream, address })
    }

    /// Waits until the Envoy has a route to the cluster, or (`known`: false) no longer has one.
    ///
    /// # Errors
    /// That doesn't happen before `deadline`, or the connection fails.
    pub(super) fn wait(&mut self, cluster: &str, known: bool, deadline: Instant) -> Result<()> {
        while self.knows(cluster)? != known {
            let not = if known { "does not know" } else { "still knows" };
            ensure!(
                Instant::now() < deadline,
                "the hub's Envoy {not} the cluster {cluster}: see the logs of Atlas and Envoy"
            );
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Whether the Envoy has a route to the cluster's pages. Without one it answers 404.
    fn knows(&mut self, cluster: &str) -> Result<bool> {
        let request = format!("HEAD /prom/{cluster}/ HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        self.stream.write_all(request.as_bytes()).context("cannot ask the hub's web port")?;
        let mut head = Vec::new();
        let mut part = [0; 4096];
        while !head.ends_with(b"\r\n\r\n") {
            let length =
                self.stream.read(&mut part).context("the hub's web port does not answer")?;
            ensure!(
                length > 0 && head.len() < MAX_HEAD,
                "the hub's web port closed the connection, or its answer has no end"
            );
            head.extend_from_slice(&part[..length]);
        }
        let status = head
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
        match status {
            Some(404) => Ok(false),
            // 503 if the cluster's Envoy doesn't answer; otherwise its answer.
            Some(200..600) => Ok(true),
            _ => bail!("the hub's web port answered {:?}", String::from_utf8_lossy(&head)),
        }
    }
}
