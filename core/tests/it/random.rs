//! Random fleets: clusters that Atlas accepts, with any of the labels and annotations, and any
//! values of these.
//!
//! Also used by `tests/it/validate.rs`.

use std::collections::BTreeMap;

use atlas_core::annotations;
use atlas_core::manifest::{Endpoint, EndpointSlice, Manifest, Meta, Service, ServicePort};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

/// One to three clusters, and up to three Alertmanagers.
pub fn manifests() -> impl Strategy<Value = Vec<Manifest>> {
    let clusters = prop::collection::btree_map(name(), cluster(), 1..4);
    (clusters, 0..4u32).prop_map(|(clusters, alertmanagers)| {
        let named = clusters.into_iter().map(|(name, mut service)| {
            service.meta.name = name;
            Manifest::Service(service)
        });
        named.chain([Manifest::EndpointSlice(slice(alertmanagers))]).collect()
    })
}

/// Also names that YAML could take for another type, and the longest ones.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,12}[a-z0-9]",
        select(vec!["on", "y", "null", "0x1f", "1e3", "12"]).prop_map(str::to_owned),
        "[a-z]{46}"
    ]
}

fn cluster() -> impl Strategy<Value = Service> {
    let labels = weighted(0.5, (1..4u32).prop_map(|n| n.to_string()));
    let ips = prop::collection::vec(prop_oneof![ipv4(), ipv6()], 0..3);
    let external_name = weighted(0.3, dns_name());
    (labels, annotations(), ips, external_name, any::<bool>()).prop_map(
        |(replicas, annotations, external_ips, external_name, cluster_ip)| {
            let labels = [
                (annotations::CLUSTER, Some("true".to_owned())),
                (annotations::REPLICAS, replicas),
            ];
            let labels = labels
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?)))
                .collect();
            let meta = Meta { labels, annotations, ..Meta::default() };
            Service { meta, external_ips, external_name, cluster_ip, ..Service::default() }
        },
    )
}

fn annotations() -> impl Strategy<Value = BTreeMap<String, String>> {
    let text = |values: &'static [&'static str]| select(values).prop_map(str::to_owned).boxed();
    let port = || (1..=u16::MAX).prop_map(|port| port.to_string()).boxed();
    let wanted: Vec<(&str, BoxedStrategy<String>)> = vec![
        (annotations::THANOS_SERVICE, dns_name().boxed()),
        (annotations::THANOS_SERVICE_PORT, port()),
        (annotations::PROMETHEUS_SERVICE, prop_oneof![dns_name(), ipv4(), ipv6()].boxed()),
        (annotations::PROMETHEUS_SERVICE_PORT, port()),
        (annotations::ALERTMANAGER_SERVICE, prop_oneof![dns_name(), ipv4(), ipv6()].boxed()),
        (annotations::ALERTMANAGER_SERVICE_PORT, port()),
        (annotations::ADDRESSES, hosts()),
        (
            annotations::PROMETHEUS_NAME,
            text(&["k8s", "on", "a-very-long-name-of-a-prometheus", "0"]),
        ),
        (annotations::SHARDS, text(&["1", "2", "3"])),
        (annotations::PROMETHEUS_PATH_PREFIX, path()),
        (annotations::ALERTMANAGER_PATH_PREFIX, path()),
        (annotations::PROMETHEUS_HOST_HEADER, prop_oneof![text(&["hub"]), dns_name()].boxed()),
        (annotations::ALERTMANAGER_HOST_HEADER, prop_oneof![text(&["hub"]), dns_name()].boxed()),
        (annotations::HUB_ADDRESSES, hosts()),
        (annotations::BIND_ADDRESS, text(&["0.0.0.0", "::", "127.0.0.2", "10.2.0.1", "fd00::2"])),
        (
            annotations::ALLOW_PATHS,
            prop::collection::vec(
                prop_oneof![path(), text(&["/-/reload", "/debug/pprof", "/api/v1/admin"])],
                0..4,
            )
            .prop_map(|paths| paths.join(","))
            .boxed(),
        ),
        (annotations::CREDENTIAL_REVISION, text(&["1", "7"])),
        (annotations::REVOKE_BELOW, text(&["1", "7"])),
        (annotations::ENVOY_REPLICAS, text(&["1", "5"])),
        (annotations::ENVOY_MEMORY, text(&["128Mi", "1Gi"])),
        (annotations::ENVOY_SELECTORS, text(&["app=envoy", "app=envoy,release=other"])),
        (annotations::CONNECT, text(&["direct"])),
    ];
    let optional: Vec<_> = wanted
        .into_iter()
        .map(|(key, value)| weighted(0.4, value).prop_map(move |value| (key, value)))
        .collect();
    let entries = |pairs: Vec<(&str, Option<String>)>| {
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    };
    optional.prop_map(entries)
}

fn ipv4() -> BoxedStrategy<String> {
    (1..224u8, 0..=255u8, 0..=255u8)
        .prop_filter("neither loopback nor link-local", |(a, b, _)| {
            *a != 127 && (*a, *b) != (169, 254)
        })
        .prop_map(|(a, b, c)| format!("{a}.{b}.{c}.7"))
        .boxed()
}

fn ipv6() -> BoxedStrategy<String> {
    prop_oneof!["fd00:[0-9a-f]{1,4}::[1-9a-f]{1,3}", "2001:db8(:[0-9a-f]{1,4}){6}"].boxed()
}

fn dns_name() -> BoxedStrategy<String> {
    "[a-z][a-z0-9-]{0,10}[a-z0-9](\\.[a-z][a-z0-9]{0,8}){0,3}".boxed()
}

/// One to three hosts, some with a port.
fn hosts() -> BoxedStrategy<String> {
    let host = prop_oneof![dns_name(), ipv4(), ipv6().prop_map(|ip| format!("[{ip}]"))];
    let with_port = (host, weighted(0.5, 1..=u16::MAX))
        .prop_map(|(host, port)| port.map_or(host.clone(), |port| format!("{host}:{port}")));
    prop::collection::vec(with_port, 1..4).prop_map(|hosts| hosts.join(", ")).boxed()
}

fn path() -> BoxedStrategy<String> {
    "(/[a-zA-Z0-9_~-]{1,8}){1,3}/?".boxed()
}

fn slice(alertmanagers: u32) -> EndpointSlice {
    let endpoint = |n: u32| Endpoint {
        addresses: vec![format!("10.3.0.{n}"), format!("fd00::3:{n}")],
        hostname: Some(format!("alertmanager-{n}")),
        target: None,
    };
    let labels =
        [(annotations::SERVICE_NAME.to_owned(), "alertmanager-operated".to_owned())].into();
    EndpointSlice {
        meta: Meta { name: "alertmanager-operated-abcde".into(), labels, ..Meta::default() },
        endpoints: (0..alertmanagers).map(endpoint).collect(),
        ports: vec![ServicePort { name: "http-web".into(), port: 9093 }],
    }
}
