use super::*;
use crate::manifest::{Endpoint, EndpointSlice, ServicePort};
use crate::name::HostPort;
use proptest::prelude::*;

/// A cluster's Service, to be chained on.
pub(super) fn cluster(name: &str) -> Service {
    let mut service = Service::default();
    service.meta.name = name.into();
    service.meta.labels.insert(annotations::CLUSTER.into(), "true".into());
    service.external_ips = vec!["10.0.0.1".into()];
    service
}

pub(super) trait Keys {
    fn label(self, key: &str, value: &str) -> Self;
    fn annotation(self, key: &str, value: &str) -> Self;
}

impl Keys for Service {
    fn label(mut self, key: &str, value: &str) -> Self {
        self.meta.labels.insert(key.into(), value.into());
        self
    }
    fn annotation(mut self, key: &str, value: &str) -> Self {
        self.meta.annotations.insert(key.into(), value.into());
        self
    }
}

pub(super) fn validate_services(services: Vec<Service>) -> Validation {
    let manifests: Vec<Manifest> = services.into_iter().map(Manifest::Service).collect();
    validate(&Settings::default(), &manifests, None)
}

pub(super) fn only(service: Service) -> Cluster {
    let validation = validate_services(vec![service]);
    assert!(
        validation.findings.iter().all(|finding| finding.severity >= Severity::Warning),
        "{:?}",
        validation.findings
    );
    validation
        .fleet
        .clusters
        .into_values()
        .next()
        .map(std::sync::Arc::unwrap_or_clone)
        .expect("a cluster")
}

pub(super) fn rejection(service: Service) -> Finding {
    let validation = validate_services(vec![service, cluster("bystander")]);
    assert_eq!(validation.fleet.clusters.len(), 1, "the bad one is left out, the other is not");
    validation.findings.into_iter().find(|f| f.severity == Severity::Rejected).expect("a rejection")
}

pub(super) fn stores(cluster: &Cluster) -> Vec<String> {
    cluster.stores.iter().map(|store| store.at.to_string()).collect()
}

#[test]
fn a_bare_service_is_a_cluster_with_one_store() {
    let cluster = only(cluster("tokyo"));
    assert_eq!(stores(&cluster), ["prometheus-operated.monitoring.svc.cluster.local:10901"]);
    assert_eq!(cluster.addresses, [HostPort::parse("10.0.0.1:11901", 1).unwrap()]);
    assert_eq!(
        cluster.alertmanager.at.to_string(),
        "alertmanager-operated.monitoring.svc.cluster.local:9093"
    );
}

#[test]
fn replicas_have_their_pods_addresses_then_the_service_s() {
    let cluster = only(cluster("tokyo").label(annotations::REPLICAS, "2"));
    assert_eq!(
        stores(&cluster)[1],
        "prometheus-kube-prometheus-stack-prometheus-1.prometheus-operated.monitoring.svc.cluster.local:10901"
    );
    let service =
        HostPort::parse("prometheus-operated.monitoring.svc.cluster.local:10901", 1).unwrap();
    assert!(
        cluster.stores.iter().all(|store| store.fallbacks == [service.clone()] && !store.exact)
    );
}

#[test]
fn a_given_name_is_exact_even_for_one_replica() {
    let cluster = only(cluster("tokyo").annotation(annotations::PROMETHEUS_NAME, "k8s"));
    assert_eq!(
        stores(&cluster),
        ["prometheus-k8s-0.prometheus-operated.monitoring.svc.cluster.local:10901"]
    );
    assert!(cluster.stores[0].exact && cluster.stores[0].fallbacks.is_empty());
}

#[test]
fn shards_number_their_replicas_one_after_the_other() {
    let cluster = only(
        cluster("t")
            .label(annotations::REPLICAS, "2")
            .annotation(annotations::SHARDS, "2")
            .annotation(annotations::PROMETHEUS_NAME, "k"),
    );
    let pods: Vec<String> =
        stores(&cluster).iter().map(|s| s.split('.').next().unwrap().to_owned()).collect();
    assert_eq!(
        pods,
        ["prometheus-k-0", "prometheus-k-1", "prometheus-k-shard-1-0", "prometheus-k-shard-1-1"]
    );
}

#[test]
fn listed_hosts_are_the_stores() {
    let hosts = cluster("t")
        .annotation(annotations::THANOS_REPLICA_HOSTS, "a.example.org, b.example.org:1234");
    assert_eq!(stores(&only(hosts)), ["a.example.org:10901", "b.example.org:1234"]);
    let finding = rejection(
        cluster("t")
            .label(annotations::REPLICAS, "3")
            .annotation(annotations::THANOS_REPLICA_HOSTS, "a.example.org,b.example.org"),
    );
    assert_eq!(finding.key, annotations::THANOS_REPLICA_HOSTS);
}

#[test]
fn addresses_win_over_external_ips() {
    let cluster = only(
        cluster("t")
            .annotation(annotations::ADDRESSES, "edge.example.com:31901, [fd00::1], 10.0.0.9"),
    );
    let addresses: Vec<String> = cluster.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["edge.example.com:31901", "[fd00::1]:11901", "10.0.0.9:11901"]);
}

#[test]
fn a_cluster_without_addresses_awaits_its_own() {
    let mut service = cluster("t");
    service.external_ips.clear();
    let validation = validate_services(vec![service]);
    assert!(validation.fleet.clusters.values().next().unwrap().addresses.is_empty());
    assert!(
        validation
            .findings
            .iter()
            .any(|f| f.severity == Severity::Note && f.problem.contains("awaiting"))
    );
}

#[test]
fn short_service_names_are_completed() {
    let cluster = only(
        cluster("t")
            .annotation(annotations::PROMETHEUS_SERVICE, "prom.obs.svc")
            .annotation(annotations::THANOS_SERVICE, "side.obs"),
    );
    assert_eq!(cluster.prometheus.at.to_string(), "prom.obs.svc.cluster.local:9090");
    assert_eq!(stores(&cluster), ["side.obs.svc.cluster.local:10901"]);
}

#[test]
fn every_mistake_names_its_key_and_a_fix() {
    let cases = [
        (cluster("t").label(annotations::REPLICAS, "two"), annotations::REPLICAS),
        (cluster("t").label(annotations::REPLICAS, "0"), annotations::REPLICAS),
        (cluster("t").label(annotations::REPLICAS, "101"), annotations::REPLICAS),
        (
            cluster("t").label(annotations::REPLICAS, "50").annotation(annotations::SHARDS, "3"),
            annotations::SHARDS,
        ),
        (cluster("t").annotation(annotations::SHARDS, "-1"), annotations::SHARDS),
        (cluster("t").annotation(annotations::THANOS_SERVICE, "a b"), annotations::THANOS_SERVICE),
        (
            cluster("t").annotation(annotations::THANOS_SERVICE_PORT, "0"),
            annotations::THANOS_SERVICE_PORT,
        ),
        (
            cluster("t").annotation(annotations::PROMETHEUS_SERVICE, "x:9090"),
            annotations::PROMETHEUS_SERVICE,
        ),
        (
            cluster("t").annotation(annotations::PROMETHEUS_SERVICE_PORT, "http"),
            annotations::PROMETHEUS_SERVICE_PORT,
        ),
        (
            cluster("t").annotation(annotations::ALERTMANAGER_SERVICE, "-"),
            annotations::ALERTMANAGER_SERVICE,
        ),
        (
            cluster("t").annotation(annotations::ALERTMANAGER_SERVICE_PORT, "99999"),
            annotations::ALERTMANAGER_SERVICE_PORT,
        ),
        (cluster("t").annotation(annotations::ADDRESSES, "10.0.0.300"), annotations::ADDRESSES),
        (
            cluster("t").annotation(annotations::ADDRESSES, "169.254.169.254"),
            annotations::ADDRESSES,
        ),
        (cluster("t").annotation(annotations::ADDRESSES, "localhost:1"), annotations::ADDRESSES),
        (
            cluster("t").annotation(annotations::PROMETHEUS_NAME, "Not_A_Name"),
            annotations::PROMETHEUS_NAME,
        ),
        (
            cluster("t").annotation(annotations::THANOS_REPLICA_HOSTS, "a,,b:x"),
            annotations::THANOS_REPLICA_HOSTS,
        ),
        (
            cluster("t").annotation(annotations::PROMETHEUS_PATH_PREFIX, "prom"),
            annotations::PROMETHEUS_PATH_PREFIX,
        ),
        (
            cluster("t").annotation(annotations::ALERTMANAGER_PATH_PREFIX, "/a/../b"),
            annotations::ALERTMANAGER_PATH_PREFIX,
        ),
        (
            cluster("t").annotation(annotations::HUB_ADDRESSES, "hub:port"),
            annotations::HUB_ADDRESSES,
        ),
        (
            cluster("t").annotation(annotations::HUB_ADDRESSES, "169.254.169.254"),
            annotations::HUB_ADDRESSES,
        ),
        (
            cluster("t").annotation(annotations::ADDRESSES, "64:ff9b::a9fe:a9fe"),
            annotations::ADDRESSES,
        ),
        (cluster("t").annotation(annotations::ADDRESSES, "0x7f000001"), annotations::ADDRESSES),
        (
            cluster("t").annotation(annotations::PROMETHEUS_SERVICE, "localhost.localdomain"),
            annotations::PROMETHEUS_SERVICE,
        ),
        (
            cluster("t").annotation(annotations::THANOS_REPLICA_HOSTS, "metadata.goog"),
            annotations::THANOS_REPLICA_HOSTS,
        ),
        (cluster("t").annotation(annotations::BIND_ADDRESS, "eth0"), annotations::BIND_ADDRESS),
        (
            cluster("t").annotation(annotations::BIND_ADDRESS, "224.0.0.1"),
            annotations::BIND_ADDRESS,
        ),
        (
            cluster("t").annotation(annotations::BIND_ADDRESS, "::ffff:0.0.0.0"),
            annotations::BIND_ADDRESS,
        ),
        (cluster("t").annotation(annotations::CONNECT, "reverse"), annotations::CONNECT),
        (cluster("t").annotation(annotations::CONNECT, "pigeon"), annotations::CONNECT),
        (cluster("t").annotation(annotations::REVOKE_BELOW, "x"), annotations::REVOKE_BELOW),
        (cluster("hub"), "metadata.name"),
        (cluster("a-thanos-sidecar0"), "metadata.name"),
    ];
    for (service, key) in cases {
        let finding = rejection(service);
        assert_eq!(finding.key, key);
        assert!(!finding.problem.is_empty() && !finding.fix.is_empty(), "{finding}");
        assert!(
            !finding.problem.contains(&format!("{:?}", finding.value)),
            "the value stands there twice: {finding}"
        );
    }
}

#[test]
fn harmless_mistakes_fall_back() {
    let service = cluster("t")
        .annotation(annotations::ALLOW_PATHS, "/-/reload,debug")
        .annotation(annotations::ENVOY_SELECTORS, "nonsense");
    let validation = validate_services(vec![
        service
            .annotation(annotations::ENVOY_REPLICAS, "many")
            .annotation(annotations::CREDENTIAL_REVISION, "0"),
    ]);
    assert_eq!(validation.fleet.clusters.values().next().unwrap().allow_paths, ["/-/reload"]);
    let fell: Vec<&str> = validation
        .findings
        .iter()
        .filter(|f| f.severity == Severity::FellBack)
        .map(|f| f.key.as_str())
        .collect();
    for key in [
        annotations::ALLOW_PATHS,
        annotations::ENVOY_SELECTORS,
        annotations::ENVOY_REPLICAS,
        annotations::CREDENTIAL_REVISION,
    ] {
        assert!(fell.contains(&key), "{key} in {fell:?}");
    }
}

#[test]
fn an_allowed_path_that_is_not_refused_is_noted() {
    let validation = validate_services(vec![cluster("t").annotation(
        annotations::ALLOW_PATHS,
        "/-,/api/v1/,/graph,/-/reload,/debug/pprof,/debugger",
    )]);
    assert_eq!(
        validation.fleet.clusters.values().next().unwrap().allow_paths,
        ["/-/reload", "/debug/pprof"]
    );
    let noted: Vec<&Finding> =
        validation.findings.iter().filter(|f| f.key == annotations::ALLOW_PATHS).collect();
    assert!(
        noted.iter().all(|f| f.severity == Severity::Note
            && f.fix.contains("/-/quit")
            && f.fix.contains("/debug")),
        "{noted:?}"
    );
    let values: Vec<&str> = noted.iter().map(|f| f.value.as_str()).collect();
    assert_eq!(values, ["/-", "/api/v1", "/debugger", "/graph"]);
}

#[test]
fn a_zone_with_stores_but_no_addresses_is_warned_of() {
    let noted = |services: Vec<Service>, settings: &Settings| {
        let manifests: Vec<Manifest> = services.into_iter().map(Manifest::Service).collect();
        validate(settings, &manifests, None)
            .findings
            .into_iter()
            .filter(|f| f.key == HUB_STORE_ADDRESS)
            .count()
    };
    let mut awaiting = cluster("t");
    awaiting.external_ips.clear();
    let with_stores =
        Settings { hub_stores: vec!["10.0.0.9".parse().unwrap()], ..Settings::default() };
    assert_eq!(noted(vec![cluster("t"), cluster("u")], &Settings::default()), 1);
    assert_eq!(noted(vec![awaiting], &Settings::default()), 0);
    assert_eq!(noted(vec![cluster("t")], &with_stores), 0);
}

#[test]
fn the_service_s_own_name_for_a_store_s_port_is_kept() {
    let named = |ports: &[(&str, u16)]| {
        let ports = ports
            .iter()
            .map(|(name, port)| ServicePort { name: (*name).into(), port: *port })
            .collect();
        let cluster = Service { ports, ..cluster("t") };
        let validation = validate_services(vec![cluster]);
        let notes = validation.findings.iter().filter(|f| f.key == "spec.ports").count();
        (validation.fleet.clusters.into_values().next().unwrap().store_port_name.clone(), notes)
    };
    assert_eq!(named(&[]), ("grpc".into(), 0));
    assert_eq!(named(&[("", 10901)]), ("grpc".into(), 0));
    assert_eq!(named(&[("http", 9090), ("sidecar", 10901)]), ("sidecar".into(), 0));
    assert_eq!(named(&[("fifteen-letters", 10901)]), ("fifteen-letters".into(), 0));
    for wrong in ["sixteen-letters-", "sixteen-letterss", "a.b", "G"] {
        assert_eq!(named(&[(wrong, 10901)]), ("grpc".into(), 1), "{wrong}");
    }
}

#[test]
fn a_key_that_is_not_read_is_a_warning() {
    let validation = validate_services(vec![
        cluster("t")
            .annotation("goatlas.io/prometheus-nam", "x")
            .annotation(annotations::REPLICAS, "2"),
    ]);
    let warnings = validation.findings.iter().filter(|f| f.severity == Severity::Warning);
    let fixes: Vec<&str> = warnings.map(|f| f.fix.as_str()).collect();
    assert!(
        fixes.iter().any(|fix| fix.contains("did you mean goatlas.io/prometheus-name?")),
        "{fixes:?}"
    );
    assert!(fixes.iter().any(|fix| fix.contains("a label only")), "{fixes:?}");
}

#[test]
fn a_mistake_in_a_known_cluster_leaves_its_last_good_configuration() {
    let good = validate_services(vec![cluster("t").label(annotations::REPLICAS, "2")]);
    let wrong = Manifest::Service(cluster("t").label(annotations::REPLICAS, "2x"));
    let after = validate(&Settings::default(), &[wrong], Some(&good.fleet));
    assert_eq!(after.fleet, good.fleet);
    assert!(after.findings[0].fix.contains("last good"), "{}", after.findings[0]);
}

#[test]
fn replica_services_and_other_namespaces_are_no_clusters() {
    let mut elsewhere = cluster("far");
    elsewhere.meta.namespace = Some("default".into());
    let services = vec![
        cluster("a").label(annotations::THANOS_SIDECAR, "true"),
        cluster("b").label(annotations::CLUSTER, "false"),
        elsewhere,
    ];
    let validation = validate_services(services);
    assert!(validation.fleet.clusters.is_empty());
    assert_eq!(
        validation.findings.len(),
        1,
        "only the one elsewhere is worth a word: {:?}",
        validation.findings
    );
}

#[test]
fn the_selector_of_clusters_selects_what_is_a_cluster() {
    // Requirements of a label selector, comma-separated: `key`, `!key`, `key!=value`.
    let is_selected = |service: &Service| {
        let labels = &service.meta.labels;
        CLUSTER_SELECTOR.split(',').all(|requirement| {
            match (requirement.strip_prefix('!'), requirement.split_once("!=")) {
                (Some(key), _) => !labels.contains_key(key),
                (None, Some((key, value))) => labels.get(key).is_none_or(|found| found != value),
                (None, None) => labels.contains_key(requirement),
            }
        })
    };
    for service in [
        Service::default(),
        cluster("a"),
        cluster("a").label(annotations::CLUSTER, ""),
        cluster("a").label(annotations::CLUSTER, "false"),
        cluster("a").label(annotations::THANOS_SIDECAR, "0"),
        Service::default().label(annotations::THANOS_SIDECAR, "0"),
    ] {
        assert_eq!(is_selected(&service), is_cluster(&service), "{:?}", service.meta.labels);
    }
}

#[test]
fn local_addresses_pass_where_they_are_allowed() {
    let settings = Settings { allow_local_addresses: true, ..Settings::default() };
    let manifests =
        [Manifest::Service(cluster("t").annotation(annotations::ADDRESSES, "127.0.0.3"))];
    assert_eq!(validate(&settings, &manifests, None).fleet.clusters.len(), 1);
}

fn slice(hostnames: &[&str]) -> Manifest {
    let mut slice = EndpointSlice::default();
    slice.meta.name = "alertmanager-operated-x".into();
    slice.meta.labels.insert(annotations::SERVICE_NAME.into(), "alertmanager-operated".into());
    slice.ports = vec![
        ServicePort { name: "http-web".into(), port: 9093 },
        ServicePort { name: "mesh-tcp".into(), port: 9094 },
    ];
    let endpoint = |(n, host): (usize, &&str)| Endpoint {
        addresses: vec![format!("10.1.0.{n}")],
        hostname: Some((*host).into()),
        target: None,
    };
    slice.endpoints = hostnames.iter().enumerate().map(endpoint).collect();
    Manifest::EndpointSlice(slice)
}

fn alertmanager_service(name: &str) -> Manifest {
    Manifest::Service(
        Service { ports: vec![], ..Service::default() }
            .label("app", "kube-prometheus-stack-alertmanager")
            .named(name),
    )
}

trait Named {
    fn named(self, name: &str) -> Self;
}

impl Named for Service {
    fn named(mut self, name: &str) -> Self {
        self.meta.name = name.into();
        self
    }
}

fn alertmanagers(manifests: &[Manifest]) -> Vec<(u32, String)> {
    let fleet = validate(&Settings::default(), manifests, None).fleet;
    fleet.alertmanagers.into_iter().map(|(index, replica)| (index, replica.name)).collect()
}

#[test]
fn alertmanagers_are_indexed_by_their_pods_ordinals() {
    let slice = slice(&["alertmanager-main-1", "alertmanager-main-0"]);
    let found = alertmanagers(&[alertmanager_service("kps-alertmanager"), slice]);
    assert_eq!(found, [(0, "alertmanager-main-0".into()), (1, "alertmanager-main-1".into())]);
}

#[test]
fn an_alertmanager_without_slices_is_its_service() {
    assert_eq!(
        alertmanagers(&[alertmanager_service("kps-alertmanager")]),
        [(0, "kps-alertmanager".into())]
    );
}

#[test]
fn two_alertmanagers_behind_one_service_are_named() {
    let manifests = [slice(&["alertmanager-main-0", "alertmanager-main-1", "alertmanager-test-0"])];
    assert_eq!(
        alertmanagers(&manifests),
        [(0, "alertmanager-main-0".into()), (1, "alertmanager-main-1".into())]
    );
    let finding = validate(&Settings::default(), &manifests, None).findings.remove(0).to_string();
    for part in [
        "EndpointSlice",
        "alertmanager-operated-x",
        "endpoints",
        "alertmanager-main-N",
        "alertmanager-test-N",
        "--alertmanager-endpoints",
    ] {
        assert!(finding.contains(part), "{part}: {finding}");
    }
}

#[test]
fn an_alertmanager_at_a_local_address_is_left_out() {
    let Manifest::Service(mut service) = alertmanager_service("far") else { unreachable!() };
    service.external_name = Some("localhost".into());
    let Manifest::EndpointSlice(mut slice) = slice(&["am-0", "am-1"]) else { unreachable!() };
    slice.endpoints[0].addresses = vec!["169.254.169.254".into()];
    slice.endpoints[1].addresses.push("127.0.0.1".into());
    for (manifests, left) in
        [(vec![Manifest::Service(service)], 0), (vec![Manifest::EndpointSlice(slice)], 1)]
    {
        let strict = validate(&Settings::default(), &manifests, None);
        let addresses: usize =
            strict.fleet.alertmanagers.values().map(|replica| replica.addresses.len()).sum();
        assert_eq!(addresses, left, "{:?}", strict.fleet.alertmanagers);
        assert!(!strict.findings.is_empty());
        for finding in &strict.findings {
            assert!(
                finding.problem.contains("this address is left out")
                    && finding.fix.contains("--allow-local"),
                "{finding}"
            );
        }
        let lenient = validate(
            &Settings { allow_local_addresses: true, ..Settings::default() },
            &manifests,
            None,
        );
        assert!(
            lenient.findings.is_empty() && lenient.fleet.alertmanagers.len() > left,
            "{:?}",
            lenient.findings
        );
    }
}

proptest! {
    #[test]
    fn every_service_is_validated_or_rejected_with_a_finding(
        name in ".{0,20}|[a-z]{1,5}",
        pairs in proptest::collection::vec((0..annotations::CLUSTER_ANNOTATIONS.len(), ".{0,24}|[0-9]{1,4}|[a-z.]{1,10}(:[0-9]{1,5})?"), 0..6),
        replicas in proptest::option::of("[0-9]{1,4}|.{0,4}"),
    ) {
        let mut service = cluster(&name);
        for (key, value) in pairs {
            service = service.annotation(annotations::CLUSTER_ANNOTATIONS[key], &value);
        }
        if let Some(replicas) = replicas {
            service = service.label(annotations::REPLICAS, &replicas);
        }
        let validation = validate_services(vec![service]);
        let rejected = validation.findings.iter().any(|f| f.severity == Severity::Rejected);
        prop_assert_eq!(validation.fleet.clusters.is_empty(), rejected);
        for finding in &validation.findings {
            prop_assert!(!finding.problem.contains("BUG"), "{}", finding);
        }
    }

    #[test]
    fn the_order_of_the_manifests_does_not_matter(names in proptest::collection::btree_set("[b-g]{1,3}", 1..6), seed: u64) {
        let mut services: Vec<Service> = names.iter().map(|name| cluster(name)).collect();
        let forward = validate_services(services.clone());
        let by = services.len();
        services.rotate_left(seed as usize % by);
        prop_assert_eq!(validate_services(services), forward);
    }
}
