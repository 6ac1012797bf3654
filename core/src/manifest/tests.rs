use proptest::prelude::*;

use super::*;
use crate::fact::{Endpoint, EndpointSlice, Service, ServicePort};

const TOKYO: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: tokyo
  namespace: monitoring
  labels:
    goatlas.io/cluster: \"true\"
    goatlas.io/replicas: \"2\"
  annotations:
    goatlas.io/shards: \"3\"
spec:
  clusterIP: None
  externalIPs:
    - 192.0.2.1
    - fd00::1
  ports:
    - name: grpc
      port: 10901
";

/// A cluster's Service with these lines in place of its spec.
fn service(lines: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: tokyo, labels: {{goatlas.io/cluster: \"true\"}}}}\n{lines}")
}

fn facts(text: &str) -> Vec<Fact> {
    parse("a.yaml", text).unwrap_or_else(|errors| panic!("{errors:#?}\nin\n{text}"))
}

fn only_service(text: &str) -> Service {
    match <[Fact; 1]>::try_from(facts(text)) {
        Ok([Fact::Service(service)]) => service,
        other => panic!("{other:#?}"),
    }
}

/// The errors as people see them, without the file's name.
fn errors(text: &str) -> Vec<String> {
    let errors = parse("a.yaml", text).expect_err("the manifest is wrong");
    errors.iter().map(|error| error.to_string().strip_prefix("a.yaml:").expect("a place").to_owned()).collect()
}

fn only_error(text: &str) -> String {
    match <[String; 1]>::try_from(errors(text)) {
        Ok([error]) => error,
        Err(other) => panic!("{other:#?}"),
    }
}

#[test]
fn a_service_is_read_with_the_line_of_every_key() {
    let service = only_service(TOKYO);
    assert_eq!(service.meta.name, "tokyo");
    assert_eq!(service.meta.namespace.as_deref(), Some("monitoring"));
    assert_eq!(service.meta.labels["goatlas.io/replicas"], "2");
    assert_eq!(service.meta.annotations["goatlas.io/shards"], "3");
    assert_eq!(service.external_ips, ["192.0.2.1", "fd00::1"]);
    assert_eq!(service.ports, [ServicePort { name: "grpc".into(), port: 10901 }]);
    let origin = &service.meta.origin;
    assert_eq!((origin.file.as_deref(), origin.line), (Some("a.yaml"), 1));
    let lines: Vec<(&str, u32)> = origin.lines.iter().map(|(key, line)| (key.as_str(), *line)).collect();
    let expected = [
        ("goatlas.io/cluster", 7),
        ("goatlas.io/replicas", 8),
        ("goatlas.io/shards", 10),
        ("metadata.name", 4),
        ("metadata.namespace", 5),
        ("spec.externalIPs", 13),
        ("spec.ports", 16),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn lines_count_on_through_documents_and_any_line_break() {
    let text = format!("# hub\n---\n{TOKYO}---\n# two\n\n{}", TOKYO.replace("tokyo", "osaka"));
    for line_break in ["\n", "\r\n", "\r"] {
        let facts = facts(&text.replace('\n', line_break));
        let lines: Vec<u32> = facts.iter().map(|fact| fact.meta().origin.line).collect();
        assert_eq!(lines, [3, 24], "{line_break:?}");
        assert_eq!(facts[1].meta().origin.line_of("goatlas.io/replicas"), 31);
    }
}

#[test]
fn an_external_name_is_read() {
    let service = only_service(&service("spec:\n  type: ExternalName\n  externalName: envoy.tokyo.example\n"));
    assert_eq!(service.external_name.as_deref(), Some("envoy.tokyo.example"));
    assert_eq!(service.meta.origin.line_of("spec.externalName"), 6);
}

#[test]
fn an_endpoint_slice_is_read_whether_its_endpoints_are_ready_or_not() {
    let text = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: am-x7k2p, generateName: am-, labels: {kubernetes.io/service-name: am}}
addressType: IPv4
endpoints:
  - addresses: [10.0.0.1]
    hostname: am-0
    conditions: {ready: true}
    targetRef: {kind: Pod, name: am-0}
  - addresses: [10.0.0.2, 10.0.0.3]
    conditions: {ready: false}
ports:
  - name: http-web
    port: 9093
  - port: 9094
  - name: every-port
    port: null
";
    let Ok([Fact::EndpointSlice(slice)]) = <[Fact; 1]>::try_from(facts(text)) else { panic!("one slice") };
    assert_eq!(slice.meta.labels["kubernetes.io/service-name"], "am");
    let ready = Endpoint { addresses: vec!["10.0.0.1".into()], hostname: Some("am-0".into()), target: Some("am-0".into()) };
    let starting = Endpoint { addresses: vec!["10.0.0.2".into(), "10.0.0.3".into()], ..Endpoint::default() };
    assert_eq!(slice.endpoints, [ready, starting]);
    let port = |name: &str, port| ServicePort { name: name.into(), port };
    assert_eq!(slice.ports, [port("http-web", 9093), port("", 9094)]);
}

#[test]
fn an_endpoint_slice_without_endpoints_is_read() {
    let text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: am}\nendpoints: null\nports: null\n";
    assert!(matches!(facts(text).as_slice(), [Fact::EndpointSlice(EndpointSlice { endpoints, .. })] if endpoints.is_empty()));
}

#[test]
fn json_is_read_with_tabs_and_lines() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\n\t\t\"name\": \"tokyo\",\n\t\t\"labels\": {\"goatlas.io/cluster\": \"true\"}\n\t},\n\t\"spec\": {\"externalIPs\": [\"fd00::1\"], \"ports\": [{\"port\": 10901}]}\n}\n";
    let service = only_service(text);
    assert_eq!(service.external_ips, ["fd00::1"]);
    assert_eq!(service.ports[0].port, 10901);
    assert_eq!(service.meta.origin.line_of("goatlas.io/cluster"), 6);
}

#[test]
fn the_items_of_a_list_are_read() {
    let text = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata:
    name: tokyo
- apiVersion: v1
  kind: ConfigMap
- apiVersion: v1
  kind: List
  items:
  - {apiVersion: v1, kind: Service, metadata: {name: osaka}}
";
    let places: Vec<_> = facts(text).iter().map(|fact| (fact.meta().name.clone(), fact.meta().origin.line)).collect();
    assert_eq!(places, [("tokyo".to_owned(), 4), ("osaka".to_owned(), 13)]);
    assert_eq!(
        only_error("apiVersion: v1\nkind: List\nitems:\n- kind: Pod\n"),
        "4: items[0].apiVersion: is missing: if this is no Kubernetes object, move it out of this directory"
    );
}

#[test]
fn lists_of_one_kind_are_read_although_their_items_do_not_say_it() {
    let text = "\
apiVersion: v1
kind: ServiceList
items:
- metadata: {name: tokyo}
- {apiVersion: v1, kind: Service, metadata: {name: osaka}}
- {apiVersion: v1, kind: ConfigMap}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- metadata: {name: am-1, labels: {kubernetes.io/service-name: am}}
  endpoints: [{addresses: [10.0.0.1]}]
";
    let found: Vec<_> = facts(text).iter().map(|fact| (fact.kind(), fact.meta().name.clone(), fact.meta().origin.line)).collect();
    let expected = [("Service", "tokyo", 4), ("Service", "osaka", 5), ("EndpointSlice", "am-1", 11)];
    assert_eq!(found, expected.map(|(kind, name, line)| (kind, name.to_owned(), line)));
    let half = "apiVersion: v1\nkind: ServiceList\nitems:\n- {kind: Service, metadata: {name: tokyo}}\n";
    assert!(only_error(half).starts_with("4: items[0].apiVersion: is missing"), "{}", only_error(half));
}

#[test]
fn older_endpoint_slices_are_read() {
    let text = |version: &str| {
        format!(
            "apiVersion: discovery.k8s.io/{version}\nkind: EndpointSlice\nmetadata: {{name: am-1}}\n\
             endpoints: [{{addresses: [10.0.0.1], hostname: am-0}}]\nports: [{{name: web, port: 9093}}]\n"
        )
    };
    assert_eq!(facts(&text("v1beta1")), facts(&text("v1")));
    assert_eq!(only_error(&text("v1alpha1")), r#"1: apiVersion: must be written discovery.k8s.io/v1, is "discovery.k8s.io/v1alpha1""#);
}

#[test]
fn endpoints_are_read_as_slices_of_the_service_of_their_name() {
    let text = "\
apiVersion: v1
kind: Endpoints
metadata: {name: am, namespace: monitoring}
subsets:
- addresses:
  - {ip: 10.0.0.1, hostname: am-0, targetRef: {kind: Pod, name: am-0}}
  notReadyAddresses:
  - {ip: 10.0.0.2}
  ports: [{name: web, port: 9093}]
- addresses: [{ip: 10.0.0.3}]
  ports: [{port: 9095}]
";
    let slices: Vec<EndpointSlice> =
        facts(text).into_iter().map(|fact| if let Fact::EndpointSlice(slice) = fact { slice } else { panic!("{fact:?}") }).collect();
    let addresses: Vec<Vec<&str>> =
        slices.iter().map(|slice| slice.endpoints.iter().flat_map(|one| &one.addresses).map(String::as_str).collect()).collect();
    assert_eq!(addresses, [vec!["10.0.0.1", "10.0.0.2"], vec!["10.0.0.3"]]);
    assert_eq!(slices[0].endpoints[0].hostname.as_deref(), Some("am-0"));
    assert_eq!((slices[0].ports[0].port, slices[1].ports[0].port), (9093, 9095));
    assert!(slices.iter().all(|slice| slice.meta.labels["kubernetes.io/service-name"] == "am"));
    // A slice of their Service may stand beside them.
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: am, namespace: monitoring}\n";
    assert_eq!(facts(&format!("{text}{slice}")).len(), 3);
}

#[test]
fn a_kind_that_is_nearly_one_that_is_read_is_named() {
    let wrong = |version: &str, kind: &str| only_error(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"));
    for (version, kind, message) in [
        ("v1", "service", r#"2: kind: must be written Service, is "service""#),
        ("v1", "Servicelist", r#"2: kind: must be written ServiceList, is "Servicelist""#),
        ("v1", "list", r#"2: kind: must be written List, is "list""#),
        ("v1", "endpoints", r#"2: kind: must be written Endpoints, is "endpoints""#),
        ("discovery.k8s.io/v1", "endpointSlice", r#"2: kind: must be written EndpointSlice, is "endpointSlice""#),
        ("v1beta1", "Service", r#"1: apiVersion: must be written v1, is "v1beta1""#),
        ("core/v1", "Service", r#"1: apiVersion: must be written v1, is "core/v1""#),
        ("v2", "List", r#"1: apiVersion: must be written v1, is "v2""#),
        ("v1", "EndpointSlice", r#"1: apiVersion: must be written discovery.k8s.io/v1, is "v1""#),
        ("discovery.k8s.io/v2", "EndpointSliceList", r#"1: apiVersion: must be written discovery.k8s.io/v1, is "discovery.k8s.io/v2""#),
    ] {
        assert_eq!(wrong(version, kind), message);
    }
    for (version, kind) in [("serving.knative.dev/v1", "Service"), ("example.com/v1", "List"), ("v1", "ConfigMapList"), ("v1", "Pod")] {
        assert_eq!(facts(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{}}\n")), []);
    }
}

#[test]
fn what_is_empty_has_no_facts() {
    for text in ["", "\n", "# nothing yet\n", "---\n", "---\n# nothing\n---\n...\n", "\u{feff}", "null\n"] {
        assert_eq!(facts(text), [], "{text:?}");
    }
}

#[test]
fn other_kinds_are_passed_over_whatever_they_say() {
    let text = "\
apiVersion: v1
kind: ConfigMap
metadata: 3
data: {port: yes}
---
apiVersion: v1
kind: Endpoints
metadata: {name: old}
subsets: []
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {}
---
apiVersion: v1
kind: Secret
stringData:
  goatlas.io/cluster: true
";
    assert_eq!(facts(text), []);
}

#[test]
fn mappings_and_lists_with_nothing_behind_them_are_empty() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: tokyo\n  namespace:\n  labels:\n  annotations: ~\nspec:\n  externalIPs:\n  ports: null\n";
    let service = only_service(text);
    assert_eq!((service.meta.labels.len(), service.meta.annotations.len(), service.meta.namespace), (0, 0, None));
    assert_eq!(only_service(&self::service("spec:\n")).ports, []);
}

#[test]
fn aliases_and_merge_keys_work() {
    let text = "\
apiVersion: v1
kind: Service
metadata:
  name: &name tokyo
  labels: &labels
    goatlas.io/cluster: \"true\"
    city: *name
  annotations:
    <<: *labels
    city: kyoto
spec:
  externalIPs: &ips [192.0.2.1]
  <<: [{externalIPs: [192.0.2.9], ports: [{port: 1}]}, {ports: [{port: 2}]}]
";
    let service = only_service(text);
    assert_eq!(service.meta.labels["city"], "tokyo");
    assert_eq!(service.meta.annotations["city"], "kyoto", "the mapping's own key wins");
    assert_eq!(service.meta.annotations["goatlas.io/cluster"], "true");
    assert_eq!(service.external_ips, ["192.0.2.1"]);
    assert_eq!(service.ports[0].port, 1, "of merged mappings the first wins");
}

#[test]
fn aliases_must_name_what_ends_above_them_in_the_same_document() {
    assert_eq!(
        only_error("a: *x\n"),
        "1: a: is not YAML: while parsing node, found unknown anchor: an alias (*name) must name an anchor (&name) above it; text that begins with * needs quotes"
    );
    let message = "an alias (*name) must name an anchor (&name) that ends above it in the same document";
    assert_eq!(only_error("a: &x 1\n---\nb: *x\n"), format!("3: b: {message}"));
    assert_eq!(only_error("a: &x\n  b: *x\n"), format!("2: a.b: {message}"));
}

#[test]
fn merging_something_else_than_a_mapping_is_refused() {
    assert_eq!(only_error("a:\n  <<: text\n"), r#"2: a["<<"]: must be a mapping to merge, or a list of mappings"#);
    assert_eq!(only_error("<<: [{}, 1]\n"), r#"1: ["<<"]: must be a mapping to merge, or a list of mappings"#);
}

#[test]
fn a_value_that_yaml_takes_for_something_else_than_text_needs_quotes() {
    let label = |value: &str| {
        only_error(&format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: tokyo\n  labels:\n    goatlas.io/replicas: {value}\n"))
    };
    let key = r#"6: metadata.labels["goatlas.io/replicas"]: must be a string, "#;
    assert_eq!(label("2"), format!(r#"{key}is the number 2: write "2" in quotes"#));
    assert_eq!(label("1_0.5"), format!(r#"{key}is the number 1_0.5: write "1_0.5" in quotes"#));
    assert_eq!(label("true"), format!(r#"{key}is the boolean true: write "true" in quotes"#));
    assert_eq!(label("yes"), format!(r#"{key}is yes, which Kubernetes takes for a boolean: write "yes" in quotes"#));
    assert_eq!(label(""), format!(r#"{key}has no value: write one, or """#));
    assert_eq!(label("[a]"), format!("{key}is a list: write the items into one string, separated by commas"));
    assert_eq!(label("{a: b}"), format!("{key}is a mapping: text that contains ': ' or ends in ':' needs quotes"));
}

#[test]
fn quoted_and_tagged_values_are_text() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: '7'\n  labels: {goatlas.io/cluster: !!str true, a: \"2\", b: !!str 3, c: 'yes', d: \"\"}\n  annotations:\n    e: |-\n      4\n";
    let meta = only_service(text).meta;
    assert_eq!(meta.name, "7");
    assert_eq!(meta.labels.values().collect::<Vec<_>>(), ["2", "3", "yes", "", "true"]);
    assert_eq!(meta.annotations["e"], "4");
}

#[test]
fn every_mistake_of_a_file_is_told_in_order() {
    let text =
        "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {a: 1, goatlas.io/cluster: on}\nspec:\n  externalIPs: x\n---\nfoo: bar\n";
    let elsewhere = "if this is no Kubernetes object, move it out of this directory";
    let expected = [
        "3: metadata.name: is missing".to_owned(),
        r#"4: metadata.labels.a: must be a string, is the number 1: write "1" in quotes"#.to_owned(),
        r#"4: metadata.labels["goatlas.io/cluster"]: must be a string, is on, which Kubernetes takes for a boolean: write "on" in quotes"#
            .to_owned(),
        r#"6: spec.externalIPs: must be a list, is the string "x": begin each item with '- '"#.to_owned(),
        format!("8: apiVersion: is missing: {elsewhere}"),
        format!("8: kind: is missing: {elsewhere}"),
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn too_many_mistakes_are_counted_instead_of_told() {
    let labels: String = (0..60).map(|i| format!("    k{i}: 1\n")).collect();
    let errors = parse("a.yaml", &format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n{labels}")).expect_err("wrong");
    assert_eq!(errors.len(), 51);
    assert_eq!(errors[50].to_string(), "a.yaml: 10 more errors are not shown");
}

#[test]
fn a_name_is_needed_and_is_text() {
    assert_eq!(only_error("apiVersion: v1\nkind: Service\n"), "1: metadata: is missing, and with it metadata.name");
    assert_eq!(only_error("apiVersion: v1\nkind: Service\nmetadata: {}\n"), "3: metadata.name: is missing");
    assert_eq!(only_error("apiVersion: v1\nkind: Service\nmetadata: {name: ''}\n"), "3: metadata.name: is empty: write a name");
    assert_eq!(only_error("apiVersion: v1\nkind: Service\nmetadata: tokyo\n"), r#"3: metadata: must be a mapping, is the string "tokyo""#);
    assert_eq!(
        only_error("apiVersion: v1\nkind: Service\nmetadata:\n  name: 81\n"),
        r#"4: metadata.name: must be a string, is the number 81: write "81" in quotes"#
    );
}

#[test]
fn a_generated_name_is_refused_with_what_to_write() {
    assert_eq!(
        only_error("apiVersion: v1\nkind: Service\nmetadata:\n  labels: {goatlas.io/cluster: \"true\"}\n  generateName: tokyo-\n"),
        "5: metadata.name: is missing: a cluster is called after its Service, so the name cannot be generated: write `name: tokyo` instead of `generateName: tokyo-`"
    );
}

#[test]
fn only_a_cluster_needs_a_name() {
    let slice =
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {generateName: am-, labels: {kubernetes.io/service-name: am}}\n";
    let other = "apiVersion: v1\nkind: Service\nmetadata:\n  generateName: web-\n";
    let facts = facts(&[TOKYO, slice, other, slice].join("---\n"));
    let names: Vec<&str> = facts.iter().map(|fact| fact.meta().name.as_str()).collect();
    let nameless = |prefix: &str, n: u32| format!("{prefix}-(nameless object {n} of a.yaml)");
    assert_eq!(names, ["tokyo", &nameless("am", 1), &nameless("web", 2), &nameless("am", 3)]);
}

#[test]
fn what_only_a_cluster_has_need_not_be_right_elsewhere() {
    let wrong = |labels: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  labels: {{{labels}}}\n  annotations: {{prometheus.io/scrape: true, x: }}\n\
             spec: {{externalIPs: 10.0.0.1, ports: [{{port: 80}}]}}\n"
        )
    };
    for other in ["app: web", "goatlas.io/cluster: \"false\""] {
        let web = only_service(&wrong(other));
        assert_eq!((web.meta.annotations.len(), web.external_ips.len(), web.ports.len()), (0, 0, 1));
    }
    // However the label's value is written, a cluster is meant.
    for cluster in ["goatlas.io/cluster: \"true\"", "goatlas.io/cluster: true", "goatlas.io/cluster: {}"] {
        let errors = errors(&wrong(cluster));
        for key in [r#"annotations["prometheus.io/scrape"]"#, "annotations.x", "spec.externalIPs"] {
            assert!(errors.iter().any(|error| error.contains(key)), "{key}: {errors:?}");
        }
    }
}

#[test]
fn what_kind_of_address_kubernetes_gave_a_service_is_read() {
    let read = |spec: &str| {
        let service = only_service(&service(&format!("spec: {spec}\n")));
        (service.cluster_ip, service.load_balancer, service.external_name.is_some())
    };
    assert_eq!(read("{clusterIP: 10.43.0.7}"), (true, false, false));
    assert_eq!(read("{clusterIP: 'fd00::7', type: LoadBalancer}"), (true, true, false));
    for none in ["{clusterIP: None}", "{clusterIP: ''}", "{clusterIP: }", "{clusterIP: [10.43.0.7]}", "{}"] {
        assert_eq!(read(none), (false, false, false), "{none}");
    }
    assert_eq!(read("{type: ExternalName, externalName: a.example}"), (false, false, true));
    assert_eq!(read("{externalName: a.example}"), (false, false, true));
    assert_eq!(read("{type: ClusterIP, externalName: a.example}"), (false, false, false), "Kubernetes makes nothing of it either");
}

#[test]
fn lists_of_addresses_hold_strings() {
    assert_eq!(
        only_error(&service("spec:\n  externalIPs: 192.0.2.1\n")),
        r#"5: spec.externalIPs: must be a list, is the string "192.0.2.1": begin each item with '- '"#
    );
    assert_eq!(
        only_error(&service("spec:\n  externalIPs:\n    - 192.0.2.1\n    - 192\n")),
        r#"7: spec.externalIPs[1]: must be a string, is the number 192: write "192" in quotes"#
    );
    assert_eq!(only_error(&service("spec: []\n")), "4: spec: must be a mapping, is a list");
    assert_eq!(only_error(&service("spec: {ports: [80]}\n")), "4: spec.ports[0]: must be a mapping, is the number 80");
}

#[test]
fn ports_are_whole_numbers_from_1_to_65535() {
    let port = |value: &str| only_error(&service(&format!("spec:\n  ports:\n    - name: grpc\n      port: {value}\n")));
    assert_eq!(port("70000"), "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 70000");
    assert_eq!(port("0"), "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 0");
    assert_eq!(port("-1"), "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number -1");
    assert_eq!(port("010"), "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 010");
    assert_eq!(port("1.5"), "7: spec.ports[0].port: must be a port from 1 to 65535 in plain digits, is the number 1.5");
    assert_eq!(port("\"10901\""), r#"7: spec.ports[0].port: must be a number, is the string "10901": remove the quotes"#);
    assert_eq!(port("grpc"), r#"7: spec.ports[0].port: must be a port from 1 to 65535, is the string "grpc""#);
    assert_eq!(port(""), "7: spec.ports[0].port: is missing: write a number from 1 to 65535");
}

#[test]
fn the_same_object_twice_is_refused_with_both_lines() {
    let message = "Service monitoring/tokyo is already on line 4: remove one of the two";
    assert_eq!(only_error(&format!("{TOKYO}---\n{TOKYO}")), format!("23: metadata.name: {message}"));
    let elsewhere = TOKYO.replace("namespace: monitoring", "namespace: other");
    assert_eq!(facts(&format!("{TOKYO}---\n{elsewhere}")).len(), 2);
}

#[test]
fn the_same_key_twice_is_refused_with_both_lines() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  labels:\n    b: x\n    c: y\n    b: z\n";
    assert_eq!(only_error(text), "8: metadata.labels.b: is already on line 6: remove one of the two");
    assert_eq!(only_error("a: [1, {b: 1, b: 2}]\n"), "1: a[1].b: is already on line 1: remove one of the two");
}

#[test]
fn a_document_that_is_no_object_is_refused() {
    let elsewhere = "if this is no Kubernetes object, move it out of this directory";
    assert_eq!(
        only_error("hello\n"),
        format!(r#"1: must be a Kubernetes object with apiVersion and kind, is the string "hello": {elsewhere}"#)
    );
    assert_eq!(only_error("- a\n"), format!("1: must be a Kubernetes object with apiVersion and kind, is a list: {elsewhere}"));
    assert_eq!(only_error("apiVersion: v1\nkind:\n"), format!("2: kind: is missing: {elsewhere}"));
    assert_eq!(only_error("apiVersion: v1\nkind: service\n"), r#"2: kind: must be written Service, is "service""#);
    assert_eq!(only_error("apiVersion: 1\nkind: Service\n"), r#"1: apiVersion: must be a string, is the number 1: write "1" in quotes"#);
}

#[test]
fn tabs_are_named() {
    let message = "is indented with a tab: YAML wants spaces there";
    assert_eq!(only_error("a:\n\tb: c\n"), format!("2: a: {message}"));
    assert_eq!(only_error("a: b\n\tc: d\n"), format!("2: a: {message}"));
    assert_eq!(only_error("a:\n  b: c\n \td: e\n"), format!("3: a.b: {message}"));
}

#[test]
fn syntax_errors_have_line_key_and_a_hint() {
    let cases = [
        (
            "a:\n  b: c: d\n",
            "2: a: is not YAML: mapping values are not allowed in this context: check the indentation of this line and the one above; text that contains ': ' needs quotes",
        ),
        (
            "a: [1,\nb: c\n",
            "2: a[1]: is not YAML: invalid indentation in flow construct: is a bracket or quote above this line not closed?",
        ),
        ("a: [\n1]\n", "2: a[0]: is not YAML: invalid indentation: indent this line further"),
        ("a:\tb\n", "1: is not YAML: ':' must be followed by a valid YAML whitespace: write a space there, not a tab"),
        ("a: 'x\nb: c\n", "1: a: is not YAML: invalid indentation in quoted scalar: is a quote not closed?"),
        ("a: @b\n", "1: a: is not YAML: unexpected character: `@': text that begins with this character needs quotes"),
        (
            "a: 1\n   b: 2\n",
            "2: is not YAML: mapping values are not allowed in this context: check the indentation of this line and the one above; text that contains ': ' needs quotes",
        ),
        ("{{ if x }}\na: b\n", "1: a key must be text, is a list or a mapping: if this file is a template ({{ … }}), render it first"),
        ("a: b{{ x }}: c\n", "1: is not YAML: mapping values are not allowed in this context: if this file is a template, render it first"),
        (": b\n", "1: a key is missing before ':'"),
    ];
    for (text, expected) in cases {
        assert_eq!(only_error(text), expected, "{text:?}");
    }
}

#[test]
fn binary_is_refused_before_yaml_could_stop_at_it() {
    assert_eq!(only_error("a: b\n\0kind"), "2: contains the control character U+0000: is this a text file?");
    assert_eq!(only_error("\u{7f}ELF"), "1: contains the control character U+007F: is this a text file?");
}

#[test]
fn deep_nesting_is_refused() {
    let too_deep = "nests more than 128 levels deep";
    for text in ["- ".repeat(1 << 20), "? ".repeat(1 << 20)] {
        assert!(only_error(&text).ends_with(too_deep), "{}", &text[..8]);
    }
    for text in ["[".repeat(1 << 20), "{a: ".repeat(1 << 20)] {
        assert!(only_error(&text).ends_with("it nests too deep"), "{}", &text[..8]);
    }
    let chain: String = (1..200).map(|i| format!("  - &a{i} [*a{}]\n", i - 1)).collect();
    assert!(only_error(&format!("apiVersion: v1\nkind: X\nx:\n  - &a0 []\n{chain}")).contains(too_deep), "through aliases");
}

#[test]
fn nesting_as_deep_as_a_schema_is_read() {
    assert_eq!(facts(&format!("apiVersion: v1\nkind: X\nx: {}{}\n", "[".repeat(127), "]".repeat(127))), []);
}

#[test]
fn alias_bombs_are_refused() {
    let bomb: String = (1..30).map(|i| format!("l{i}: &l{i} [{}]\n", vec![format!("*l{}", i - 1); 10].join(", "))).collect();
    assert!(only_error(&format!("l0: &l0 [lol]\n{bomb}")).contains("repeat more than 1 MiB"));
    let long = "x".repeat(1 << 16);
    assert!(only_error(&format!("a: &a {long}\nb: [{}]\n", "*a, ".repeat(100))).contains("repeat more than 1 MiB"));
}

#[test]
fn an_error_of_the_whole_file_has_no_line() {
    let error = ManifestError { file: "a.yaml".into(), line: 0, key: String::new(), message: "is unreadable".into() };
    assert_eq!(error.to_string(), "a.yaml: is unreadable");
}

/// Text made of what YAML is made of, so that more than its first token is read.
fn yamlish() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "apiVersion: v1",
        "kind: Service",
        "kind: List",
        "items:",
        "metadata:",
        "name: a",
        "labels:",
        "spec:",
        "ports:",
        "port: 1",
        "a",
        "b: ",
        "- ",
        "? ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "---",
        "...",
        "|",
        ">-",
        "'",
        "\"",
        "\\",
        "#",
        "%YAML 1.2",
        "\t",
        "\n",
        "\n",
        "\n  ",
        "\n    ",
        "\r",
        " ",
        "\u{feff}",
        "\u{85}",
        "\0",
        "é",
        "~",
        "0x1",
        "yes",
    ]);
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![any::<String>(), yamlish(), ".*"]) {
        let _ = parse("a.yaml", &text);
        let _ = remove_document("a.yaml", &text, "a");
    }

    #[test]
    fn no_cut_or_damaged_manifest_makes_it_panic(at in 0..TOKYO.len(), junk in any::<char>()) {
        let _ = parse("a.yaml", &TOKYO[..at]);
        let mut damaged = TOKYO.to_owned();
        damaged.insert(at, junk);
        let _ = parse("a.yaml", &damaged);
    }

    #[test]
    fn every_error_names_the_file_and_a_line_of_it(text in yamlish()) {
        for error in parse("a.yaml", &text).err().into_iter().flatten() {
            let lines = u32::try_from(syntax::line_starts(&text).count()).expect("few");
            prop_assert!(error.line <= lines + 1, "{error} of {lines}");
            prop_assert!(error.to_string().starts_with("a.yaml"));
        }
    }
}
