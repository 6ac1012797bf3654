use crate::annotations;
use crate::manifest::{Manifest, Service};
use crate::model::{Settings, Store};
use crate::validate::tests::{Keys, cluster, only, rejection, stores, validate_services};
use crate::validate::{Finding, Severity, validate};

/// Where a store is looked for, in that order, without the port that all have.
fn places(store: &Store) -> Vec<String> {
    [&store.at]
        .into_iter()
        .chain(&store.fallbacks)
        .map(|at| at.to_string().replace(":10901", ""))
        .collect()
}

fn of_service(service: &str) -> Service {
    cluster("t").label(annotations::REPLICAS, "2").annotation(annotations::THANOS_SERVICE, service)
}

fn named(service: &str) -> Service {
    of_service(service).annotation(annotations::PROMETHEUS_NAME, "k8s")
}

fn notes(service: Service) -> Vec<Finding> {
    validate_services(vec![service])
        .findings
        .into_iter()
        .filter(|finding| finding.key == annotations::PROMETHEUS_NAME)
        .collect()
}

#[test]
fn a_single_label_is_completed_where_a_pod_s_name_goes_before_it() {
    let stores_of = |service: &str| stores(&only(named(service)));
    let right: Vec<String> = (0..2)
        .map(|n| {
            format!("prometheus-k8s-{n}.prometheus-operated.monitoring.svc.cluster.local:10901")
        })
        .collect();
    for short in [
        "prometheus-operated",
        "prometheus-operated.",
        "prometheus-operated.monitoring",
        "prometheus-operated.monitoring.svc",
    ] {
        assert_eq!(stores_of(short), right, "{short}");
    }
    let sharded = only(
        named("prometheus-operated")
            .annotation(annotations::SHARDS, "2")
            .annotation(annotations::THANOS_SERVICE_PORT, "20901"),
    );
    assert_eq!(
        stores(&sharded)[3],
        "prometheus-k8s-shard-1-1.prometheus-operated.monitoring.svc.cluster.local:20901"
    );
    let settings = Settings {
        downstream_namespace: "obs".into(),
        cluster_domain: "tokyo.local".into(),
        ..Settings::default()
    };
    let validation = validate(&settings, &[Manifest::Service(named("prometheus-operated"))], None);
    let cluster = validation.fleet.clusters.values().next().unwrap();
    assert_eq!(
        cluster.stores[0].at.to_string(),
        "prometheus-k8s-0.prometheus-operated.obs.svc.tokyo.local:10901"
    );
}

/// As in Atlas 0.3: it may be in the Envoy's namespace, in `/etc/hosts` or in a container network.
#[test]
fn a_single_label_without_a_pod_is_left_to_the_search_list() {
    let lone = only(
        cluster("t")
            .annotation(annotations::THANOS_SERVICE, "prometheus-operated")
            .annotation(annotations::PROMETHEUS_SERVICE, "prom"),
    );
    assert_eq!(stores(&lone), ["prometheus-operated:10901"]);
    assert_eq!(lone.prometheus.at.to_string(), "prom:9090");
    let hosts =
        only(cluster("t").annotation(annotations::THANOS_REPLICA_HOSTS, "sidecar-a, sidecar-b:1"));
    assert_eq!(stores(&hosts), ["sidecar-a:10901", "sidecar-b:1"]);
    // The last resort is what worked in 0.3.
    let several = only(of_service("prometheus-operated"));
    let pod = "prometheus-kube-prometheus-stack-prometheus-0.prometheus-operated.monitoring.svc.cluster.local";
    assert_eq!(places(&several.stores[0]), [pod, "prometheus-operated"]);
}

#[test]
fn a_pod_has_a_name_below_the_governing_service_too() {
    let governed = "prometheus-k8s-0.prometheus-operated.mon.svc.cluster.local";
    for service in [
        "kps-thanos-discovery",
        "kps-prometheus",
        "prometheus-k8s",
        "prometheus-k8s-thanos-sidecar",
        "of-our-own",
    ] {
        for rest in ["mon", "mon.svc", "mon.svc.cluster.local", "mon.svc.cluster.local."] {
            let cluster = only(named(&format!("{service}.{rest}")));
            assert_eq!(
                places(&cluster.stores[0]),
                [&format!("prometheus-k8s-0.{service}.mon.svc.cluster.local"), governed]
            );
            assert!(
                cluster.stores.iter().all(|store| store.exact),
                "whichever name there is, it is that pod"
            );
        }
    }
    assert_eq!(
        places(&only(named("discovery.mon.svc.tokyo.local")).stores[0])[1],
        "prometheus-k8s-0.prometheus-operated.mon.svc.tokyo.local"
    );
    assert_eq!(
        places(&only(named("discovery")).stores[0])[1],
        "prometheus-k8s-0.prometheus-operated.monitoring.svc.cluster.local"
    );
    // No Service of a Kubernetes cluster, or the governing one itself.
    assert_eq!(
        places(&only(named("sidecars.example.com")).stores[0]),
        ["prometheus-k8s-0.sidecars.example.com"]
    );
    assert_eq!(places(&only(named("prometheus-operated.mon")).stores[0]), [governed]);
}

#[test]
fn without_a_name_the_service_that_is_given_comes_last() {
    let cluster = only(of_service("kps-thanos-discovery.mon"));
    let pod = "prometheus-kube-prometheus-stack-prometheus-1";
    let (given, governing) =
        ("kps-thanos-discovery.mon.svc.cluster.local", "prometheus-operated.mon.svc.cluster.local");
    assert_eq!(
        places(&cluster.stores[1]),
        [&format!("{pod}.{given}"), &format!("{pod}.{governing}"), given]
    );
    assert!(cluster.stores.iter().all(|store| !store.exact));
}

#[test]
fn a_store_is_exact_only_if_its_replica_is_named() {
    let inexact = [
        cluster("t"),
        cluster("t").label(annotations::REPLICAS, "1"),
        cluster("t").annotation(annotations::THANOS_SERVICE, "10.0.0.5"),
    ];
    for service in inexact {
        assert!(!only(service.clone()).stores[0].exact);
        let found = notes(service);
        let [note] = found.as_slice() else { panic!("{found:?}") };
        assert!(note.severity == Severity::Note && note.problem.contains("not exact"), "{note}");
        assert!(
            note.fix.contains("kubectl get prometheus")
                && note.fix.contains(annotations::THANOS_REPLICA_HOSTS),
            "{note}"
        );
    }
    let exact = [
        cluster("t").annotation(annotations::PROMETHEUS_NAME, "k8s"),
        cluster("t").annotation(annotations::THANOS_REPLICA_HOSTS, "query.mon"),
    ];
    for service in exact {
        assert!(only(service.clone()).stores[0].exact);
        assert_eq!(notes(service), []);
    }
}

#[test]
fn a_name_that_no_pod_s_fits_before_is_refused() {
    let label = "a".repeat(60);
    let finding = rejection(named(&[label.as_str(); 4].join(".")));
    assert!(
        finding.key == annotations::THANOS_SERVICE && finding.problem.contains("too long"),
        "{finding}"
    );
}
