//! Wrong values are rejected, and the error names the mistake.

use super::*;

/// Values that a chart rejects, and a part of Helm's error.
const REJECTED: &[(&str, &str, &str)] = &[
    ("envoy", "servce: {type: NodePort}", "'servce' not allowed"),
    ("envoy", "service: {typ: NodePort}", "'typ' not allowed"),
    ("envoy", "service: {type: Loadbalancer}", "/service/type"),
    ("envoy", "service: {nodePorts: {thanos: 31901}}", "'thanos' not allowed"),
    ("envoy", "replicaCount: two", "/replicaCount"),
    ("envoy", "files: {server.pem: of-0.3}", "'server.pem' not allowed"),
    ("envoy", "files: {tls.key: [1]}", "/files/tls.key"),
    ("envoy", "args: [-c, /config/envoy.yaml]", "'args' not allowed"),
    ("envoy", "ports: {hub: {hostPort: 70000}}", "/ports/hub/hostPort"),
    ("envoy", "ports: {hub: {hostport: 11901}}", "'hostport' not allowed"),
    ("envoy", "image: {tag: 1.40}", "/image/tag"),
    ("envoy", "image: {digest: sha256:abc}", "/image/digest"),
    ("envoy", "podAnnotations: {number: 1}", "/podAnnotations/number"),
    ("envoy", "startupProbe: {tcpSocket: {port: admin}}", "'tcpSocket' not allowed"),
    ("envoy", "atlas: {alertmanagerCount: -1}", "/atlas/alertmanagerCount"),
    ("envoy", "existingSecret: Not_A_Name", "/existingSecret"),
    ("envoy", "networkPolicy: {prometheus: [{cidr: 192.0.2.0/24}]}", "'cidr' not allowed"),
    (
        "envoy",
        "{}",
        "files: \"envoy.yaml\" is missing or empty. Give the values that Atlas generated",
    ),
    ("atlas", "atlas: {hubAdress: hub.example.com}", "'hubAdress' not allowed"),
    ("atlas", "atlas: {logFormat: yaml}", "/atlas/logFormat"),
    ("atlas", "atlas: {alertmanagerPathPrefix: alerts}", "/atlas/alertmanagerPathPrefix"),
    ("atlas", "envoy: {templates: {envoy.yaml: of-0.3}}", "'templates' not allowed"),
    ("atlas", "envoy: {service: {clusterIP: host.example.com}}", "/envoy/service/clusterIP"),
    ("atlas", "envoy: {resource: {}}", "'resource' not allowed"),
    ("atlas", "split: \"yes\"", "/split"),
    ("atlas", "dns: {clusterIP: 10.43.43.10}", "'clusterIP' not allowed"),
    ("atlas", "podDisruptionBudget: {minAvailible: 1}", "'minAvailible' not allowed"),
    ("atlas", "ingress: {enabled: true}", "ingress.hosts is empty: give the host names"),
    ("atlas", "ingress: {enabled: true, hosts: [hub.example.com]}", "/ingress/hosts/0"),
    ("atlas", "coredns: {service: {clusterIP: 1043}}", "/coredns/service/clusterIP"),
];

#[test]
fn both_helms_reject_misspelt_keys_and_wrong_types() {
    for (chart, values, expected) in REJECTED {
        for helm in HELMS {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), values).unwrap();
            let path = file.path().to_string_lossy().into_owned();
            match template(helm, chart, &["x", "--values", &path]) {
                Ok(_) => panic!("{helm} renders {chart} with {values}"),
                Err(error) => assert!(
                    error.to_string().contains(expected),
                    "{helm}, {chart}, {values}: no {expected:?} in\n{error}"
                ),
            }
        }
    }
}

#[test]
fn a_missing_file_of_the_generated_values_is_named() {
    let case = case("envoy", "defaults").unwrap();
    for file in ["envoy.yaml", "leaf.yaml", "trust.yaml", "tls.crt", "tls.key", "ca.crt"] {
        let unset = format!("files.{}=", file.replace('.', "\\."));
        let error = case.objects(&["--set", &unset]).unwrap_err().to_string();
        assert!(error.contains(&format!("files: {file:?} is missing")), "{error}");
    }
}

#[test]
fn values_of_platforms_are_accepted() {
    let open = [
        "imagePullSecrets: [one, {name: two}]",
        "tolerations: [{key: any, operator: Exists, tolerationSeconds: 3}]",
        "affinity: {nodeAffinity: {anything: true}}",
        "podAnnotations: {any.example/annotation: \"1\"}",
        "env: {A: 1, B: text, C: true, D: {valueFrom: {fieldRef: {fieldPath: metadata.name}}}}",
        "resources: {limits: {example.com/nic: 1}}",
        "podSecurityContext: {fsGroup: 1000, supplementalGroups: [1]}",
        "global: {anything: of a parent chart}",
        "podDisruptionBudget: \"minAvailable: 1\"",
    ];
    for chart in CHARTS {
        let defaults = case(chart, "defaults").unwrap();
        for values in open {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), values).unwrap();
            let rendered = defaults.objects(&["--values", &file.path().to_string_lossy()]);
            rendered.unwrap_or_else(|error| panic!("{chart} with {values}: {error:#}"));
        }
    }
}
