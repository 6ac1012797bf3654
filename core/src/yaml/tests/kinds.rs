//! Which kinds are read, alone and in lists.

use super::*;

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
    let Ok([Manifest::EndpointSlice(slice)]) = <[Manifest; 1]>::try_from(manifests(text)) else {
        panic!("one slice")
    };
    assert_eq!(slice.meta.labels["kubernetes.io/service-name"], "am");
    let ready = Endpoint {
        addresses: vec!["10.0.0.1".into()],
        hostname: Some("am-0".into()),
        target: Some("am-0".into()),
    };
    let starting =
        Endpoint { addresses: vec!["10.0.0.2".into(), "10.0.0.3".into()], ..Endpoint::default() };
    assert_eq!(slice.endpoints, [ready, starting]);
    let port = |name: &str, port| ServicePort { name: name.into(), port };
    assert_eq!(slice.ports, [port("http-web", 9093), port("", 9094)]);
}

#[test]
fn an_endpoint_slice_without_endpoints_is_read() {
    let text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: am}\nendpoints: null\nports: null\n";
    assert!(
        matches!(manifests(text).as_slice(), [Manifest::EndpointSlice(EndpointSlice { endpoints, .. })] if endpoints.is_empty())
    );
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
    let places: Vec<_> = manifests(text)
        .iter()
        .map(|manifest| (manifest.meta().name.clone(), manifest.meta().origin.line))
        .collect();
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
    let found: Vec<_> = manifests(text)
        .iter()
        .map(|manifest| {
            (manifest.kind(), manifest.meta().name.clone(), manifest.meta().origin.line)
        })
        .collect();
    let expected =
        [("Service", "tokyo", 4), ("Service", "osaka", 5), ("EndpointSlice", "am-1", 11)];
    assert_eq!(found, expected.map(|(kind, name, line)| (kind, name.to_owned(), line)));
    let half =
        "apiVersion: v1\nkind: ServiceList\nitems:\n- {kind: Service, metadata: {name: tokyo}}\n";
    assert!(
        only_error(half).starts_with("4: items[0].apiVersion: is missing"),
        "{}",
        only_error(half)
    );
}

#[test]
fn older_endpoint_slices_are_read() {
    let text = |version: &str| {
        format!(
            "apiVersion: discovery.k8s.io/{version}\nkind: EndpointSlice\nmetadata: {{name: am-1}}\n\
             endpoints: [{{addresses: [10.0.0.1], hostname: am-0}}]\nports: [{{name: web, port: 9093}}]\n"
        )
    };
    assert_eq!(manifests(&text("v1beta1")), manifests(&text("v1")));
    assert_eq!(
        only_error(&text("v1alpha1")),
        r#"1: apiVersion: must be written discovery.k8s.io/v1, is "discovery.k8s.io/v1alpha1""#
    );
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
    let slices: Vec<EndpointSlice> = manifests(text)
        .into_iter()
        .map(|manifest| {
            if let Manifest::EndpointSlice(slice) = manifest {
                slice
            } else {
                panic!("{manifest:?}")
            }
        })
        .collect();
    let addresses: Vec<Vec<&str>> = slices
        .iter()
        .map(|slice| {
            slice.endpoints.iter().flat_map(|one| &one.addresses).map(String::as_str).collect()
        })
        .collect();
    assert_eq!(addresses, [vec!["10.0.0.1", "10.0.0.2"], vec!["10.0.0.3"]]);
    assert_eq!(slices[0].endpoints[0].hostname.as_deref(), Some("am-0"));
    assert_eq!((slices[0].ports[0].port, slices[1].ports[0].port), (9093, 9095));
    assert!(slices.iter().all(|slice| slice.meta.labels["kubernetes.io/service-name"] == "am"));
    // A slice of their Service may stand beside them.
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: am, namespace: monitoring}\n";
    assert_eq!(manifests(&format!("{text}{slice}")).len(), 3);
}

#[test]
fn a_kind_that_is_nearly_one_that_is_read_is_named() {
    let wrong = |version: &str, kind: &str| {
        only_error(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"))
    };
    for (version, kind, message) in [
        ("v1", "service", r#"2: kind: must be written Service, is "service""#),
        ("v1", "Servicelist", r#"2: kind: must be written ServiceList, is "Servicelist""#),
        ("v1", "list", r#"2: kind: must be written List, is "list""#),
        ("v1", "endpoints", r#"2: kind: must be written Endpoints, is "endpoints""#),
        (
            "discovery.k8s.io/v1",
            "endpointSlice",
            r#"2: kind: must be written EndpointSlice, is "endpointSlice""#,
        ),
        ("v1beta1", "Service", r#"1: apiVersion: must be written v1, is "v1beta1""#),
        ("core/v1", "Service", r#"1: apiVersion: must be written v1, is "core/v1""#),
        ("v2", "List", r#"1: apiVersion: must be written v1, is "v2""#),
        ("v1", "EndpointSlice", r#"1: apiVersion: must be written discovery.k8s.io/v1, is "v1""#),
        (
            "discovery.k8s.io/v2",
            "EndpointSliceList",
            r#"1: apiVersion: must be written discovery.k8s.io/v1, is "discovery.k8s.io/v2""#,
        ),
    ] {
        assert_eq!(wrong(version, kind), message);
    }
    for (version, kind) in [
        ("serving.knative.dev/v1", "Service"),
        ("example.com/v1", "List"),
        ("v1", "ConfigMapList"),
        ("v1", "Pod"),
    ] {
        assert_eq!(
            manifests(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{}}\n")),
            []
        );
    }
}
