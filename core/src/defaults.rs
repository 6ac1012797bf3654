//! Defaults and bounds of what people may write.

use crate::quantity::Memory;

/// Default of [`PROMETHEUS_NAME`]: what kube-prometheus-stack calls it in a release of the same name.
pub const DEFAULT_PROMETHEUS_NAME: &str = "kube-prometheus-stack-prometheus";
/// Default of [`ENVOY_REPLICAS`].
pub const DEFAULT_ENVOY_REPLICAS: u32 = 2;
/// Default of [`ENVOY_MEMORY`]; the chart of a cluster's Envoy says the same.
pub const DEFAULT_ENVOY_MEMORY: Memory = Memory::mebibytes(256);
/// What an Envoy of the hub may take by default; the chart says the same. 10,000 clusters fit.
pub const DEFAULT_HUB_ENVOY_MEMORY: Memory = Memory::mebibytes(6144);
/// Least memory of an Envoy: with less it sheds load at once.
pub const LEAST_ENVOY_MEMORY: Memory = Memory::mebibytes(128);
/// Longest time one request may take, in seconds, where nobody says otherwise. Thanos's own query timeout is 2 minutes, and Envoy
/// can't end a request in flight otherwise (revocation, removal), so this bounds both.
pub const DEFAULT_MAX_REQUEST_SECONDS: u32 = 150;
/// The longest that can be asked for: what a WebSocket has.
pub const MOST_MAX_REQUEST_SECONDS: u32 = 3600;
/// Most stores of one cluster: their numbers have two digits.
pub const MAX_STORES: u32 = 100;
