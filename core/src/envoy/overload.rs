//! The overload manager: what an Envoy does as its memory or its connections run out.
//!
//! | Heap | What happens |
//! | --- | --- |
//! | 80 % | timeouts of idle connections and TLS handshakes shrink, to a tenth at 95 % |
//! | 85 % | freed memory is returned to the system |
//! | 88 % | the streams with the largest buffers are reset, at 98 % all with more than 128 KiB |
//! | 95 % | new connections are closed, except on 9001 |
//! | 99 % | new requests get 503 |

use envoy_types::pb::envoy::config::overload::v3 as overload;
use envoy_types::pb::envoy::config::overload::v3::scale_timers_overload_action_config::{
    ScaleTimer, TimerType, scale_timer,
};
use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use envoy_types::pb::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;
use envoy_types::pb::envoy::r#type::v3::Percent;
use prost::{Message, Name};

use super::limits::{CLUSTER_ALERTS, CLUSTER_INBOUND, HUB_ALERTS, HUB_WEB, HUB_XDS_CONNECTIONS};
use super::{any, milliseconds};

/// The resource monitor of the heap.
const HEAP: &str = "envoy.resource_monitors.fixed_heap";

/// The memory of a process outside its heap, in bytes: the program, the stacks of its threads.
const OUTSIDE_HEAP: u64 = 64 << 20;

/// The size from which the buffers of a stream are tracked, as a power of two: 128 KiB.
const TRACKED_STREAM_POWER_OF_TWO: u32 = 17;

/// For a process with this memory limit, in bytes.
pub(super) fn manager(memory: u64) -> overload::OverloadManager {
    let heap = FixedHeapConfig {
        max_heap_size_bytes: memory.saturating_sub(OUTSIDE_HEAP).max(memory / 2),
        ..Default::default()
    };
    // Each listener has its own limit too. 10901 and 9001 are exempt from the global one.
    let max_connections = HUB_XDS_CONNECTIONS
        + HUB_ALERTS.connections
        + HUB_WEB.connections
        + CLUSTER_INBOUND.connections
        + CLUSTER_ALERTS.connections;
    let connections = DownstreamConnectionsConfig {
        max_active_downstream_connections: i64::try_from(max_connections).unwrap_or(i64::MAX),
    };
    overload::OverloadManager {
        refresh_interval: milliseconds(250),
        resource_monitors: vec![
            monitor(HEAP, &heap),
            monitor("envoy.resource_monitors.global_downstream_max_connections", &connections),
        ],
        actions: vec![
            overload::OverloadAction {
                typed_config: Some(any(&scaled_timeouts())),
                ..action("envoy.overload_actions.reduce_timeouts", between(0.80, 0.95))
            },
            action("envoy.overload_actions.shrink_heap", at(0.85)),
            action("envoy.overload_actions.reset_high_memory_stream", between(0.88, 0.98)),
            action("envoy.overload_actions.reject_incoming_connections", at(0.95)),
            action("envoy.overload_actions.stop_accepting_requests", at(0.99)),
        ],
        buffer_factory_config: Some(overload::BufferFactoryConfig {
            minimum_account_to_track_power_of_two: TRACKED_STREAM_POWER_OF_TWO,
        }),
        ..Default::default()
    }
}

fn scaled_timeouts() -> overload::ScaleTimersOverloadActionConfig {
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
