//! What an Envoy lets go of when it runs out of memory or connections, in which order.
//!
//! | Heap | What happens |
//! | --- | --- |
//! | 80 % | idle connections and unfinished TLS handshakes get less and less time, a tenth of theirs at 95 % |
//! | 85 % | freed memory is given back |
//! | 88 % | the streams that hold the most are ended, at 98 % all that hold more than 128 KiB |
//! | 95 % | new connections are closed, but for 9001 |
//! | 99 % | new requests are answered with 503 |

use envoy_types::pb::envoy::config::overload::v3 as overload;
use envoy_types::pb::envoy::config::overload::v3::scale_timers_overload_action_config::{
    ScaleTimer, TimerType, scale_timer,
};
use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use envoy_types::pb::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;
use envoy_types::pb::envoy::r#type::v3::Percent;
use prost::{Message, Name};

use super::limits::{CLUSTER_ALERTS, CLUSTER_INBOUND, HUB_ALERTS, HUB_WEB, HUB_XDS_CONNECTIONS};
use super::{any, millis};

const HEAP: &str = "envoy.resource_monitors.fixed_heap";

/// What a process takes beside its heap: the program itself, its threads' stacks.
const BESIDE_THE_HEAP: u64 = 64 << 20;

/// Buffers of streams are counted from this size on, as a power of two of bytes: 128 KiB.
const COUNTED_STREAM: u32 = 17;

/// For a process that may take so many bytes.
pub(super) fn manager(memory: u64) -> overload::OverloadManager {
    let heap = FixedHeapConfig {
        max_heap_size_bytes: memory.saturating_sub(BESIDE_THE_HEAP).max(memory / 2),
        ..Default::default()
    };
    // Each listener has its own limit; that of the stores and 9001 count by themselves.
    let most = HUB_XDS_CONNECTIONS
        + HUB_ALERTS.connections
        + HUB_WEB.connections
        + CLUSTER_INBOUND.connections
        + CLUSTER_ALERTS.connections;
    let connections = DownstreamConnectionsConfig {
        max_active_downstream_connections: i64::try_from(most).unwrap_or(i64::MAX),
    };
    overload::OverloadManager {
        refresh_interval: millis(250),
        resource_monitors: vec![
            monitor(HEAP, &heap),
            monitor("envoy.resource_monitors.global_downstream_max_connections", &connections),
        ],
        actions: vec![
            overload::OverloadAction {
                typed_config: Some(any(&shorter_timeouts())),
                ..action("envoy.overload_actions.reduce_timeouts", between(0.80, 0.95))
            },
            action("envoy.overload_actions.shrink_heap", at(0.85)),
            action("envoy.overload_actions.reset_high_memory_stream", between(0.88, 0.98)),
            action("envoy.overload_actions.reject_incoming_connections", at(0.95)),
            action("envoy.overload_actions.stop_accepting_requests", at(0.99)),
        ],
        buffer_factory_config: Some(overload::BufferFactoryConfig {
            minimum_account_to_track_power_of_two: COUNTED_STREAM,
        }),
        ..Default::default()
    }
}

fn shorter_timeouts() -> overload::ScaleTimersOverloadActionConfig {
    let scaled = |timer: TimerType| ScaleTimer {
        timer: timer.into(),
        overload_adjust: Some(scale_timer::OverloadAdjust::MinScale(Percent { value: 10.0 })),
    };
    overload::ScaleTimersOverloadActionConfig {
        timer_scale_factors: vec![
            scaled(TimerType::HttpDownstreamConnectionIdle),
            scaled(TimerType::TransportSocketConnect),
        ],
    }
}

fn monitor<M: Message + Name>(name: &str, config: &M) -> overload::ResourceMonitor {
    overload::ResourceMonitor {
        name: name.to_owned(),
        config_type: Some(overload::resource_monitor::ConfigType::TypedConfig(any(config))),
    }
}

fn action(name: &str, when: overload::trigger::TriggerOneof) -> overload::OverloadAction {
    let trigger = overload::Trigger { name: HEAP.to_owned(), trigger_oneof: Some(when) };
    overload::OverloadAction {
        name: name.to_owned(),
        triggers: vec![trigger],
        ..Default::default()
    }
}

fn at(value: f64) -> overload::trigger::TriggerOneof {
    overload::trigger::TriggerOneof::Threshold(overload::ThresholdTrigger { value })
}

fn between(scaling_threshold: f64, saturation_threshold: f64) -> overload::trigger::TriggerOneof {
    overload::trigger::TriggerOneof::Scaled(overload::ScaledTrigger {
        scaling_threshold,
        saturation_threshold,
    })
}
