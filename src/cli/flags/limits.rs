//! Limits of the xDS port.

use std::time::Duration;

use clap::Args;

use super::values::{at_least, lifetime, written};
use crate::xds::LimitOptions;

/// How much of everything the xDS port takes. Each limit that is hit is counted in a metric.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Connections to the xDS port, of which every Envoy has one [default: as many files as Atlas
    /// may open, less 256; at most 40000].
    #[arg(long, value_name = "COUNT", value_parser = at_least::<1>, env = "ATLAS_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// Connections of each node, so that nobody takes all places with one cluster's credential; one
    /// more ends the one that has been silent for longest [default: four for each of a cluster's
    /// Envoys (goatlas.io/envoy-replicas), at least 16; the hub's 64].
    #[arg(long, value_name = "COUNT", value_parser = at_least::<1>, env = "ATLAS_MAX_CONNECTIONS_PER_NODE")]
    max_connections_per_node: Option<usize>,
    /// TLS handshakes that aren't finished. One more ends the oldest of them, so clients
    /// without a credential can't lock anybody out [default: an eighth of the files that Atlas may
    /// open, 16 to 512].
    #[arg(long, value_name = "COUNT", value_parser = at_least::<1>, env = "ATLAS_MAX_HANDSHAKES")]
    max_handshakes: Option<usize>,
    /// Largest request, in bytes; from a cluster's Envoy a quarter of it, at most 1 MiB. The hub's
    /// Envoy lists all that it has when it comes back, some 110 bytes for each resource; for what
    /// it should have there is always room.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = LimitOptions::default().request_bytes,
        value_parser = at_least::<65_536>,
        env = "ATLAS_MAX_REQUEST_BYTES"
    )]
    max_request_bytes: usize,
    /// About how many bytes of resources one incremental response carries; the rest follows when
    /// the Envoy has answered.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = LimitOptions::default().response_bytes,
        value_parser = at_least::<1024>,
        env = "ATLAS_MAX_RESPONSE_BYTES"
    )]
    max_response_bytes: usize,
    /// How long a connection may have no stream. An Envoy opens one at once.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = written(LimitOptions::default().idle_timeout),
        value_parser = lifetime,
        env = "ATLAS_MAX_CONNECTION_IDLE"
    )]
    max_connection_idle: Duration,
}

impl LimitArgs {
    /// The limits that these flags ask for.
    pub fn options(&self) -> LimitOptions {
        LimitOptions {
            connections: self.max_connections,
            connections_per_node: self.max_connections_per_node,
            handshakes: self.max_handshakes,
            request_bytes: self.max_request_bytes,
            response_bytes: self.max_response_bytes,
            idle_timeout: self.max_connection_idle,
            ..LimitOptions::default()
        }
    }
}
