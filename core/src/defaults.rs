//! Defaults and bounds of what people may write.

use crate::quantity::Memory;

/// Default of [`PROMETHEUS_NAME`]: what kube-prometheus-stack calls it in a release of the same name.
pub const DEFAULT_PROMETHEUS_NAME: &str = "kube-prometheus-stack-prometheus";
/// Default of [`ENVOY_REPLICAS`].
pub const DEFAULT_ENVOY_REPLICAS: u32 = 2;
/// Default of [`ENVOY_MEMORY`]; the chart of a cluster's Envoy says the same.
pub const DEFAULT_ENVOY_MEMORY: Memory = Memory::mebibytes(256);
/// Least memory of an Envoy: with less it sheds load at once.
pub const LEAST_ENVOY_MEMORY: Memory = Memory::mebibytes(128);
/// Most stores of one cluster: their numbers have two digits.
pub const MAX_STORES: u32 = 100;
